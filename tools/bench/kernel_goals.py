"""The Triton kernels on a GPU against their goals: one line for each, which stands alone where the run is cut.

    python tools/bench/kernel_goals.py                     # about four minutes: correctness, then times
    TRITON_INTERPRET=1 python tools/bench/kernel_goals.py --small    # no GPU: every line runs, nothing is timed

First each kernel's results in bf16 against double precision, and a second run, which has to agree to the bit. Then
times of the device alone, from CUDA graphs, at batch 128 and 256 tokens, beside a copy of as many bytes under the same
meter: memory is the limit of all but attention. Goals are those of docs/kernels.md. Exits with 1 where a result is
wrong; a goal that is missed is only printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fae_core.errors import first_line
from fae_core.ops import triton as kernels
from fae_core.testing import kernel_accuracy

Results = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Line:
    """One measurement.

    Attributes:
        name: The pass of an op, and its shape.
        run: Does it.
        moved: Bytes that it has to move.
        goal: In microseconds at batch 128 on an H200; 0: at least `share` of a copy.
        share: Of the time of a copy of as many bytes; 0: there is no goal.
        flops: Of its products.
    """

    name: str
    run: Callable[[], Results]
    moved: int
    goal: float = 0.0
    share: float = 0.0
    flops: int = 0


@dataclass(frozen=True)
class Inputs:
    """What tensors are made of: sizes, device, dtype, and one generator."""

    batch: int
    tokens: int
    device: str
    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=torch.float32, generator=self.generator).to(self.dtype)


def groups(make: Inputs, small: bool) -> list[Iterator[Line]]:
    """Every kernel at the shapes of DiT-XL and the decoders. A group whose tensors cannot be made costs no other."""
    return [
        *(row_lines(make, width) for width in ((96,) if small else (1152, 1536))),
        swiglu_lines(make, 40 if small else 3072),
        *(head_lines(make, *shape) for shape in (((2, 64),) if small else ((16, 72), (24, 64)))),
    ]


def row_lines(make: Inputs, width: int) -> Iterator[Line]:
    """RMSNorm, residual and RMSNorm, and adaLN."""
    from fae_core.ops.triton import row_norm

    dtype = make.dtype
    x, update, dout = (make.normal(make.batch, make.tokens, width) for _ in range(3))
    weight = make.normal(width)
    gate, scale, shift = make.normal(make.batch, 3 * width).chunk(3, dim=1)
    one, wide = x.nbytes, width == 1152
    operands = {
        "rms_norm": row_norm.Operands(weight=weight),
        "residual and rms_norm": row_norm.Operands(update, weight=weight, bias=weight),
        "adaln": row_norm.Operands(update, gate, scale, shift, weight, weight),
    }

    def ahead(name: str) -> Results:
        return row_norm.forward(x, operands[name], False, 1e-6, dtype, dtype)

    def back(name: str) -> Callable[[], Results]:
        stats, dresidual = ahead(name)[2], None if name == "rms_norm" else dout
        assert stats is not None

        def run() -> Results:
            dx, found = row_norm.backward(dout, dresidual, x, stats, operands[name], False, dtype)
            return dx, *found

        return run

    yield Line(f"rms_norm forward {width}", lambda: ahead("rms_norm"), 2 * one, share=0.95)
    yield Line(f"rms_norm backward {width}", back("rms_norm"), 3 * one, goal=63 if wide else 0)
    name = "residual and rms_norm"
    yield Line(f"{name} forward {width}", lambda: ahead(name), 4 * one, share=0.9)
    # Without a gate the gradients of x and update are one.
    yield Line(f"{name} backward {width}", back(name), 4 * one)
    yield Line(f"adaln forward {width}", lambda: ahead("adaln"), 4 * one, share=0.9)
    yield Line(f"adaln backward {width}", back("adaln"), 6 * one, goal=135 if wide else 0)


def swiglu_lines(make: Inputs, hidden: int) -> Iterator[Line]:
    """SwiGLU, with the gradient of its projection's bias."""
    from fae_core.ops.triton import swiglu

    h, dy = (make.normal(make.batch, make.tokens, n * hidden) for n in (2, 1))
    bias = make.normal(2 * hidden)
    yield Line(f"swiglu forward {hidden}", lambda: (swiglu.forward(h),), h.nbytes + dy.nbytes, share=0.9)
    yield Line(f"swiglu backward {hidden}", lambda: swiglu.backward(dy, h, bias), 2 * h.nbytes + dy.nbytes, share=0.85)


def head_lines(make: Inputs, heads: int, dim: int) -> Iterator[Line]:
    """qk-norm and RoPE, and attention."""
    from fae_core.ops.operators.attention import _backward as attention_backward
    from fae_core.ops.triton import attention, qk_norm_rope

    qkv, weights = make.normal(make.batch, make.tokens, 3, heads, dim), (make.normal(dim), make.normal(dim))
    angles = torch.randn(make.tokens, dim // 2, device=make.device, generator=make.generator)
    q, k, v = qkv.unbind(2)
    plan = (weights, (angles.cos(), angles.sin()), True, 1e-6)
    turned = qk_norm_rope.forward([q, k], *plan)
    dys, one, shape = [*turned, v.contiguous()], turned[0].nbytes, f"{heads}x{dim}"
    goals = (90, 150, 170) if dim == 72 else (0, 0, 0)
    yield Line(f"qk_norm_rope forward {shape}", lambda: tuple(qk_norm_rope.forward([q, k], *plan)), 4 * one, goals[0])
    yield Line(
        f"qk_norm_rope backward {shape}",
        lambda: qk_norm_rope.backward(dys, [q, k], *plan, make.dtype),
        8 * one,
        goals[1],
    )
    scale, flops = dim**-0.5, 4 * make.batch * heads * make.tokens**2 * dim
    yield Line(
        f"attention forward {shape}", lambda: attention.forward(*turned, v, scale), 4 * one, goals[2], flops=flops
    )
    out, lse = attention.forward(*turned, v, scale)
    *heads_first, ahead = (t.transpose(1, 2) for t in (*turned, v, out))

    def differentiate() -> Results:
        return attention_backward(ahead, *heads_first, ahead, lse, scale)

    yield Line(f"attention backward {shape}, flash on our output", differentiate, 8 * one, flops=flops * 5 // 2)
    if make.device == "cuda":
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

            def theirs(backend: SDPBackend = backend) -> Results:
                with sdpa_kernel(backend):
                    return (F.scaled_dot_product_attention(*heads_first),)

            yield Line(f"{backend.name} forward {shape}", theirs, 4 * one, flops=flops)


def microseconds(run: Callable[[], object]) -> float:
    """Median time of the device alone."""
    from triton.testing import do_bench_cudagraph

    return 1e3 * do_bench_cudagraph(run, rep=60, return_mode="median")


def measured(line: Line, timed: bool) -> str:
    """What is printed of a line."""
    first, second = line.run(), line.run()
    same = all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))
    text = f"{line.name:52} {'repeats' if same else 'DIFFERS BETWEEN RUNS'}"
    if not timed:
        return text
    half = torch.empty(line.moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(half)
    copy, time = microseconds(lambda: target.copy_(half)), microseconds(line.run)
    text += f" {time:8.1f} us, {copy / time:5.1%} of a copy ({copy:.1f} us)"
    if line.flops:
        text += f", {line.flops / time / 1e6:.0f} TFLOP/s"
    if line.goal:
        text += f"; goal {line.goal:.0f} us: {'met' if time <= line.goal else 'missed'}"
    if line.share:
        text += f"; goal {line.share:.0%}: {'met' if copy / time >= line.share else 'missed'}"
    return text


def said(line: Line, timed: bool) -> str:
    """What is printed of a line, also where it fails: one kernel must not end the others' lines."""
    try:
        return measured(line, timed)
    except Exception as error:
        return f"{line.name:52} FAILED {type(error).__name__}: {first_line(error)[:160]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="small shapes on the CPU, under TRITON_INTERPRET=1; no times"
    )
    parser.add_argument("--only", default="", help="lines whose name begins so")
    parser.add_argument("--times", action="store_true", help="no correctness")
    arguments = parser.parse_args()
    if arguments.small != kernels.INTERPRETED or not (kernels.INTERPRETED or torch.cuda.is_available()):
        print("error: this needs a CUDA device, or --small and TRITON_INTERPRET=1", file=sys.stderr)
        return 2
    failed = 0
    if not (arguments.times or arguments.small):
        for row in kernel_accuracy.check(count=1):
            print(row, flush=True)
            failed += not row.kept
    device, dtype = ("cpu", torch.float16) if arguments.small else ("cuda", torch.bfloat16)
    sizes = (2, 5) if arguments.small else (128, 256)
    make = Inputs(*sizes, device, dtype, torch.Generator(device).manual_seed(0))
    for group in groups(make, arguments.small):
        try:
            for line in group:
                if line.name.startswith(arguments.only):
                    text = said(line, not arguments.small)
                    failed += "FAILED" in text or ("DIFFERS" in text and "flash" not in text)
                    print(text, flush=True)
        except Exception as error:  # a group whose tensors cannot be made must not end the others' lines
            failed += 1
            print(f"FAILED before the next line: {type(error).__name__}: {first_line(error)[:160]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
