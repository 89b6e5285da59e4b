"""Times the launch configurations of each Triton kernel on the device at hand, at the shapes of DiT-XL and the
decoders.

    python tools/bench/tune_kernels.py --batch 128
    python tools/bench/tune_kernels.py --batch 128 --share 3/8      # an eighth, untimed, to fill triton's cache

Prints every candidate's milliseconds and share of a copy's bandwidth, the present configuration
(fae_core/ops/triton/configs.py) first, and which was fastest over the kernel's shapes. Results are compared with those
of the present configuration. Changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from device_time import copy_bytes_per_second, device_milliseconds
from torch import Tensor

from fae_core.errors import first_line
from fae_core.ops.triton import adaln, configs, qk_norm_rope, rms_norm, rope_attention, rope_attention_backward
from fae_core.ops.triton.configs import Config

TOKENS = 256
Timed = tuple[str, str, Config | None]


@dataclass(frozen=True)
class Tuned:
    """A kernel at one shape. setting: the function of `configs` that chooses; run: gives the results; moved: bytes."""

    name: str
    shape: str
    setting: str
    candidates: list[Config]
    run: Callable[[], list[Tensor]]
    moved: int


def kernels(batch: int) -> Iterator[Tuned]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    rows = [Config(r, w) for r in (1, 2, 4) for w in (2, 4, 8)]
    rows_back = [Config(r, w, blocks=blocks) for r in (1, 2) for w in (4, 8) for blocks in (528, 1056, 2112)]
    one_row = [Config(1, w) for w in (2, 4, 8)]
    one_row_back = [Config(1, w, blocks=blocks) for w in (4, 8) for blocks in (528, 1056, 2112, 4224)]
    for width in (1152, 1536):
        x, dy, weight = normal(batch, TOKENS, width), normal(batch, TOKENS, width), normal(width)
        gate, scale, shift = (normal(batch, width) for _ in range(3))
        rstd, one = rms_norm.forward(x, weight, 1e-6, x.dtype)[1], x.nbytes
        yield Tuned(
            "rms_norm",
            f"{width}",
            "row_norm",
            rows,
            lambda x=x, w=weight: [rms_norm.forward(x, w, 1e-6, x.dtype)[0]],
            2 * one,
        )
        yield Tuned(
            "rms_norm backward",
            f"{width}",
            "row_norm_backward",
            rows_back,
            lambda x=x, dy=dy, w=weight, rstd=rstd: list(rms_norm.backward(dy, x, w, rstd)),
            3 * one,
        )
        given = (x, adaln.Operands(dy, gate, scale, shift, weight))
        yield Tuned(
            "adaln",
            f"{width}",
            "adaln",
            one_row,
            lambda g=given: list(adaln.forward(*g, False, 1e-6, g[0].dtype, g[0].dtype)),
            4 * one,
        )
        back = (dy, dy, *given)

        def adaln_gradients(b=back) -> list[Tensor]:
            dx, operands = adaln.backward(*b, False, 1e-6, b[0].dtype)
            return [dx, *(t for t in operands if t is not None)]

        yield Tuned(
            "adaln backward",
            f"{width}",
            "adaln_backward",
            one_row_back,
            adaln_gradients,
            6 * one,
        )
    for heads, dim in ((16, 72), (24, 64)):
        angles = torch.randn(TOKENS, dim // 2, device="cuda")
        tables, weights = (angles.cos(), angles.sin()), (normal(dim), normal(dim))
        qkv, dout = normal(batch, TOKENS, 3, heads, dim), normal(batch, TOKENS, heads, dim)
        xs, one, shape = qkv.unbind(2), dout.nbytes, f"{heads} x {dim}"
        tokens = [Config(r, w) for r in (4, 8, 16, 32, 64) for w in (4, 8)]
        yield Tuned(
            "qk_norm_rope",
            shape,
            "heads",
            tokens,
            lambda xs=xs, w=weights, t=tables: list(qk_norm_rope.forward(xs, w, t, True, 1e-6)),
            6 * one,
        )
        dqkv = torch.empty_like(qkv)

        def packed_gradient(xs=xs, w=weights, t=tables, dout=dout, dqkv=dqkv) -> list[Tensor]:
            found = qk_norm_rope.backward((dout, dout, dout), xs, w, t, True, 1e-6, dqkv.unbind(2))
            return [dqkv, *found]

        yield Tuned("qk_norm_rope backward", shape, "heads", tokens, packed_gradient, 8 * one)
        plan = (weights, tables, True, dim**-0.5, 1e-6)
        # Keys stand in two halves at most.
        queries = [Config(r, w, columns=TOKENS // 2) for r in (64, 128) for w in (4, 8)]
        yield Tuned(
            "attention",
            shape,
            "attention",
            queries,
            lambda xs=xs, p=plan: [rope_attention.forward(*xs, *p)[0]],
            4 * one,
        )
        q, k, v = qk_norm_rope.forward(xs, weights, tables, True, 1e-6)
        out, lse = rope_attention.forward(q, k, v, (None, None), None, True, dim**-0.5, 1e-6)
        # On an H200 with triton 3.6 other tiles, and one stage, read where they may not.
        tiles = [Config(64, w, stages=n, columns=64) for w in (4, 8) for n in (2, 3)]
        yield Tuned(
            "attention backward",
            shape,
            "attention_backward",
            tiles,
            attention_gradient(q, k, v, out, lse, dout),
            8 * one,
        )


def attention_gradient(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor
) -> Callable[[], list[Tensor]]:
    grads = [torch.empty_like(x) for x in (q, k, v)]

    def run() -> list[Tensor]:
        plan = ((None, None), None, True, q.shape[-1] ** -0.5, 1e-6)
        rope_attention_backward.backward(dout, q, k, v, out, lse, *plan, grads)
        return grads

    return run


@contextlib.contextmanager
def using(setting: str, config: Config | None) -> Iterator[None]:
    """The kernels take this configuration; None keeps what `configs` says."""
    before = getattr(configs, setting)
    if config is not None:
        setattr(configs, setting, lambda *_: config)
    try:
        yield
    finally:
        setattr(configs, setting, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", help="kernels whose name begins so")
    parser.add_argument("--share", help="K/N: run every N-th candidate once, untimed")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: this needs a CUDA device", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    share = tuple(map(int, arguments.share.split("/"))) if arguments.share else None
    times = timings(arguments.batch, arguments.only or "", share)
    if share is None:
        report(times)
    return 0


def timings(batch: int, only: str = "", share: tuple[int, int] | None = None) -> dict[Timed, list[float]]:
    """(kernel, setting, configuration) -> milliseconds at each of its shapes; infinite where it does not run. Prints
    all."""
    copy = copy_bytes_per_second() / 1e3
    times: dict[Timed, list[float]] = {}
    number = 0
    for tuned in kernels(batch):
        if not tuned.name.startswith(only):
            continue
        expected = None if share else [t.float() for t in tuned.run()]
        for candidate in [None, *tuned.candidates]:
            number += 1
            if share and number % share[1] != share[0]:
                continue
            with using(tuned.setting, candidate):
                told = time_of(tuned, expected, share is None)
            if isinstance(told, str):
                print(f"{tuned.name} {tuned.shape} {label(candidate)}: {told}")
                told = math.inf
            elif share is None:
                share_of_copy = tuned.moved / told / copy
                print(f"{tuned.name} {tuned.shape} {label(candidate)}: {told:.4f} ms, {share_of_copy:.2f} of a copy")
            times.setdefault((tuned.name, tuned.setting, candidate), []).append(told)
    return times


def time_of(tuned: Tuned, expected: list[Tensor] | None, timed: bool) -> float | str:
    """Milliseconds, or why there are none."""
    try:
        found = tuned.run()
        torch.cuda.synchronize()
        for got, want in zip(found, expected or [], strict=False):
            if not (got.float() - want).norm() <= 0.01 * want.norm():
                return "differs from the present configuration"
        return device_milliseconds(tuned.run) if timed else 0.0
    except Exception as error:  # a configuration that does not compile or fit is none
        return f"{type(error).__name__}: {first_line(error)[:120]}"


def report(times: dict[Timed, list[float]]) -> None:
    print("\nfastest over all shapes, and how many times faster than the present configuration:")
    for name in dict.fromkeys(name for name, _, _ in times):
        sums = {candidate: sum(found) for (kernel, _, candidate), found in times.items() if kernel == name}
        ranked = sorted(sums, key=sums.__getitem__)[:3]
        told = ", ".join(f"{label(c)} {sums[None] / sums[c]:.2f}" for c in ranked)
        print(f"{name}: {told}")


def label(config: Config | None) -> str:
    if config is None:
        return "as it is"
    parts = [f"rows {config.rows}", f"warps {config.warps}"]
    parts += [f"{name} {value}" for name in ("columns", "blocks") if (value := getattr(config, name))]
    return " ".join([*parts, *([f"stages {config.stages}"] if config.stages > 1 else [])])


if __name__ == "__main__":
    sys.exit(main())
