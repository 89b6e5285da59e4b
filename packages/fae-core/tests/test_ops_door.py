"""How calls reach kernels: planned launches, autograd without operators, operators where something watches."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from fae_core.errors import FAEError
from fae_core.ops import operators, triton
from fae_core.ops.door import Door
from fae_core.ops.triton.plans import Start, note
from fae_core.ops.triton.repeated import Planned

needs_triton = pytest.mark.skipif(triton.MISSING is not None, reason=str(triton.MISSING))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed).requires_grad_()


def calls() -> dict[str, tuple[Door, tuple[object, ...]]]:
    """Every door with inputs of all kinds."""
    angles = randn(5, 4, seed=9)
    turn = (angles.cos(), angles.sin())
    heads, qkv = [leaf(2, 2, 5, 8, seed=s) for s in (3, 4, 5)], leaf(2, 5, 3, 2, 8)
    weights = (leaf(8, seed=1), leaf(8, seed=2))
    x, update, rows = leaf(2, 5, 8), leaf(2, 5, 8, seed=1), [leaf(2, 8, seed=s) for s in (2, 3, 4)]
    return {
        "rms_norm": (operators.RMS_NORM, (x, weights[0], 1e-6)),
        "adaln": (operators.ADALN, (x, update, *rows, *weights, False, 1e-6)),
        "apply_rope": (operators.APPLY_ROPE, (heads[0], *turn, False, False)),
        "qk_norm_rope": (operators.QK_NORM_ROPE, (qkv, *turn, *weights, leaf(48, seed=6), True, 1e-6)),
        "attention": (operators.ATTENTION, (*heads, 0.3)),
        "swiglu": (operators.SWIGLU, (x, weights[0])),
    }


OPS = tuple(calls())


def as_tuple(results: object) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def outcome(function: Callable[..., object], inputs: tuple[object, ...]) -> list[Tensor]:
    """Results, and the gradients of all leaves."""
    results = as_tuple(function(*inputs))
    ahead = [randn(*y.shape, seed=20 + i) for i, y in enumerate(results)]
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    return [*(y.detach() for y in results), *torch.autograd.grad(results, leaves, ahead)]


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    return len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_every_way_through_a_door_gives_the_same(name: str) -> None:
    door, inputs = calls()[name]
    want = outcome(lambda *x: as_tuple(door.operator(*x))[: door.op.results], inputs)
    assert same(outcome(door, inputs), want)
    assert same(outcome(lambda *x: checkpoint(door, *x, use_reentrant=False), inputs), want)
    assert same(outcome(torch.compile(door.__call__, fullgraph=True, backend="aot_eager"), inputs), want)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            results = as_tuple(door(*inputs))
        assert not any(y.requires_grad for y in results)
        assert same(list(results), want[: len(results)])


@pytest.mark.parametrize("name", OPS)
def test_eager_calls_make_no_operator_and_traced_ones_do(name: str) -> None:
    door, inputs = calls()[name]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        outcome(door, inputs)
    assert not [e.key for e in seen.key_averages() if e.key.startswith("fae::")]

    graphs: list[str] = []

    def keep(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(str(module.graph))
        return module.forward

    class Module(torch.nn.Module):
        def forward(self, *given: Tensor) -> object:
            found = iter(given)
            return door(*(next(found) if isinstance(x, Tensor) else x for x in inputs))

    tensors = tuple(x for x in inputs if isinstance(x, Tensor))
    torch.compile(Module(), fullgraph=True, backend=keep)(*tensors)
    graphs.append(str(torch.export.export(Module(), tensors).graph))
    graphs.append(str(torch.jit.trace(Module(), tensors, check_trace=False).graph))
    assert all(f"fae.{name}" in g or f"fae::{name}" in g for g in graphs)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) if isinstance(x, Tensor) else x for x in inputs]
        results = as_tuple(door(*fakes))
    assert [y.shape for y in results] == [y.shape for y in as_tuple(door(*inputs))]


@pytest.mark.parametrize("name", OPS)
def test_nothing_is_differentiable_that_callers_do_not_see(name: str) -> None:
    door, inputs = calls()[name]
    results = as_tuple(door.operator(*inputs))
    assert [y.requires_grad for y in results] == [i < door.op.results for i in range(len(results))]
    for way in (door, lambda *x: as_tuple(door.operator(*x))[: door.op.results]):
        results = as_tuple(way(*inputs))
        leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            torch.autograd.grad(results, leaves, [torch.ones_like(y) for y in results])
        assert not [e.key for e in seen.key_averages() if e.key in ("aten::zeros", "aten::zero_", "aten::zeros_like")]


@pytest.mark.parametrize("name", ["adaln", "qk_norm_rope"])
def test_a_result_that_nothing_depends_on_counts_as_a_gradient_of_0(name: str) -> None:
    door, inputs = calls()[name]
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    for used in range(door.op.results):
        for way in (door, door.operator):
            results = as_tuple(way(*inputs))
            ahead = randn(*results[used].shape)
            got = torch.autograd.grad(results[used], leaves, ahead, allow_unused=True)
            every = [ahead if i == used else torch.zeros_like(y) for i, y in enumerate(results)]
            want = torch.autograd.grad(door(*inputs), leaves, every)
            assert all(b.abs().max() == 0 if a is None else torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_forward_mode_is_refused_and_never_0(name: str) -> None:
    door, inputs = calls()[name]
    first, *rest = (x.detach() if isinstance(x, Tensor) else x for x in inputs)
    for way in (door, door.operator):
        with pytest.raises(FAEError, match="no forward-mode derivative"):
            torch.func.jvp(lambda x, way=way: as_tuple(way(x, *rest))[0], (first,), (torch.ones_like(first),))
        with torch.autograd.forward_ad.dual_level(), pytest.raises(FAEError, match="no forward-mode derivative"):
            way(torch.autograd.forward_ad.make_dual(first, torch.ones_like(first)), *rest)


@pytest.mark.parametrize("name", [name for name in OPS if name != "apply_rope"])
def test_second_derivatives_are_refused(name: str) -> None:
    door, inputs = calls()[name]
    results = as_tuple(door(*inputs))
    (gradient,) = torch.autograd.grad(sum(y.pow(3).sum() for y in results), inputs[:1], create_graph=True)
    with pytest.raises(FAEError, match=f"{name}_backward has no derivative"):
        gradient.sum().backward()


def test_a_rotation_is_differentiated_twice_because_its_gradient_is_a_rotation() -> None:
    door, (x, cos, sin, *options) = calls()["apply_rope"]
    angles = (cos.double(), sin.double())
    # The tables are fp32 in the kernel; here the door computes in plain torch, from double precision.
    ahead = randn(*x.shape, seed=1)
    (gradient,) = torch.autograd.grad((door(x, *angles, *options) * ahead).pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert second.abs().max() > 0


def test_autocast_leaves_the_dtypes_that_the_call_has() -> None:
    door, (x, weight, eps) = calls()["rms_norm"]
    with torch.autocast("cpu", torch.bfloat16):
        assert door(x, weight, eps).dtype == torch.float32
        half = door(x.bfloat16(), None, eps)
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert x.grad is not None


class _Memory:
    """Stands for a compiled kernel: out[i] = a[i] + number, through addresses as a device would see them."""

    packed_metadata, function = (), 0

    @staticmethod
    def run(x, y, z, stream, function, metadata, a, b, c, source: int, target: int, count: int, number: float) -> None:
        read = (ctypes.c_float * count).from_address(source)
        write = (ctypes.c_float * count).from_address(target)
        for i in range(count):
            write[i] = read[i] + number


def _add(source: Tensor, target: Tensor, number: float) -> None:
    _Memory.run(1, 1, 1, 0, 0, (), None, None, None, source.data_ptr(), target.data_ptr(), source.numel(), number)
    note(Start(_Memory, (1,), (source, target, source.numel(), number)))


def _planned() -> tuple[Planned, list[int]]:
    """A function of packed rows (2, n): results are a new tensor, a view of one, nothing, and a view of the input."""
    runs: list[int] = []

    def function(packed: Tensor, other: Tensor, number: float):
        runs.append(1)
        first, second = packed.unbind(0)
        made, both = torch.empty_like(first), first.new_empty(2, *second.shape)
        _add(second, made, number)
        _add(made, both[1], 1.0)
        _add(other, both[0], 0.0)
        return made, both[1], None, second

    return Planned(function, lambda: (0, lambda device: 0)), runs


def test_a_planned_call_does_the_same_at_other_addresses() -> None:
    planned, runs = _planned()
    kept = []
    for seed in range(4):
        packed, other = randn(2, 16, seed=seed), randn(16, seed=seed + 9)
        made, view, nothing, second = planned(packed, other, 2.5)
        kept.append((packed, made))
        torch.testing.assert_close(made, packed[1] + 2.5)
        torch.testing.assert_close(view, packed[1] + 3.5)
        assert nothing is None
        assert (second.data_ptr(), second.shape) == (packed[1].data_ptr(), packed[1].shape)
    assert len(runs) == 1
    assert all(torch.equal(made, packed[1] + 2.5) for packed, made in kept)  # results are not used again
    planned(*kept[0][:1], randn(16), 3.0)
    planned(randn(2, 32), randn(32), 2.5)
    assert len(runs) == 3  # another number, another shape


def test_a_result_is_allocated_as_the_caller_sees_it() -> None:
    def function(x: Tensor):
        made = torch.empty_like(x)
        _add(x, made, 1.0)
        return made.mT, made[1], made.mT

    planned = Planned(function, lambda: (0, lambda device: 0))
    for seed in range(3):
        x = randn(4, 8, seed=seed)
        turned, row, again = planned(x)
        assert turned.stride() == again.stride() == (1, 8)
        for got, want in ((turned, x.mT + 1), (row, x[1] + 1), (again, x.mT + 1)):
            torch.testing.assert_close(got, want)


def test_kept_inputs_are_told_apart_by_their_strides() -> None:
    runs: list[int] = []

    def function(x: Tensor, kept: Tensor, nothing: None, number: float):
        runs.append(1)
        out = torch.empty_like(x)
        _add(kept.contiguous(), out, number)
        return (out,)

    planned = Planned(function, lambda: (0, lambda device: 0))
    for strided in (False, False, True, True, False):  # as a hook on saved tensors may change them
        kept = randn(8, 4).mT if strided else randn(4, 8)
        (out,) = planned(randn(4, 8), kept=(kept, None), options=(2.0,))
        torch.testing.assert_close(out, kept + 2)
    assert len(runs) == 3


def test_saved_tensors_may_come_back_with_other_strides() -> None:
    door, inputs = calls()["adaln"]
    wide = leaf(2, 24, seed=2)
    inputs = (*inputs[:2], *wide.chunk(3, dim=1), *inputs[5:])
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.is_leaf and x.requires_grad]

    def gradients() -> list[Tensor]:
        results = as_tuple(door(*inputs))
        return list(torch.autograd.grad(results, [*leaves, wide], [torch.ones_like(y) for y in results]))

    want = gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x.contiguous()):
        assert same(gradients(), want)


def test_calls_that_compute_anything_else_are_not_planned() -> None:
    runs: list[int] = []

    def copied(x: Tensor):
        runs.append(1)
        out = torch.empty_like(x)
        _add(x.contiguous(), out, 1.0)
        return (out,)

    def silent(x: Tensor):
        runs.append(1)
        return (torch.empty_like(x),)

    for function, x in ((copied, randn(32).view(2, 16).mT), (silent, randn(16)), (copied, randn(20)[1:17])):
        runs.clear()
        planned = Planned(function, lambda: (0, lambda device: 0))
        planned(x)
        planned(x)
        assert len(runs) == 2
    planned = Planned(lambda a, b: _both(runs, a, b), lambda: (0, lambda device: 0))
    runs.clear()
    x, y = randn(16), randn(16, seed=1)
    for a, b in ((x, x), (x, y)):
        torch.testing.assert_close(planned(a, b)[0], b)
    assert len(runs) == 2  # the first call could not tell its two inputs apart


def _both(runs: list[int], a: Tensor, b: Tensor) -> tuple[Tensor]:
    runs.append(1)
    out = torch.empty_like(a)
    _add(a, out, 0.0)
    _add(b, out, 0.0)
    return (out,)


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler")
def test_over_a_driver_without_a_device_calls_are_planned_and_launch_once(tmp_path: Path) -> None:
    file = Path(__file__).with_name("stubbed_ops.py")
    process = subprocess.run(
        [sys.executable, str(file), str(tmp_path)], capture_output=True, text=True, check=False, timeout=600
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
