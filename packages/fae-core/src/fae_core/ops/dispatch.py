"""Which backend a call takes, and why.

A backend is named by the caller (`backend=`), pinned for a scope (`with ops.backend(...)`) or for the process
(`FAE_OPS_BACKEND`), or chosen here. One that was named and cannot run the call raises FAEError with the reason; no
other one is taken instead.

Backends are "reference" (plain torch, which torch.compile fuses), "triton" (our kernels), and for attention those of
torch's scaled_dot_product_attention and xformers, which is experimental: never chosen, and not timed on a GPU. Some ops
have only some of them:

- An attention backend that is pinned leaves norms and rotations to plain torch; named on the call of such an op it
  raises.
- "triton" does norms, rotations and SwiGLU everywhere, and attention of head dimensions 64 and 72. Beyond that,
  `rope_attention` and `self_attention` run our norm and rotation and then torch's attention; plain `attention` does so
  too where "triton" is pinned, and raises where it was named on the call.

Chosen here: on the CPU plain torch and scaled_dot_product_attention; on CUDA what `fae_core.ops.tune` measured to be
fastest for the call's shapes, and where nothing was measured the same as on the CPU, but for large calls in half
precision of the ops in `measured.RULE_OPS`, which take our kernels in eager mode. AMD's devices, and those that triton
was not tried on, are left to torch. A choice is made once for each combination of devices, dtypes and shapes.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from fae_core.errors import UnknownName
from fae_core.ops import measured
from fae_core.ops.door import Door, is_watched
from fae_core.ops.triton.repeated import MOST, describe

if TYPE_CHECKING:
    from fae_core.ops.choosing import Explanation

# torch's attention kernels; the backend "sdpa" lets torch choose one.
SDPA_KERNELS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
BACKENDS = ("auto", "sdpa", *SDPA_KERNELS, "xformers", "triton", "reference")
_pinned: contextvars.ContextVar[str | None] = contextvars.ContextVar("fae_ops_backend", default=None)
# A copy for torch.compile: torch 2.11's tracer breaks the graph at a ContextVar, but guards a module's global.
_pinned_while_tracing: str | None = None

forced: tuple[str, str] | None = None
"""An op and the backend that it takes whatever else is asked for; set by `fae_core.ops.tune` while it measures one."""

heard: dict[tuple[str, tuple[Any, ...]], None] | None = None
"""Where calls are noted, ops and inputs, tensors as `Described`, while `fae_core.ops.tune` listens."""


class Described(NamedTuple):
    """A tensor of a call without what it holds."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class backend:
    """Pin a backend from here on, or within a `with` block.

    Args:
        name: One of `BACKENDS`; "auto" unpins.

    Raises:
        UnknownName: The name is not in `BACKENDS`.
    """

    def __init__(self, name: str) -> None:
        self._token = _pinned.set(None if _known(name) == "auto" else name)
        _mirror_pinned()

    def __enter__(self) -> backend:
        return self

    def __exit__(self, *_: object) -> None:
        _pinned.reset(self._token)
        _mirror_pinned()


def _mirror_pinned() -> None:
    global _pinned_while_tracing
    _pinned_while_tracing = _pinned.get()


_chosen: dict[tuple[Any, ...], str] = {}
# Counts how often choices were forgotten.
_turn = 0


def through(door: Door, inputs: tuple[Any, ...], choose: Callable[[], Explanation], requested: str | None) -> Any:
    """The results of our kernel where it is chosen, which is looked up with the call's plan; None: torch runs the call.

    Args:
        door: Of the op.
        inputs: Of the door.
        choose: Makes the choice, once for all calls that differ in nothing that a choice depends on.
        requested: The backend named on the call.

    Raises:
        FAEError: The requested backend cannot run the call.
    """
    if forced is not None and forced[0] == door.op.name:
        return None
    if torch.compiler.is_compiling():
        return door(*inputs) if choose().backend == "triton" else None
    if heard is not None:
        _hear(door.op.name, inputs)
    return door.take(inputs, _asked(requested), lambda: choose().backend == "triton")


def decide(op: str, inputs: tuple[Any, ...], choose: Callable[[], Explanation], requested: str | None) -> str:
    """The backend of an attention op's call, chosen once like that of `through`.

    Args:
        op: Name of the op.
        inputs: Of the call.
        choose: Makes the choice.
        requested: The backend named on the call.

    Raises:
        FAEError: The requested backend cannot run the call.
    """
    if forced is not None and forced[0] == op:
        return forced[1]
    if torch.compiler.is_compiling():
        return choose().backend
    if heard is not None:
        _hear(op, inputs)
    if is_watched():
        return choose().backend
    key = [op, torch.is_grad_enabled(), *_asked(requested)]
    describe(inputs, key)
    found = tuple(key)
    backend = _chosen.get(found)
    if backend is None:
        backend = choose().backend
        if len(_chosen) >= MOST:
            _chosen.clear()
        _chosen[found] = backend
    return backend


def _hear(op: str, inputs: tuple[Any, ...]) -> None:
    described = (Described(x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x for x in inputs)
    if heard is not None:
        heard[op, tuple(described)] = None


def _asked(requested: str | None) -> tuple[Any, ...]:
    """All that a choice depends on beside the call's inputs and whether gradients are recorded."""
    name = requested_backend(requested)
    if name is not None:
        return name, requested is None
    return _turn, torch.are_deterministic_algorithms_enabled(), os.environ.get(measured.VARIABLE)


def forget_choices() -> None:
    """Choose anew, because more was measured."""
    global _turn
    _turn += 1


def requested_backend(explicit: str | None) -> str | None:
    """The backend that was asked for: named on the call, else pinned, else in the environment; None: none of them.

    Args:
        explicit: The one named on the call.

    Raises:
        UnknownName: The name is not in `BACKENDS`.
    """
    pinned = _pinned_while_tracing if torch.compiler.is_compiling() else _pinned.get()
    name = explicit or pinned or os.environ.get("FAE_OPS_BACKEND")
    return None if name is None or _known(name) == "auto" else name


def nothing_to_choose(x: Tensor, requested: str | None) -> bool:
    """Whether a call goes to torch without any choice. This is the common case, so it is answered first and fast.

    Args:
        x: A tensor of the call.
        requested: The backend named on the call.
    """
    if requested is not None:
        return False
    if torch.compiler.is_compiling():
        return requested_backend(None) is None and not (measured.TIMES or forced)
    return not x.is_cuda and requested_backend(None) is None


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise UnknownName("ops backend", name, BACKENDS)
    return name
