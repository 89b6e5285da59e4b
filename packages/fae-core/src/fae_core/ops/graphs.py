"""A function of tensors as CUDA graphs: captured once per combination of shapes, replayed without the host's work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import first_line

log = logging.getLogger("fae")

Function = Callable[..., Tensor]
Replay = Callable[[], object]
Capture = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]

_WARM_UP = 2


@dataclass
class _Graph:
    inputs: tuple[Tensor, ...]
    replay: Replay
    result: Tensor


class Captured:
    """A function whose calls are replayed. What cannot be captured is called as it is, and said once.

    The function is a pure function of its arguments and of tensors whose memory stays where it is; it neither waits for
    the device nor draws random numbers.

    Args:
        function: From tensors to a tensor.
        capture: Captures a call: gives what replays it, and its result; None: as a CUDA graph.
        most: How many combinations of shapes are kept; the oldest goes first, with its memory.
    """

    def __init__(self, function: Function, *, capture: Capture | None = None, most: int = 4) -> None:
        self._function, self._capture, self._most = function, capture or cuda_graph, most
        self._graphs: dict[tuple[Any, ...], _Graph | None] = {}

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The function's result, a tensor of its own."""
        key = tuple((t.shape, t.dtype, t.device) for t in tensors)
        if key not in self._graphs:
            if len(self._graphs) >= self._most:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = self._captured(tensors)
        graph = self._graphs[key]
        if graph is None:
            return self._function(*tensors)
        for static, given in zip(graph.inputs, tensors, strict=True):
            static.copy_(given)
        graph.replay()
        return graph.result.clone()

    def forget(self) -> None:
        """Capture anew, because memory that the function reads has moved."""
        self._graphs.clear()

    def __deepcopy__(self, memo: object) -> None:
        """A copy of a model captures for itself."""
        return

    def _captured(self, tensors: tuple[Tensor, ...]) -> _Graph | None:
        inputs = tuple(t.clone() for t in tensors)
        try:
            replay, result = self._capture(lambda: self._function(*inputs))
        except RuntimeError as error:
            log.info("no CUDA graph for this call, it runs as it is: %s", first_line(error))
            return None
        return _Graph(inputs, replay, result)


def cuda_graph(call: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
    """Capture a call as a CUDA graph.

    Args:
        call: Is called a few times before, on a stream of its own, so that kernels are loaded.

    Returns:
        What replays it, and its result, which every replay overwrites.

    Raises:
        RuntimeError: The call does something that a graph cannot hold.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph.replay, result
