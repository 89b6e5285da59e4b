"""Check that the kernels are accurate: every op, forward and backward, against the same call in float64.

    python -m fae_core.testing.kernel_accuracy                      # on the GPU: fp32, fp16, bf16, also models' shapes
    TRITON_INTERPRET=1 python -m fae_core.testing.kernel_accuracy   # on the CPU: fp32, fp16, small shapes

Relative L2 error of every output and gradient: at most 1e-5 in fp32, 1e-3 in fp16, 6e-3 in bf16, and in the latter two
at most 1.5 times that of plain torch in the same dtype (plus 1e-4, so that a small tensor which torch happens to
compute exactly decides nothing). On a GPU two runs have to agree bit for bit. Shapes are fixed ones (one token, no
samples, head dimension 256, ...) and random ragged ones.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fae_core import ops
from fae_core.errors import FAEError
from fae_core.ops import triton
from fae_core.ops.rotary import Layout
from fae_core.ops.triton import contract

LIMITS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}
AGAINST_EAGER, EAGER_SLACK = 1.5, 1e-4

Call = Callable[[dict[str, Tensor], str], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A call of an op with its inputs.

    Attributes:
        op: Name of the op.
        shape: Sizes and kind, for a person.
        inputs: By name, in float64.
        call: Returns the outputs for (inputs, backend).
        plain: The backend of plain torch.
        fixed: Inputs that stay in fp32 or more and have no gradient (tables).
    """

    op: str
    shape: str
    inputs: dict[str, Tensor]
    call: Call
    plain: str = "reference"
    fixed: tuple[str, ...] = ("cos", "sin")


@dataclass(frozen=True)
class Row:
    """The worst output or gradient of a case.

    Attributes:
        op: Name of the op.
        shape: Sizes and kind.
        dtype: Dtype of the inputs.
        worst: Name of the output or gradient.
        error: The relative L2 error.
        limit: The largest error that is accepted.
        eager: The error of plain torch in the same dtype.
        repeatable: Whether two runs agreed; None under the interpreter, which runs blocks one after another.
    """

    op: str
    shape: str
    dtype: str
    worst: str
    error: float
    limit: float
    eager: float
    repeatable: bool | None

    @property
    def kept(self) -> bool:
        """Whether the error is within its limit and two runs agreed."""
        return self.error <= self.limit and self.repeatable is not False

    def __str__(self) -> str:
        mark = "ok  " if self.kept else "FAIL"
        repeat = "" if self.repeatable is not False else ", differs between runs"
        error = f"{self.error:.1e} of {self.limit:.1e}, plain torch {self.eager:.1e}"
        return f"{mark} {self.op:15} {self.dtype:9} {error} ({self.worst}{repeat}) {self.shape}"


def cases(seed: int, device: str, large: bool, count: int) -> Iterator[Case]:
    """Fixed edge cases, random ones, and the models' shapes.

    Args:
        seed: Seed of the inputs and of the random cases.
        device: Device of the inputs.
        large: Add the models' shapes.
        count: Random cases of each op.
    """
    make = _Maker(seed, device)
    yield from (
        make.rms_norm(shape, kind) for shape in ((3, 5, 72), (2, 1, 1152), (0, 4, 64)) for kind in ("weight", "")
    )
    yield make.rms_norm((2, 3, 5, 64), "weight transposed")
    yield make.rms_norm((7, 40), "weight sliced")
    for layout in ("interleaved", "half"):
        yield make.qk_norm_rope((2, 5, 2, 72), layout, "norm rope")
        yield make.qk_norm_rope((2, 1, 3, 64), layout, "rope samples")
        yield make.qk_norm_rope((1, 3, 2, 256), layout, "norm rope")
        yield make.apply_rope((2, 3, 7, 64), layout)
    yield make.qk_norm_rope((0, 4, 2, 64), "interleaved", "norm rope")
    yield make.qk_norm_rope((1, 4, 2, 64), "interleaved", "norm")
    for norm in ("rms", "layer"):
        yield make.adaln((2, 5, 96), norm, "update gate shift weight")
        yield make.adaln((3, 1, 64), norm, "shift")
        yield make.adaln((1, 7, 40), norm, "update gate strided")
    yield make.adaln((0, 4, 64), "rms", "update gate shift weight")
    yield make.swiglu((2, 5, 40))
    yield make.swiglu((0, 4, 64))
    for head_dim in (64, 72):
        yield make.self_attention((1, 33, 2, head_dim), "interleaved", "norm rope")
    yield make.self_attention((1, 33, 2, 72), "half", "norm rope")
    yield make.self_attention((1, 150, 1, 72), "interleaved", "rope samples")
    yield make.self_attention((2, 1, 1, 64), "interleaved", "norm rope")
    yield make.self_attention((0, 16, 2, 64), "interleaved", "rope")
    yield make.self_attention((1, 20, 1, 64), "interleaved", "norm rope causal")
    yield make.rope_attention((1, 2, 40, 64), "half")
    yield make.rope_attention((1, 1, 12, 256), "interleaved")
    yield make.attention((1, 2, 21, 34, 72))
    yield from (case for _ in range(count) for case in make.random())
    if large:
        for width in (1152, 1536):
            yield make.rms_norm((4, 256, width), "weight")
            yield make.adaln((4, 256, width), "rms", "update gate shift weight")
        yield make.swiglu((4, 256, 3072))
        yield make.self_attention((2, 576, 16, 72), "interleaved", "norm rope")
        for heads, head_dim in ((16, 72), (24, 64)):
            yield make.qk_norm_rope((4, 256, heads, head_dim), "interleaved", "norm rope")
            yield make.self_attention((4, 256, heads, head_dim), "interleaved", "norm rope")
            yield make.self_attention((4, 256, heads, head_dim), "interleaved", "rope")
        yield make.self_attention((2, 576, 16, 64), "interleaved", "norm rope causal")
        yield make.rope_attention((4, 24, 256, 256), "interleaved")


def measure(case: Case, dtype: torch.dtype) -> Row:
    """Run a case through the kernels, through plain torch, and in float64.

    Args:
        case: What to run.
        dtype: Dtype of the inputs of kernels and plain torch.
    """
    got = _run(case, dtype, dtype, "triton")
    eager = _run(case, dtype, dtype, case.plain)
    exact = _run(case, dtype, torch.float64, "sdpa-math" if case.plain == "sdpa" else "reference")
    errors = {name: _relative(got[name], exact[name]) for name in exact}
    limit = LIMITS[dtype]
    worst, ratio, row_limit = next(iter(exact)), -1.0, limit
    for name, error in errors.items():
        own = limit
        if dtype != torch.float32:
            own = min(limit, AGAINST_EAGER * _relative(eager[name], exact[name]) + EAGER_SLACK)
        if error / own > ratio:
            worst, ratio, row_limit = name, error / own, own
    repeatable = None
    if not triton.INTERPRETED:
        again = _run(case, dtype, dtype, "triton")
        repeatable = all(torch.equal(got[name], again[name]) for name in got)
    eager_error = _relative(eager[worst], exact[worst])
    name = str(dtype).removeprefix("torch.")
    return Row(case.op, case.shape, name, worst, errors[worst], row_limit, eager_error, repeatable)


def check(seed: int = 0, count: int = 2, only: str | None = None) -> list[Row]:
    """All cases in all dtypes that this machine can check.

    Args:
        seed: Seed of the inputs and of the random cases.
        count: Random cases of each op.
        only: The op to check; None: every one.

    Raises:
        FAEError: The machine can check none.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    obstacle = contract.anywhere(torch.zeros(1, device=device))
    if obstacle:
        raise FAEError(f"the kernels cannot be checked here: {obstacle}")
    dtypes = (torch.float32, torch.float16) if triton.INTERPRETED else tuple(LIMITS)
    chosen = [case for case in cases(seed, device, device == "cuda", count) if only in (None, case.op)]
    return [measure(case, dtype) for case in chosen for dtype in dtypes if _has_kernel(case, dtype, device)]


def _has_kernel(case: Case, dtype: torch.dtype, device: str) -> bool:
    """Plain attention has none in fp32 on a GPU, and a call that names it there raises (contract.py)."""
    return not (case.op == "attention" and dtype == torch.float32 and device == "cuda")


class _Maker:
    """Makes cases with inputs from one generator."""

    def __init__(self, seed: int, device: str) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._random = random.Random(seed)
        self._device = device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64).to(self._device)

    def weight(self, width: int) -> Tensor:
        return 1 + 0.3 * self.normal(width)

    def tables(self, *shape: int) -> dict[str, Tensor]:
        angles = 3 * self.normal(*shape)
        return {"cos": angles.cos(), "sin": angles.sin()}

    def rms_norm(self, shape: tuple[int, ...], kind: str) -> Case:
        x = self.normal(*shape)
        if "sliced" in kind:
            x = self.normal(*shape[:-1], shape[-1] + 8)[..., : shape[-1]]
        if "transposed" in kind:
            x = x.transpose(1, 2)
        inputs = {"x": x} | ({"weight": self.weight(shape[-1])} if "weight" in kind else {})
        return Case(
            "rms_norm",
            f"{_text(x.shape)} {kind}".strip(),
            inputs,
            lambda t, backend: (ops.rms_norm(t["x"], t.get("weight"), backend=backend),),
        )

    def qk_norm_rope(self, shape: tuple[int, int, int, int], layout: Layout, kind: str) -> Case:
        return Case(
            "qk_norm_rope",
            f"{_text(shape)} {layout} {kind}",
            self._packed(shape, kind),
            lambda t, backend: ops.qk_norm_rope(
                t["qkv"],
                t.get("cos"),
                t.get("sin"),
                q_weight=t.get("q_weight"),
                k_weight=t.get("k_weight"),
                layout=layout,
                backend=backend,
            ),
        )

    def apply_rope(self, shape: tuple[int, int, int, int], layout: Layout) -> Case:
        inputs = {"x": self.normal(*shape), **self.tables(shape[2], shape[3] // 2)}
        return Case(
            "apply_rope",
            f"{_text(shape)} {layout}",
            inputs,
            lambda t, backend: (ops.apply_rope(t["x"], t["cos"], t["sin"], layout, backend=backend),),
        )

    def adaln(self, shape: tuple[int, int, int], norm: Literal["rms", "layer"], kind: str) -> Case:
        batch, tokens, width = shape
        pieces = self.normal(batch, 3 * width).chunk(3, dim=1)
        inputs = {"x": self.normal(*shape), "scale": 0.3 * pieces[0]}
        for name, value in (("shift", pieces[1]), ("gate", pieces[2]), ("weight", self.weight(width))):
            if name in kind:
                inputs[name] = value
        if "update" in kind:
            inputs["update"] = self.normal(batch, width, tokens).mT if "strided" in kind else self.normal(*shape)

        def call(t: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
            residual, out = ops.adaln(
                t["x"],
                t["scale"],
                t.get("shift"),
                update=t.get("update"),
                gate=t.get("gate"),
                weight=t.get("weight"),
                norm=norm,
                backend=backend,
            )
            return (residual, out) if "update" in t else (out,)

        return Case("adaln", f"{_text(shape)} {norm} {kind}", inputs, call)

    def swiglu(self, shape: tuple[int, int, int]) -> Case:
        inputs = {"x": self.normal(*shape[:-1], 2 * shape[-1]), "bias": self.normal(2 * shape[-1])}
        return Case("swiglu", _text(shape), inputs, lambda t, backend: (ops.swiglu(*t.values(), backend=backend),))

    def self_attention(self, shape: tuple[int, int, int, int], layout: Layout, kind: str) -> Case:
        def call(t: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
            tables = (t.get("cos"), t.get("sin"))
            out = ops.self_attention(
                t["qkv"],
                *tables,
                q_weight=t.get("q_weight"),
                k_weight=t.get("k_weight"),
                layout=layout,
                causal="causal" in kind,
                backend=backend,
            )
            return (out,)

        return Case("self_attention", f"{_text(shape)} {layout} {kind}", self._packed(shape, kind), call, "sdpa")

    def rope_attention(self, shape: tuple[int, int, int, int], layout: Layout) -> Case:
        inputs = {name: self.normal(*shape) for name in "qkv"} | self.tables(shape[2], shape[3] // 2)
        return Case(
            "rope_attention",
            f"{_text(shape)} {layout}",
            inputs,
            lambda t, backend: (ops.rope_attention(*t.values(), layout=layout, backend=backend),),
            "sdpa",
        )

    def attention(self, shape: tuple[int, int, int, int, int]) -> Case:
        batch, heads, queries, keys, width = shape
        inputs = {
            name: self.normal(batch, n, heads, width).transpose(1, 2)
            for name, n in zip("qkv", (queries, keys, keys), strict=True)
        }
        return Case(
            "attention", _text(shape), inputs, lambda t, backend: (ops.attention(*t.values(), backend=backend),), "sdpa"
        )

    def random(self) -> Iterator[Case]:
        """One case of random ragged size of each op."""
        pick, below = self._random.choice, self._random.randint
        batch, tokens, heads, head_dim = below(1, 2), below(1, 40), below(1, 2), 2 * below(1, 40)
        layout, tables = pick(("interleaved", "half")), pick(("rope", "rope samples"))
        yield self.rms_norm((batch, tokens, below(1, 300)), pick(("weight", "", "weight sliced")))
        yield self.qk_norm_rope((batch, tokens, heads, head_dim), layout, f"{pick(('norm ', ''))}{tables}")
        yield self.adaln((batch, tokens, below(1, 300)), pick(("rms", "layer")), pick(("update gate", "shift weight")))
        yield self.self_attention((1, below(1, 200), heads, pick((64, 72))), layout, f"{pick(('norm ', ''))}{tables}")
        yield self.attention((batch, 1, below(1, 60), below(1, 200), pick((64, 72))))

    def _packed(self, shape: tuple[int, int, int, int], kind: str) -> dict[str, Tensor]:
        batch, tokens, heads, width = shape
        inputs = {"qkv": self.normal(batch, tokens, 3, heads, width)}
        if "norm" in kind:
            inputs |= {"q_weight": self.weight(width), "k_weight": self.weight(width)}
        if "rope" in kind:
            samples = (batch, 1) if "samples" in kind else ()
            inputs |= self.tables(*samples, tokens, width // 2)
        return inputs


def _run(case: Case, rounded: torch.dtype, dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
    """Outputs and gradients by name, computed in `dtype` from inputs rounded to `rounded`; strides are kept."""
    tensors = {}
    for name, value in case.inputs.items():
        if name in case.fixed:
            tensors[name] = value.float().to(torch.promote_types(dtype, torch.float32))
        else:
            like = torch.empty_strided(value.shape, value.stride(), dtype=dtype, device=value.device)
            tensors[name] = like.copy_(value.to(rounded)).requires_grad_()
    # What our kernels leave to torch's attention is done by its plain kernel: flash's gradients differ from run to run,
    # which would be reported of ours, and some of torch's kernels refuse an empty batch.
    plain = backend == "triton" or any(value.numel() == 0 for value in case.inputs.values())
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        outputs = case.call(tensors, backend)
    leaves = {name: t for name, t in tensors.items() if t.requires_grad}
    generator = torch.Generator().manual_seed(1)
    ahead = [torch.randn(y.shape, generator=generator).to(rounded).to(y) for y in outputs]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), ahead)
    named = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
    return named | {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def _relative(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||, or ||got|| where want is 0 but for rounding; infinite where got is not finite."""
    if got.shape != want.shape or not got.isfinite().all():
        return float("inf")
    scale = want.norm().item()
    return (got.double() - want).norm().item() / scale if scale > 1e-9 else got.double().norm().item()


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def main() -> int:
    """Check, and print a line for each case; returns 0 if all are accurate, 1 if not, 2 if none can be checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2, help="random cases of each op")
    parser.add_argument("--op", help="only this op")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    arguments = parser.parse_args()
    try:
        rows = check(arguments.seed, arguments.count, arguments.op)
    except FAEError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for row in rows:
        sys.stdout.write(f"{json.dumps({**asdict(row), 'kept': row.kept}) if arguments.json else row}\n")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
