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


def lines(batch: int, tokens: int, small: bool, device: str, dtype: torch.dtype) -> Iterator[Line]:
    """Every kernel at the shapes of DiT-XL and the decoders."""
    from fae_core.ops.operators.attention import _backward as attention_backward
    from fae_core.ops.triton import attention, qk_norm_rope, row_norm, swiglu

    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.float32, generator=generator).to(dtype)

    for width in (96,) if small else (1152, 1536):
        x, update, dout = (normal(batch, tokens, width) for _ in range(3))
        weight = normal(width)
        gate, scale, shift = normal(batch, 3 * width).chunk(3, dim=1)
        one, none = x.nbytes, row_norm.Operands(weight=weight)
        residual_norm = row_norm.Operands(update, weight=weight, bias=weight)
        adaln = row_norm.Operands(update, gate, scale, shift, weight, weight)
        forward = {n: row_norm.forward(x, o, False, 1e-6, dtype, dtype) for n, o in
                   (("rms", none), ("residual", residual_norm), ("adaln", adaln))}  # fmt: skip

        def back(o: row_norm.Operands, name: str, dresidual: Tensor | None = None, made=forward, x=x, dout=dout):
            dx, found = row_norm.backward(dout, dresidual, x, made[name][2], o, False, dtype)
            return dx, *found

        def ahead(o: row_norm.Operands, x=x) -> Results:
            return row_norm.forward(x, o, False, 1e-6, dtype, dtype)

        wide = width == 1152
        yield Line(f"rms_norm forward {width}", lambda o=none, f=ahead: f(o), 2 * one, share=0.95)
        goal = 63 if wide else 0
        yield Line(f"rms_norm backward {width}", lambda o=none, f=back: f(o, "rms"), 3 * one, goal)
        yield Line(f"residual and rms_norm forward {width}", lambda o=residual_norm, f=ahead: f(o), 4 * one, share=0.9)
        both = 4 * one  # without a gate the gradients of x and update are one
        yield Line(
            f"residual and rms_norm backward {width}", lambda o=residual_norm, f=back, d=dout: f(o, "residual", d), both
        )
        yield Line(f"adaln forward {width}", lambda o=adaln, f=ahead: f(o), 4 * one, share=0.9)
        goal = 135 if wide else 0
        yield Line(f"adaln backward {width}", lambda o=adaln, f=back, d=dout: f(o, "adaln", d), 6 * one, goal)
    hidden = 40 if small else 3072
    h, dy, bias = normal(batch, tokens, 2 * hidden), normal(batch, tokens, hidden), normal(2 * hidden)
    yield Line(f"swiglu forward {hidden}", lambda: (swiglu.forward(h),), h.nbytes + dy.nbytes, share=0.9)
    yield Line(f"swiglu backward {hidden}", lambda: swiglu.backward(dy, h, bias), 2 * h.nbytes + dy.nbytes, share=0.85)
    for heads, dim in ((2, 64),) if small else ((16, 72), (24, 64)):
        qkv, weights = normal(batch, tokens, 3, heads, dim), (normal(dim), normal(dim))
        angles = torch.randn(tokens, dim // 2, device=device, generator=generator)
        q, k, v = qkv.unbind(2)
        plan = (weights, (angles.cos(), angles.sin()), True, 1e-6)
        turned = qk_norm_rope.forward([q, k], *plan)
        dys, one, shape = [*turned, v.contiguous()], turned[0].nbytes, f"{heads}x{dim}"
        goals = (90, 150, 170) if dim == 72 else (0, 0, 0)
        flops = 4 * batch * heads * tokens * tokens * dim

        def turn(q=q, k=k, plan=plan) -> Results:
            return tuple(qk_norm_rope.forward([q, k], *plan))

        def turn_back(dys=dys, q=q, k=k, plan=plan) -> Results:
            return qk_norm_rope.backward(dys, [q, k], *plan, dtype)

        yield Line(f"qk_norm_rope forward {shape}", turn, 4 * one, goals[0])
        yield Line(f"qk_norm_rope backward {shape}", turn_back, 8 * one, goals[1])
        attend = (*turned, v, dim**-0.5)
        out, lse = attention.forward(*attend)

        def differentiate(attend=attend, out=out, lse=lse) -> Results:
            *heads_first, ahead = (t.transpose(1, 2) for t in (*attend[:3], out))
            return attention_backward(ahead, *heads_first, ahead, lse, attend[3])

        yield Line(f"attention forward {shape}", lambda a=attend: attention.forward(*a), 4 * one, goals[2], flops=flops)
        back = f"attention backward {shape}, flash on our output"
        yield Line(back, differentiate, 8 * one, flops=flops * 5 // 2)
        if device == "cuda":
            heads_first = [t.transpose(1, 2) for t in attend[:3]]
            for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

                def theirs(backend=backend, t=heads_first) -> Results:
                    with sdpa_kernel(backend):
                        return (F.scaled_dot_product_attention(*t),)

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
    for line in lines(*((2, 5) if arguments.small else (128, 256)), arguments.small, device, dtype):
        if not line.name.startswith(arguments.only):
            continue
        try:
            text = measured(line, not arguments.small)
        except Exception as error:  # one kernel must not end the others' lines
            text = f"{line.name:52} FAILED {type(error).__name__}: {first_line(error)[:160]}"
        failed += "FAILED" in text or ("DIFFERS" in text and "flash" not in text)
        print(text, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
