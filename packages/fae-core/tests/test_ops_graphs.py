"""Calls that are captured once per shape and replayed; on the CPU a replay is the call itself, on memory of its own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fae_core.ops import order_backends
from fae_core.ops.compiling import cannot_compile, compiles
from fae_core.ops.graphs import Captured


class Recorder:
    """Captures a call as a graph would: the replay writes the same result tensor, from the same input tensors."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        self.captures += 1
        result = call()

        def replay() -> None:
            self.replays += 1
            result.copy_(call())

        return replay, result


def test_a_call_is_captured_once_for_each_combination_of_shapes() -> None:
    recorder = Recorder()
    captured = Captured(lambda x, y: x * 2 + y, capture=recorder)
    kept = []
    for size in (3, 5, 3, 5, 3):
        x, y = torch.randn(size), torch.randn(size)
        kept.append((captured(x, y), x * 2 + y))
    assert all(torch.equal(got, want) for got, want in kept)  # results are not overwritten by later replays
    assert (recorder.captures, recorder.replays) == (2, 5)
    captured(torch.randn(3).double(), torch.randn(3))
    assert recorder.captures == 3
    captured.forget()
    captured(torch.randn(3), torch.randn(3))
    assert recorder.captures == 4


def test_old_graphs_make_room_for_new_ones() -> None:
    recorder = Recorder()
    captured = Captured(torch.sin, capture=recorder, most=2)
    for size in (1, 2, 3, 3, 2, 1):
        assert torch.equal(captured(torch.ones(size)), torch.ones(size).sin())
    assert recorder.captures == 4


def test_what_cannot_be_captured_runs_as_it_is_and_is_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def refuse(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    captured = Captured(torch.sin, capture=refuse)
    with caplog.at_level(logging.INFO, logger="fae"):
        for _ in range(3):
            assert torch.equal(captured(torch.ones(2)), torch.ones(2).sin())
    assert len(tried) == 1
    assert [r.message for r in caplog.records] == [
        "no CUDA graph for this call, it runs as it is: operation not permitted when stream is capturing"
    ]
    assert copy.deepcopy(captured) is None


def test_compile_auto_is_for_gpus_that_triton_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [compiles(setting, "cpu") for setting in (True, False, "auto")] == [True, False, False]
    assert "the model is on cpu" in str(cannot_compile("cpu"))
    from fae_core.ops import triton

    monkeypatch.setattr(triton, "MISSING", None)
    monkeypatch.setattr(triton, "capability", lambda _: 90)
    assert compiles("auto", "cuda")
    monkeypatch.setattr(triton, "capability", lambda _: 150)
    assert "15.0" in str(cannot_compile("cuda"))
    monkeypatch.setattr(triton, "MISSING", "triton is not installed")
    assert cannot_compile("cuda") == "triton is not installed"


def test_the_order_of_attention_kernels_changes_on_hopper_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from fae_core.ops import attention

    module = __import__("sys").modules[attention.__module__]
    before = torch._C._get_sdp_priority_order()
    monkeypatch.setattr(module, "_first", None)
    assert order_backends("cpu") is None
    monkeypatch.setattr(module, "capability", lambda _: 80)
    assert order_backends("cuda") is None
    assert torch._C._get_sdp_priority_order() == before
    monkeypatch.setattr(module, "capability", lambda _: 90)
    try:
        assert order_backends("cuda") == "sdpa-cudnn"
        assert torch._C._get_sdp_priority_order()[0] == torch.nn.attention.SDPBackend.CUDNN_ATTENTION.value
        assert sorted(torch._C._get_sdp_priority_order()) == sorted(before)
    finally:
        torch._C._set_sdp_priority_order(before)
