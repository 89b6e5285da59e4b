"""The Triton kernels without a GPU: interpreted, compiled ahead of time, and chosen as the dispatcher promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fae_core import ops
from fae_core.errors import FAEError
from fae_core.ops import measured, triton

needs_triton = pytest.mark.skipif(triton.MISSING is not None, reason=str(triton.MISSING))
OPS = ("attention", "rope_attention", "self_attention", "rms_norm", "adaln", "apply_rope", "qk_norm_rope", "swiglu")


def interpreted(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process in which triton interprets its kernels."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def operands(op: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    packed = op in ("self_attention", "qk_norm_rope")
    shape = (1, 256, 3, 2, 64) if packed else (1, 2, 256, 64)
    return [torch.empty(shape, device=device, dtype=dtype)] * (3 if op in ("attention", "rope_attention") else 1)


@pytest.mark.slow
@needs_triton
def test_the_interpreted_kernels_keep_the_accuracy_contract() -> None:
    process = interpreted("-m", "fae_core.testing.kernel_accuracy", "--json", "--count", "1", "--seed", "1")
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, process.stderr + "\n".join(str(row) for row in rows if not row["kept"])
    assert {row["op"] for row in rows} == set(OPS)
    assert {row["dtype"] for row in rows} == {"float32", "float16"}
    assert all(row["error"] <= {"float32": 1e-5, "float16": 1e-3}[row["dtype"]] for row in rows)


@pytest.mark.slow
@needs_triton
def test_the_interpreted_ops_behave() -> None:
    file = Path(__file__).with_name("interpreted_ops.py")
    process = interpreted("-m", "pytest", "-q", "-p", "no:cacheprovider", str(file))
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]


@pytest.mark.slow
@needs_triton
def test_every_interpreted_kernel_agrees_with_double_precision() -> None:
    file = Path(__file__).with_name("interpreted_kernels.py")
    process = interpreted("-m", "pytest", "-q", "-p", "no:cacheprovider", str(file))
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]


@needs_triton
@pytest.mark.parametrize(
    ("model", "arch", "dtype"),
    [
        ("DiT-XL", "sm_90", torch.bfloat16),
        ("decoder", "sm_80", torch.float16),
        ("decoder", "sm_100", torch.bfloat16),
    ],
)
def test_kernels_compile_within_the_limits(
    model: str, arch: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tools/checks/kernels.py` does this for every shape, architecture and dtype."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from fae_core.testing.kernel_resources import SHAPES, calls, compile_launch

    shape = next(s for s in SHAPES if s.model == model)
    found = [(call, [compile_launch(launch, arch) for launch in call.launches]) for call in calls(shape, arch, dtype)]
    assert all(0 < len(rows) <= (1 if call.name.endswith("forward") else 2) for call, rows in found)
    assert [problem for call, rows in found for row in rows for problem in row.problems(call)] == []


@needs_triton
@pytest.mark.parametrize("op", OPS)
def test_on_the_cpu_triton_is_refused_with_the_way_out(op: str) -> None:
    for backend in ({"backend": "triton"}, {}):
        with ops.backend("triton"), pytest.raises(FAEError, match="are on cpu; TRITON_INTERPRET=1"):
            ops.explain(op, *operands(op), **backend)


def test_calls_on_the_cpu_are_refused_as_explained() -> None:
    x = torch.zeros(1, 2, 8)
    for call in (
        lambda: ops.rms_norm(x, backend="triton"),
        lambda: ops.adaln(x, x[:, 0], backend="triton"),
        lambda: ops.qk_norm_rope(torch.zeros(1, 2, 3, 1, 8), backend="triton"),
        lambda: ops.self_attention(torch.zeros(1, 2, 3, 1, 64), backend="triton"),
        lambda: ops.apply_rope(x[None], torch.zeros(2, 4), torch.zeros(2, 4), backend="triton"),
        lambda: ops.attention(x[None], x[None], x[None], backend="triton"),
    ):
        with pytest.raises(FAEError, match="'triton' was asked for but cannot run: "):
            call()
    with pytest.raises(FAEError, match=r"rms_norm backend 'sdpa' .*computes attention only"):
        ops.rms_norm(x, backend="sdpa")


@pytest.mark.parametrize("op", OPS)
def test_every_op_explains_itself_and_is_plain_torch_on_the_cpu(op: str) -> None:
    explanation = ops.explain(op, *operands(op))
    assert explanation.op == op
    assert explanation.backend in ("sdpa", "reference")
    assert explanation.rejected["triton"]


def large(op: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Fake CUDA tensors of 8 MiB in half precision."""
    packed = op in ("self_attention", "qk_norm_rope")
    shape = (
        (8, 256, 3, 16, 64) if packed else (32, 16, 256, 64) if "attention" in op or "rope" in op else (64, 256, 256)
    )
    return [torch.empty(shape, device="cuda", dtype=dtype)] * (3 if op in ("attention", "rope_attention") else 1)


@needs_triton
@pytest.mark.parametrize("op", OPS)
def test_on_cuda_a_rule_chooses_until_something_is_measured(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "TIMES", {})
    plain = "sdpa" if "attention" in op else "reference"
    with FakeTensorMode():
        half, full, small = large(op, torch.bfloat16), large(op, torch.float32), operands(op, "cuda", torch.bfloat16)
        explanation = ops.explain(op, *half)
        assert explanation.backend == ("triton" if op in measured.RULE_OPS else plain)
        assert "not measured" in explanation.reason + str(explanation.rejected)
        for others in (full, small):
            assert ops.explain(op, *others).backend == plain
        monkeypatch.setenv(measured.VARIABLE, "0")
        assert ops.explain(op, *half).backend == plain
        assert "FAE_OPS_TUNE=0" in str(ops.explain(op, *half))
        monkeypatch.delenv(measured.VARIABLE)
        torch.use_deterministic_algorithms(True)
        try:
            assert ops.explain(op, *half).backend == plain
        finally:
            torch.use_deterministic_algorithms(False)


@needs_triton
@pytest.mark.parametrize("op", OPS)
def test_what_was_measured_goes_before_the_rule(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times: dict[measured.Case, dict[str, float]] = {}
    monkeypatch.setattr(measured, "TIMES", times)
    plain = "sdpa" if "attention" in op else "reference"
    with FakeTensorMode():
        tensors = large(op, torch.bfloat16)
        shape = (8, 16, 256, 64) if op == "self_attention" else tuple(tensors[0].shape)
        case = measured.case(op, shape, torch.bfloat16, training=True, compiled=False)
        times[case] = {"torch": 1.0, "triton": 1.2}
        assert ops.explain(op, *tensors).backend == plain
        times[case] = {"torch": 1.0, "triton": 0.5}
        explanation = ops.explain(op, *tensors)
        assert explanation.backend == "triton"
        assert "measured here, ms: torch 1.000, triton 0.500" in explanation.reason
        assert ops.explain(op, *tensors, backend="reference").backend == "reference"
        times[case] = {"torch": 1.0, "triton": 0.98}  # not worth it
        assert ops.explain(op, *tensors).backend == plain
        for other in ((shape[0] + 1, *shape[1:]), shape):
            times.clear()
            training = other != shape
            times[measured.case(op, other, torch.bfloat16, training=training, compiled=False)] = {"triton": 0.5}
            assert ops.explain(op, *tensors).backend == ("triton" if op in measured.RULE_OPS else plain)
        with torch.no_grad():
            assert "measured here" in ops.explain(op, *tensors).reason
        if op == "attention":
            times[case] = {"torch": 1.0, "sdpa-cudnn": 0.7, "triton": 0.9}
            assert ops.explain(op, *tensors).backend == "sdpa-cudnn"
            masked = ops.explain(op, *tensors, mask=torch.ones(256, 256, dtype=torch.bool, device="cuda"))
            assert masked.backend == "sdpa"


@needs_triton
@pytest.mark.parametrize("op", OPS)
def test_devices_that_nobody_tried_are_left_to_torch_with_the_reason(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        tensors = large(op, torch.bfloat16)
        monkeypatch.setattr(triton, "capability", lambda _: 150)
        explanation = ops.explain(op, *tensors)
        assert explanation.backend in ("sdpa", "reference")
        assert "not been tried on compute capability 15.0" in explanation.rejected["triton"]
        monkeypatch.setattr(torch.version, "hip", "7.0")
        explanation = ops.explain(op, *tensors)
        assert explanation.backend in ("sdpa", "reference")
        assert "AMD" in explanation.rejected["triton"]


def test_a_record_of_times_is_read_as_it_was_written_and_strictly() -> None:
    times = {
        ("adaln", (64, 256, 1152), "bfloat16", True, False): {"torch": 2.0, "triton": 1.0},
        ("attention", (8, 16, 256, 72), "float16", False, True): {"sdpa-cudnn": 0.5},
    }
    record = json.loads(json.dumps(measured.as_record(times)))
    assert measured.parse(record) == times
    assert {"device", "driver", "torch", "triton"} <= set(record)
    broken = [
        {**record, "format": 2},
        {"format": 1},
        {**record, "cases": ["x"]},
        {**record, "cases": [{"op": "adaln"}]},
    ]
    for wrong in broken:
        with pytest.raises(FAEError, match="not a record of measured kernels"):
            measured.parse(wrong)


def test_without_triton_everything_imports_and_says_what_is_missing() -> None:
    code = """
import sys
sys.modules["triton"] = None  # what an absent package looks like to an import
import torch
from fae_core import ops
x = torch.zeros(1, 4, 3, 2, 64)
print(ops.explain("rms_norm", x).rejected["triton"])
print(tuple(ops.self_attention(x).shape))
try:
    ops.rms_norm(x, backend="triton")
except Exception as error:
    print(type(error).__name__, error)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = process.stdout.splitlines()
    assert process.returncode == 0, process.stderr
    assert lines[0].startswith("triton is not installed")
    assert lines[1] == "(1, 2, 4, 64)"
    assert lines[2].startswith(
        "FAEError rms_norm backend 'triton' was asked for but cannot run: triton is not installed"
    )


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernels_keep_the_accuracy_contract_on_this_gpu() -> None:
    from fae_core.testing.kernel_accuracy import check

    assert [str(row) for row in check(count=3) if not (row.kept and row.repeatable)] == []
