"""How a call reaches a kernel: launched directly, as an autograd.Function, or as a torch.library operator.

- Nothing is differentiated: the kernel is launched, and only what the caller sees is returned.
- Something is: an autograd.Function does the same and keeps what the gradient needs, which is no result.
- torch.compile, torch.export, torch.jit.trace, torch.func, forward-mode differentiation, a dispatch mode or a tensor
  subclass watches: a registered operator `torch.ops.fae.NAME`, with a fake implementation and autograd. What its
  gradient needs are results of it, but nothing differentiable.

An operator costs several times as much on the host as the first two ways (docs/benchmarks/host-cost.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fae_core.errors import FAEError
from fae_core.ops import triton
from fae_core.ops.triton.plans import Results
from fae_core.ops.triton.repeated import MOST, Planned, describe

Saved = tuple[tuple[Tensor | None, ...], tuple[Any, ...]]

_LIBRARY = torch.library.Library("fae", "FRAGMENT")
_functorch_is_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state
_PLAIN_TYPES = frozenset({Tensor, torch.nn.Parameter, torch.nn.Buffer, type(None), bool, int, float, torch.dtype})


def _yes() -> bool:
    return True


class NoSecondDerivative(FAEError, RuntimeError):
    """A gradient of a kernel's gradient was asked for; also a RuntimeError, which torch raises in such a case."""


@dataclass(frozen=True)
class Description:
    """An op: its kernels, the same in plain torch, and what its gradient needs.

    Attributes:
        name: Of the operator, torch.ops.fae.NAME.
        schema: The inputs, tensors before options, and the results, those that callers see first, as torch.library
            writes them: "(Tensor x, Tensor? weight, float eps) -> (Tensor, Tensor)".
        results: How many results callers see.
        differentiable: Places of the inputs that have a gradient, in the order of the gradients.
        kernel: From inputs to results, by kernels. Absent results are None.
        plain: The same in plain torch, where no kernel runs.
        save: From inputs and results to what the gradient needs: tensors, and options.
        gradient_schema: Inputs are one optional tensor for each result that callers see, then what `save` gives;
            results are the gradients; those of absent inputs are None. None: see `gradient`.
        gradient_kernel: From those to the gradients, by kernels; None where there is none.
        gradient_plain: The same in plain torch.
        gradient: Where the gradient is the op itself on other inputs: from the door, and the inputs that
            `gradient_schema` would have, to the gradients.
    """

    name: str
    schema: str
    results: int
    differentiable: tuple[int, ...]
    kernel: Callable[..., Results]
    plain: Callable[..., Results]
    save: Callable[[tuple[Any, ...], Results], Saved]
    gradient_schema: str | None = None
    gradient_kernel: Callable[..., Results] | None = None
    gradient_plain: Callable[..., Results] | None = None
    gradient: Callable[..., Results] | None = None


class Door:
    """An op as models call it, and its operator.

    Args:
        op: What is behind the door.
    """

    def __init__(self, op: Description) -> None:
        self.op = op
        self._kernel = Planned(op.kernel)
        self._known: dict[tuple[Any, ...], _Known] = {}
        self.operator = _register(op.name, op.schema, op.kernel, op.plain)
        torch.library.register_autograd(
            f"fae::{op.name}", self._operator_gradients, setup_context=self._setup, lib=_LIBRARY
        )
        if op.gradient is None:
            name = f"{op.name}_backward"
            self.gradient_operator = _register(name, op.gradient_schema, op.gradient_kernel, op.gradient_plain)
            torch.library.register_autograd(f"fae::{name}", _refuse(name), lib=_LIBRARY)

    def __call__(self, *inputs: Any) -> Any:
        """The results that callers see: one tensor, or a tuple; None, or an empty tensor, for those that are absent."""
        return self.take(inputs)

    def take(self, inputs: tuple[Any, ...], asked: tuple[Any, ...] = (), is_chosen: Callable[[], bool] = _yes) -> Any:
        """The results, or None where the op is left to torch. This is the path of every call, and looks up once.

        Args:
            inputs: Of the op.
            asked: All that `is_chosen` depends on beside the inputs' metadata.
            is_chosen: Whether to go through the door; asked once for calls that differ in nothing else.
        """
        if is_watched() or not _PLAIN_TYPES.issuperset(map(type, inputs)):
            return self._seen(_as_tuple(self.operator(*inputs))) if is_chosen() else None
        key = [torch.is_grad_enabled(), *asked]
        tensors, addresses = describe(inputs, key)
        found = tuple(key)
        known = self._known.get(found)
        if known is None:
            known = self._learn(found, inputs, tensors, is_chosen)
        if not known.taken:
            return None
        if known.differentiated:
            return _Differentiated.apply((self, known, inputs, tensors, addresses), *tensors)
        return self._seen(known.run(inputs, tensors, addresses))

    def gradients(
        self, known: _Known | None, gradients: Results, saved: tuple[Tensor | None, ...], options: tuple[Any, ...]
    ) -> Results:
        """The gradients of the inputs that may have one.

        Args:
            known: Of the call; None: it was an operator.
            gradients: Of the results.
            saved: The tensors that the op saved.
            options: The rest that the op saved.
        """
        inputs = (*gradients, *saved, *options)
        if self.op.gradient is not None:
            return self.op.gradient(self, *inputs)
        if known is None or torch.is_grad_enabled() or is_watched() or not _PLAIN_TYPES.issuperset(map(type, inputs)):
            # Where a gradient of the gradient may be wanted, the operator refuses it.
            return _as_tuple(self.gradient_operator(*inputs))
        if known.gradient is None:
            plain: Any = self.op.gradient_plain
            return plain(*inputs)
        return known.gradient(*gradients, kept=saved, options=options)

    def _learn(
        self, key: tuple[Any, ...], inputs: tuple[Any, ...], tensors: list[Tensor], is_chosen: Callable[[], bool]
    ) -> _Known:
        run: Any = lambda inputs, *_: self.op.plain(*inputs)  # noqa: E731
        gradient = None
        if _has_kernels(inputs):
            run = self._kernel.repeated(tensors)
            gradient = None if self.op.gradient_kernel is None else Planned(self.op.gradient_kernel)
        differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        places = tuple(p for p, x in zip(self._places(inputs), inputs, strict=True) if isinstance(x, Tensor))
        known = _Known(is_chosen(), differentiated, run, gradient, places)
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = known
        return known

    def _places(self, inputs: tuple[Any, ...]) -> tuple[int | None, ...]:
        """For each input which of the op's gradients is its, or None."""
        order = {place: i for i, place in enumerate(self.op.differentiable)}
        return tuple(order.get(place) if isinstance(x, Tensor) else None for place, x in enumerate(inputs))

    def _seen(self, results: Any) -> Any:
        return results[0] if self.op.results == 1 else tuple(results[: self.op.results])

    def _setup(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = _as_tuple(output)
        _keep(ctx, self, None, self._places(inputs), inputs, results)
        ctx.mark_non_differentiable(*results[self.op.results :])

    def _operator_gradients(self, ctx: Any, *gradients: Tensor | None) -> Any:
        return _gradients(ctx, gradients[: self.op.results])


@dataclass(frozen=True, slots=True)
class _Known:
    """What holds for all calls of one key.

    Attributes:
        taken: Whether they go through the door.
        differentiated: Whether autograd wants to know.
        run: From inputs, tensors and addresses to results; see `Repeated`.
        gradient: The kernel of the gradient; None where there is none, or none for this device.
        places: For each tensor of the inputs which of the op's gradients is its, or None.
    """

    taken: bool
    differentiated: bool
    run: Callable[[tuple[Any, ...], list[Tensor], list[int]], Results]
    gradient: Planned | None
    places: tuple[int | None, ...]


class _Differentiated(torch.autograd.Function):
    """The eager way where a gradient is wanted."""

    @staticmethod
    def forward(ctx: Any, call: tuple[Door, _Known, tuple[Any, ...], list[Tensor], list[int]], *_: Tensor) -> Any:
        door, known, inputs, tensors, addresses = call
        results = known.run(inputs, tensors, addresses)
        _keep(ctx, door, known, known.places, inputs, results)
        return door._seen(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, *_gradients(ctx, gradients)


def _keep(
    ctx: Any,
    door: Door,
    known: _Known | None,
    places: tuple[int | None, ...],
    inputs: tuple[Any, ...],
    results: Results,
) -> None:
    tensors, options = door.op.save(inputs, results)
    ctx.save_for_backward(*tensors)
    ctx.kept = door, known, places, options
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    door, known, places, options = ctx.kept
    found = door.gradients(known, gradients, ctx.saved_tensors, options)
    return tuple([None if i is None else found[i] for i in places])


def is_watched() -> bool:
    """Whether a call is to be an operator: torch.compile, a transform, a dispatch mode or torch.jit.trace is active."""
    return (
        torch.compiler.is_compiling()
        or _functorch_is_active()
        or forward_ad._current_level >= 0
        or _dispatch_modes() > 0
        or _tracing() is not None
    )


def _has_kernels(inputs: tuple[Any, ...]) -> bool:
    """Whether kernels run where the tensors are: on CUDA, and on the CPU under triton's interpreter."""
    for x in inputs:
        if isinstance(x, Tensor):
            return x.device.type in triton.DEVICES
    raise ValueError("an op without tensors")


def _register(name: str, schema: Any, kernel: Any, plain: Any) -> Any:
    """The operator torch.ops.fae.NAME, without autograd."""

    def implementation(*inputs: Any) -> Any:
        if forward_ad._current_level >= 0:
            raise FAEError(f"fae::{name} has no forward-mode derivative; take the backend 'reference' for it")
        return _distinct((kernel if _has_kernels(inputs) else plain)(*inputs), inputs)

    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fae::{name}", lambda *inputs: _distinct(plain(*inputs), inputs), lib=_LIBRARY)
    return getattr(torch.ops.fae, name).default


def _as_tuple(results: Any) -> Any:
    return results if isinstance(results, tuple | list) else (results,)


def _distinct(results: Results, inputs: tuple[Any, ...]) -> Any:
    """Results of an operator, which are tensors: empty where they are absent, each one's memory its own."""
    like = next(x for x in inputs if isinstance(x, Tensor))
    seen: list[Tensor] = [x for x in inputs if isinstance(x, Tensor)]
    distinct = []
    for result in results:
        if result is None:
            result = like.new_empty(0)
        elif any(result.untyped_storage()._cdata == x.untyped_storage()._cdata for x in seen):
            result = result.clone()
        seen.append(result)
        distinct.append(result)
    return distinct[0] if len(distinct) == 1 else tuple(distinct)


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NoSecondDerivative(
            f"{name} has no derivative: the kernels are differentiated once; for a gradient of a gradient pin the "
            "backend, with fae_core.ops.backend('reference')"
        )

    return refuse
