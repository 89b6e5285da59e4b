"""Clocks that the benchmarks share: a process's own, and how long the device works on a function."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

_FLUSH_BYTES = 2**28  # several times any L2 cache


def now(device: str) -> float:
    """CPU seconds on the CPU, wall seconds with the queue drained on a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(function: Callable[[], object], device: str) -> float:
    """What one call takes, by `now`."""
    start = now(device)
    function()
    return now(device) - start


def device_milliseconds(function: Callable[[], object], *, calls: int = 8, replays: int = 5) -> float:
    """Median milliseconds of one call, its inputs not in the L2 cache.

    Calls are captured in a CUDA graph, so that neither Python nor the launches count, each after a read of a large
    buffer that fills the cache with clean lines; what the reads alone take is subtracted.
    """
    buffer = torch.zeros(_FLUSH_BYTES // 4, device="cuda")

    def flush() -> object:
        return buffer.sum()

    def flush_and_call() -> object:
        flush()
        return function()

    both, alone = (_captured(work, calls) for work in (flush_and_call, flush))
    return max(statistics.median(_replay(both, replays)) - statistics.median(_replay(alone, replays)), 0.0) / calls


def copy_bytes_per_second() -> float:
    """What a large copy within device memory moves, read and written. (In a graph it would be slower.)"""
    from triton.testing import do_bench

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / do_bench(lambda: target.copy_(source), return_mode="median") * 1e3


def _captured(function: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    return graph


def _replay(graph: torch.cuda.CUDAGraph, replays: int) -> list[float]:
    found = []
    for number in range(replays + 1):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        if number:
            found.append(begun.elapsed_time(ended))
    return found
