"""The contest between backends: what it hears, what it measures, what it keeps, and when it does nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fae_core import ops
from fae_core.documents import read_json
from fae_core.ops import dispatch, measured, triton
from fae_core.ops.tune import why_not

needs_triton = pytest.mark.skipif(triton.MISSING is not None, reason=str(triton.MISSING))
Call = Callable[[], object]


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(measured, "TIMES", {})
    monkeypatch.delenv("FAE_OPS_BACKEND", raising=False)
    dispatch.forget_choices()
    yield
    dispatch.forget_choices()


def model(dtype: torch.dtype = torch.bfloat16) -> Call:
    """Calls of a small block, twice, on fake CUDA tensors."""

    def half(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="cuda", dtype=dtype)

    x, row, qkv, weight = half(2, 16, 128), half(2, 128), half(2, 16, 3, 2, 64), half(64)
    turn = torch.empty(16, 32, device="cuda")

    def run() -> None:
        for _ in range(2):
            ops.adaln(x, row, row)
            ops.self_attention(qkv, turn, turn, q_weight=weight, k_weight=weight)
            ops.attention(half(2, 2, 5, 64), half(2, 2, 16, 64), half(2, 2, 16, 64), mask=half(5, 16).bool())

    return run


def stopwatch(times: dict[str, float], seen: list[str]) -> Callable[[Call], float]:
    """Gives what `times` has for torch's own way of an op, else 1. SDPA on fake tensors would need a device."""

    def timer(call: Call) -> float:
        seen.append(dispatch.forced[0] if dispatch.forced else "ours")
        return times.get(seen[-1], 1.0)

    return timer


@needs_triton
def test_each_call_is_measured_once_on_the_backends_that_take_it_and_kept(tmp_path: Path) -> None:
    seen: list[str] = []
    with FakeTensorMode():
        run = model()
        found = ops.tune(run, training=False, folder=tmp_path, timer=stopwatch({"adaln": 2.0}, seen))
        assert [case[:2] for case in found] == [
            ("attention", (2, 2, 16, 64)),
            ("apply_rope", (2, 2, 16, 64)),
            ("qk_norm_rope", (2, 16, 3, 2, 64)),
            ("self_attention", (2, 2, 16, 64)),
            ("adaln", (2, 16, 128)),
        ]
        case = measured.case("adaln", (2, 16, 128), torch.bfloat16, training=False, compiled=False)
        assert found[case] == {"torch": 2.0, "triton": 1.0}
        attention = found[measured.case("attention", (2, 2, 16, 64), torch.bfloat16, training=False, compiled=False)]
        assert {"torch", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient"} <= set(attention)
        with torch.no_grad():
            explanation = ops.explain("adaln", torch.empty(2, 16, 128, device="cuda", dtype=torch.bfloat16))
        assert explanation.backend == "triton"
        assert "measured here, ms: torch 2.000, triton 1.000" in explanation.reason
        count = len(seen)
        again = ops.tune(run, training=False, folder=tmp_path, timer=stopwatch({}, seen))
        assert (again, len(seen)) == (found, count)  # nothing is measured twice
        ops.tune(run, training=True, folder=tmp_path, timer=stopwatch({}, seen))
        assert len(seen) > count  # with the backward pass it is another case
    (file,) = tmp_path.iterdir()
    assert measured.parse(read_json(file)) == measured.TIMES


@needs_triton
def test_what_other_threads_draw_while_times_are_taken_is_not_drawn_again(tmp_path: Path) -> None:
    def timer(call: Call) -> float:
        with ThreadPoolExecutor(1) as other:
            drawn.append(other.submit(torch.randn, 4).result())
        return 1.0

    drawn: list[torch.Tensor] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with FakeTensorMode():
            ops.tune(model(), folder=tmp_path, timer=timer)
        drawn.append(torch.randn(4))
        torch.manual_seed(0)
        assert len(drawn) > 1 and all(torch.equal(was, torch.randn(4)) for was in drawn)


@needs_triton
def test_a_backend_that_fails_loses_and_torch_is_never_left_out(tmp_path: Path) -> None:
    def timer(call: Call) -> float:
        if dispatch.forced is None:
            raise RuntimeError("no kernel image")
        return 1.0

    def nothing(call: Call) -> float:
        raise RuntimeError("out of memory")

    with FakeTensorMode():
        assert all(list(times) == ["torch"] for times in ops.tune(model(), folder=tmp_path, timer=timer).values())
        measured.TIMES.clear()
        assert ops.tune(model(), folder=tmp_path, timer=nothing) == {}
    assert dispatch.forced is None
    assert dispatch.heard is None


def test_nothing_is_measured_without_a_device_or_where_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    if not torch.cuda.is_available():
        assert why_not() == "there is no CUDA device"
        assert ops.tune(lambda: calls.append(1)) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert why_not() == "a CUDA graph is being captured"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setenv("FAE_OPS_TUNE", "0")
    assert why_not() == "FAE_OPS_TUNE=0"
    monkeypatch.delenv("FAE_OPS_TUNE")
    torch.use_deterministic_algorithms(True)
    try:
        assert why_not() == "deterministic algorithms are asked for"
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "AMD" in str(why_not())
    assert not calls


def test_an_error_of_the_program_leaves_nothing_behind() -> None:
    def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        ops.tune(fails, timer=lambda call: 1.0)
    assert dispatch.heard is None


def test_torch_stays_where_another_is_hardly_faster() -> None:
    assert measured.best({"torch": 1.0, "triton": 0.98}) == "torch"
    assert measured.best({"torch": 1.0, "triton": 0.9, "sdpa-cudnn": 0.8}) == "sdpa-cudnn"
    assert measured.best({"torch": 1.0}) == "torch"
