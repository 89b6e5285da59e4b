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
from fae_core.errors import FAEError, InvalidFile
from fae_core.ops import triton
from fae_core.ops.triton import wins

needs_triton = pytest.mark.skipif(triton.MISSING is not None, reason=str(triton.MISSING))
OPS = ("attention", "rope_attention", "self_attention", "rms_norm", "adaln", "apply_rope", "qk_norm_rope")


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


@needs_triton
@pytest.mark.parametrize(
    ("model", "arch", "dtype"),
    [
        ("DiT-XL", "sm_90", torch.bfloat16),
        ("decoder", "sm_80", torch.float16),
        ("decoder", "sm_100", torch.bfloat16),
        ("adapter", "sm_90", torch.float32),
    ],
)
def test_kernels_compile_within_the_limits(
    model: str, arch: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tools/checks/kernels.py` does this for every shape, architecture and dtype."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from fae_core.testing.kernel_resources import SHAPES, compile_launch, launches

    shape = next(s for s in SHAPES if s.model == model)
    found = [compile_launch(launch, arch) for launch in launches(shape, arch, dtype)]
    assert [problem for row in found for problem in row.problems()] == []
    names = {row.kernel for row in found}
    fused = {"rope_attention.forward", "rope_attention_backward.dq", "rope_attention_backward.dkv"}
    assert names & fused == (fused if model != "adapter" else set())
    assert all((row.wgmma > 0) == (arch == "sm_90") for row in found if row.kernel in fused)


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


@needs_triton
@pytest.mark.parametrize("op", OPS)
def test_cuda_takes_torch_until_the_table_of_wins_says_otherwise(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        tensors = operands(op, "cuda", torch.bfloat16)
        monkeypatch.setattr(wins, "capability", lambda _: 90)
        monkeypatch.setattr(wins, "ROWS", {})
        assert ops.explain(op, *tensors).backend in ("sdpa", "reference")
        shape = "width=64" if op in ("rms_norm", "adaln") else "head_dim=64"
        shape += ",tokens=256" if "attention" in op else ""
        row = ("sm_90", op, shape, "bfloat16", "eager")
        monkeypatch.setattr(wins, "ROWS", {row: False})
        assert ops.explain(op, *tensors).backend in ("sdpa", "reference")
        with torch.no_grad():
            assert ops.explain(op, *tensors).backend == "triton"
        monkeypatch.setattr(wins, "ROWS", {row: True})
        explanation = ops.explain(op, *tensors)
        assert (explanation.backend, "measured wins" in explanation.reason) == ("triton", True)
        assert ops.explain(op, *tensors, backend="reference").backend == "reference"
        for other in (("sm_80", *row[1:]), (*row[:3], "float16", "eager"), (*row[:4], "compile")):
            monkeypatch.setattr(wins, "ROWS", {other: True})
            assert ops.explain(op, *tensors).backend in ("sdpa", "reference")


def test_the_table_of_wins_is_read_strictly(tmp_path: Path) -> None:
    row = {"arch": "sm_90", "op": "adaln", "shape": "width=1152", "dtype": "bfloat16", "against": "eager"}
    path = tmp_path / "wins.json"
    times = [(1.5, 2.0), (1.0, 2.0), (2.0, 1.04)]
    rows = [{**row, "op": f"op{i}", "forward": f, "forward_backward": b} for i, (f, b) in enumerate(times)]
    path.write_text(json.dumps({"format": 1, "wins": rows}))
    assert wins.parse(path) == {
        ("sm_90", name, "width=1152", "bfloat16", "eager"): trains for name, trains in (("op0", True), ("op2", False))
    }
    for broken in (
        {"format": 2, "wins": []},
        {"format": 1},
        {"format": 1, "wins": [row]},
        {"format": 1, "wins": ["x"]},
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(InvalidFile, match=r"wins\.json"):
            wins.parse(path)
    assert wins.parse(wins.TABLE) == wins.ROWS


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
