"""What a call of each op costs on the host, as a multiple of F.layer_norm on the same core; no GPU is needed.

    python tools/bench/host_cost.py
    python tools/bench/host_cost.py --out docs/benchmarks/host-cost.md

Kernels are compiled for sm_90 and launched over a stub of CUDA's driver (fae_core.testing.stub_driver), at small shapes
in fp16, so that nothing but the host's work is left: the choice, the door, allocations, launches. Tensors of the CPU
stand for those of the device. A time is the minimum of repeated loops in the thread's own CPU time, and the table has
medians over rounds; each call has an F.layer_norm of its own right before it, since other work on the machine slows
both. Exits with 1 where any call is above a limit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from fae_core import ops
from fae_core.files import write_atomic
from fae_core.testing.stub_driver import StubDriver

LIMIT, LIMIT_WITH_BACKWARD = 5.0, 2.5
ROUNDS = 5
Call = Callable[..., object]
Times = tuple[float, float, float]


def microseconds(function: Callable[[], object], calls: int = 200, repeats: int = 15) -> float:
    """Of one call: the smallest mean over loops of `calls`."""
    for _ in range(30):
        function()
    found = []
    for _ in range(repeats):
        begun = time.thread_time()
        for _ in range(calls):
            function()
        found.append((time.thread_time() - begun) / calls * 1e6)
    return min(found)


def leaf(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.ones(*shape, dtype=dtype).requires_grad_()


def cases() -> dict[str, tuple[Call, list[torch.Tensor]]]:
    """By name: a call, and the tensors that it takes, all of which have gradients."""
    width, heads, head_dim, tokens = 1152, 16, 72, 2
    cos, sin = torch.ones(tokens, head_dim // 2), torch.zeros(tokens, head_dim // 2)
    row, rows = (1, tokens, width), (1, width)
    kernel = {"backend": "triton"}
    return {
        "F.layer_norm": (
            lambda x, w: F.layer_norm(x, (64,), w, None, 1e-6),
            [leaf(1, 64, dtype=torch.float32), leaf(64, dtype=torch.float32)],
        ),
        "rms_norm": (lambda x, w: ops.rms_norm(x, w, **kernel), [leaf(*row), leaf(width)]),
        "adaln, scale": (lambda x, s: ops.adaln(x, s, **kernel)[1], [leaf(*row), leaf(*rows)]),
        "adaln, all operands": (
            lambda x, u, g, s, b, w: ops.adaln(x, s, b, update=u, gate=g, weight=w, **kernel),
            [leaf(*row), leaf(*row), leaf(*rows), leaf(*rows), leaf(*rows), leaf(width)],
        ),
        "apply_rope": (lambda x: ops.apply_rope(x, cos, sin, **kernel), [leaf(1, heads, tokens, head_dim)]),
        "qk_norm_rope": (
            lambda x, q, k: ops.qk_norm_rope(x, cos, sin, q_weight=q, k_weight=k, **kernel),
            [leaf(1, tokens, 3, heads, head_dim), leaf(head_dim), leaf(head_dim)],
        ),
    }


def nothing(leaves: list[torch.Tensor], results: tuple[torch.Tensor, ...]) -> Call:
    """An autograd.Function of as many leaves and results, whose forward and backward pass do nothing."""
    gradients = [torch.ones_like(x) for x in leaves]

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *_):
            return tuple(y.detach() for y in results)

        @staticmethod
        def backward(ctx, *_):
            return tuple(gradients)

    return Nothing.apply


def measured(call: Call, leaves: list[torch.Tensor]) -> Times:
    """Microseconds without gradients, forward with backward, and what autograd takes of that."""
    plain = [x.detach() for x in leaves]
    results = call(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    ahead = tuple(torch.ones_like(y) for y in results)

    def both(call: Call) -> None:
        torch.autograd.grad(call(*leaves), leaves, ahead, allow_unused=True)

    with torch.no_grad():
        alone = microseconds(lambda: call(*plain))
    empty = nothing(leaves, results)
    return alone, microseconds(lambda: both(call), calls=100), microseconds(lambda: both(empty), calls=100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rounds: list[dict[str, tuple[Times, Times]]] = []  # of the F.layer_norm before a call, and of the call
    launches = {}
    with tempfile.TemporaryDirectory(prefix="fae-stub-") as folder:
        stub = StubDriver(Path(folder))
        for _ in range(ROUNDS):
            every = cases()
            rounds.append({name: (measured(*every["F.layer_norm"]), measured(*case)) for name, case in every.items()})
        for name, (call, leaves) in cases().items():
            with torch.no_grad():
                before = stub.launches
                call(*leaves)
                launches[name] = stub.launches - before
    import triton

    lines = [
        "# What a call costs on the host",
        "",
        "`python tools/bench/host_cost.py --out docs/benchmarks/host-cost.md`, "
        f"{time.strftime('%Y-%m-%d')}, one core, torch {torch.__version__}, triton {triton.__version__}.",
        "Microseconds of CPU time over a stub of CUDA's driver, and multiples of F.layer_norm, which is one operator",
        f"of torch in C++: medians of {ROUNDS} rounds, and their range. The limits are {LIMIT:g}, and "
        f"{LIMIT_WITH_BACKWARD:g} with the",
        "backward pass; what is above one is bold. *Autograd alone* is an autograd.Function that does nothing, of as",
        "many leaves and results: torch takes some 3 us for each of them, whatever an op does.",
        "",
        "| call | launches | no gradient, us | x F.layer_norm | forward and backward, us | x F.layer_norm "
        "| autograd alone, us |",
        "|---|---|---|---|---|---|---|",
    ]
    missed = []
    for name in launches:
        cells = []
        for way, limit in ((0, LIMIT), (1, LIMIT_WITH_BACKWARD)):
            found = [times[name][1][way] for times in rounds]
            ratios = [own[way] / yardstick[way] for yardstick, own in (times[name] for times in rounds)]
            ratio = statistics.median(ratios)
            shown = f"{ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
            cells += [f"{statistics.median(found):.1f}", f"**{shown}**" if ratio > limit else shown]
            if ratio > limit:
                missed.append(f"{name}, {ratio:.1f} times F.layer_norm")
        cells.append(f"{statistics.median(times[name][1][2] for times in rounds):.1f}")
        lines.append(f"| {name} | {launches[name] or ''} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if out is not None:
        write_atomic(out, text.encode())
    for name in missed:
        print(f"above its limit: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
