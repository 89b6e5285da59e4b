"""The Triton kernels on a GPU in one call of a few minutes: correctness first, then times against the alternatives.

    python tools/bench/kernels.py --out runs/kernels                 # needs a CUDA device
    python tools/bench/kernels.py --out runs/kernels --times         # times alone
    TRITON_INTERPRET=1 python tools/bench/kernels.py --check         # no GPU: correctness at small size

Against torch eager, torch.compile, each attention backend of torch, and xformers and Liger's RMSNorm where they are
installed. Times are medians with a cold L2 cache, as a program sees them: launches and Python count where the device
waits for them. Where a call can be captured in a CUDA graph, the device's own time stands beside it, and from that
follow the fractions of the copy bandwidth and matmul rate measured in the same process. Writes results.json and
results.md. The automatic choice learns from `fae_core.ops.tune` instead.

Exits with 2 where there is no device, with 1 where a kernel misses its accuracy; missed goals of speed are only
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from device_time import copy_bytes_per_second, device_milliseconds
from torch import Tensor

from fae_core import ops
from fae_core.errors import FAEError, first_line
from fae_core.files import write_atomic
from fae_core.models.presets import load_preset
from fae_core.ops import triton as kernels
from fae_core.testing import kernel_accuracy as accuracy

Outputs = tuple[Tensor, ...]
BATCHES = (32, 128, 512)
_OURS_THEN_SDPA = "norm and rotation by triton, sdpa"


@dataclass(frozen=True)
class Contest:
    """One op at one shape: `ways` to compute it from `inputs`, of which "triton" is ours.

    moved: bytes that a forward pass has to move; moved_back: a backward pass; flops: of the forward pass's products.
    """

    op: str
    shape: str
    batch: int
    inputs: list[Tensor]
    ways: dict[str, Callable[..., Outputs]]
    moved: int
    moved_back: int
    flops: int = 0


@dataclass
class Result:
    """Milliseconds by way: forward, and forward with backward."""

    contest: Contest
    forward: dict[str, float] = field(default_factory=dict)
    both: dict[str, float] = field(default_factory=dict)
    device_forward: dict[str, float] = field(default_factory=dict)
    device_both: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def on_device(self, way: str) -> tuple[float, float]:
        """Milliseconds of the forward and of the backward pass, without launches where the graphs could be captured."""
        forward, both = (
            (self.device_forward[way], self.device_both[way])
            if way in self.device_both
            else (self.forward[way], self.both[way])
        )
        return forward, both - forward

    def gain(self, over: str, passes: str = "both") -> float:
        """How many times faster ours is; 0 where either did not run."""
        times = self.both if passes == "both" else self.forward
        return times[over] / times["triton"] if over in times and "triton" in times else 0.0


def contests(batch: int, tokens: int, dtype: torch.dtype, device: str, compiled: bool) -> Iterator[Contest]:
    """Every op at the models' widths; narrow ones at the small size of --check."""
    size = torch.finfo(dtype).bits // 8
    small = device == "cpu"

    generator = torch.Generator(device).manual_seed(0)  # the default one stays disturbed by a capture that fails

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype, generator=generator).requires_grad_()

    def compile_(function: Callable[..., Outputs]) -> dict[str, Callable[..., Outputs]]:
        return {"compile": torch.compile(function, dynamic=False)} if compiled else {}

    for width in (96,) if small else (1152, 1536):
        x, update, weight = normal(batch, tokens, width), normal(batch, tokens, width), normal(width)
        rows = [normal(batch, width) for _ in range(3)]
        one = batch * tokens * width * size
        plain = _rms_norm("reference")
        ways = {"triton": _rms_norm("triton"), "eager": plain, **compile_(plain), **_other_rms_norms(device)}
        yield Contest("rms_norm", f"width={width}", batch, [x, weight], ways, 2 * one, 3 * one)
        plain = _adaln("reference")
        ways = {"triton": _adaln("triton"), "eager": plain, **compile_(plain)}
        yield Contest("adaln", f"width={width}", batch, [x, update, *rows, weight], ways, 4 * one, 6 * one)
    for heads, head_dim in ((2, 64),) if small else ((16, 72), (24, 64)):
        angles = torch.randn(tokens, head_dim // 2, device=device, generator=generator)
        tables = (angles.cos(), angles.sin())
        qkv, weights = normal(batch, tokens, 3, heads, head_dim), [normal(head_dim), normal(head_dim)]
        one = batch * tokens * heads * head_dim * size
        plain = _qk_norm_rope("reference", tables)
        ways = {"triton": _qk_norm_rope("triton", tables), "eager": plain, **compile_(plain)}
        yield Contest("qk_norm_rope", f"head_dim={head_dim}", batch, [qkv, *weights], ways, 6 * one, 8 * one)
        x = normal(batch, heads, tokens, head_dim)
        plain = _apply_rope("reference", tables)
        ways = {"triton": _apply_rope("triton", tables), "eager": plain, **compile_(plain)}
        yield Contest("apply_rope", f"head_dim={head_dim}", batch, [x], ways, 2 * one, 2 * one)
        fused = {
            "triton": _self_attention("triton", "triton", tables),
            "eager": _self_attention("reference", "sdpa", tables),
        }
        prologue = torch.compile(_qk_norm_rope("reference", tables), dynamic=False) if compiled else None
        for backend in ("sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "xformers"):
            fused[f"norm and rotation compiled, {backend}"] = _two_steps(
                prologue or _qk_norm_rope("reference", tables), backend
            )
        fused |= compile_(_self_attention("reference", "sdpa", tables))
        fused[_OURS_THEN_SDPA] = _two_steps(_qk_norm_rope("triton", tables), "sdpa")
        flops = 4 * batch * heads * tokens * tokens * head_dim
        shape = f"head_dim={head_dim},tokens={tokens}"
        yield Contest("self_attention", shape, batch, [qkv, *weights], fused, 4 * one, 8 * one, flops)


def block_contest(batch: int, dtype: torch.dtype, device: str, compiled: bool) -> Contest:
    """A LightningDiT-XL block, forward and backward."""
    from torch.func import functional_call

    from fae_core.layers import AxialRope
    from fae_diffusion.models.blocks import Block
    from fae_diffusion.models.config import LightningDiTConfig

    config = LightningDiTConfig.model_validate(load_preset("lightningdit-xl")["model"])
    if device == "cpu":
        config = config.model_copy(update={"width": 128, "heads": 2})
    side = 4 if device == "cpu" else 16
    block = Block(config).to(device, dtype)
    rope = AxialRope(side, side, config.width // config.heads).to(device)()
    names, parameters = zip(*block.named_parameters(), strict=True)
    x = torch.randn(batch, side**2, config.width, device=device, dtype=dtype).requires_grad_()
    c = torch.randn(batch, 1, config.width, device=device, dtype=dtype).requires_grad_()

    def step(x: Tensor, c: Tensor, *weights: Tensor) -> Outputs:
        # The weights are inputs, so that their gradients are computed too.
        return (functional_call(block, dict(zip(names, weights, strict=True)), (x, c, rope)),)

    def through(backend: str, function: Callable[..., Outputs]) -> Callable[..., Outputs]:
        def run(*inputs: Tensor) -> Outputs:
            with ops.backend(backend):
                return function(*inputs)

        return run

    ways = {"triton": through("triton", step), "eager": through("sdpa", step)}
    if compiled:
        ways["compile"] = through("sdpa", torch.compile(step, dynamic=False))
        ways["triton compiled"] = through("triton", torch.compile(step, dynamic=False))
    flops = 2 * batch * side**2 * sum(p.numel() for p in parameters if p.ndim == 2)
    return Contest("block", "LightningDiT-XL", batch, [x, c, *parameters], ways, 0, 0, flops)


def measure(contest: Contest) -> Result:
    """Median times of every way that runs."""
    from triton.testing import do_bench

    result = Result(contest)
    for name, way in contest.ways.items():
        try:
            outputs = way(*contest.inputs)
            ahead = [torch.randn_like(y) for y in outputs]

            def both(way: Callable[..., Outputs] = way, ahead: list[Tensor] = ahead) -> None:
                # Leaves of the stream that captures, which autograd would otherwise synchronise with another.
                inputs = [t.detach().requires_grad_() for t in contest.inputs]
                torch.autograd.grad(way(*inputs), inputs, ahead, allow_unused=True)

            both()
            result.forward[name] = do_bench(
                lambda way=way: way(*contest.inputs), warmup=20, rep=80, return_mode="median"
            )
            result.both[name] = do_bench(both, warmup=20, rep=80, return_mode="median")
        except Exception as error:  # triton's own errors are no RuntimeErrors, and one way must not end the others
            result.skipped[name] = first_line(error)[:200]
            torch.cuda.empty_cache()
            continue
        with contextlib.suppress(Exception):  # not everything can be captured; what runs has its time either way
            result.device_forward[name] = device_milliseconds(lambda way=way: way(*contest.inputs))
            result.device_both[name] = device_milliseconds(both)
    return result


def agree(contest: Contest) -> list[str]:
    """Run every way of a contest once, forward and backward, and compare it with eager torch: what differs or fails."""
    problems = []
    reference: list[Tensor] = []
    for name in ("eager", *(w for w in contest.ways if w != "eager")):
        try:
            outputs = contest.ways[name](*contest.inputs)
        except FAEError as error:
            # Backends of other libraries may be absent; ours may not.
            if name == "triton":
                problems.append(f"{contest.op} {contest.shape}: {error}")
            continue
        ahead = [torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view_as(y) for y in outputs]
        gradients = torch.autograd.grad(outputs, contest.inputs, ahead, allow_unused=True)
        found = [t.detach().float() for t in (*outputs, *gradients) if t is not None]
        reference = reference or found
        for got, want in zip(found, reference, strict=True):
            error = ((got - want).norm() / want.norm().clamp_min(1e-6)).item()
            if not error < 1e-4:
                problems.append(f"{contest.op} {contest.shape}, {name}: differs from eager by {error:.1e}")
    return problems


def roofs() -> dict[str, float]:
    """What this device does at its best here: bytes per second of a copy, operations per second of a bf16 product."""
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    product = device_milliseconds(lambda: square @ square)
    return {"copy_bytes_per_s": copy_bytes_per_second(), "matmul_flops_per_s": 2 * 8192**3 / product * 1e3}


def goals(results: list[Result], copy: float) -> list[tuple[str, float, float]]:
    """(what, wanted, found): the worst over the shapes and batch sizes that a goal speaks of; 0 where nothing ran."""

    def worst(op: str, value: Callable[[Result], float], batches: tuple[int, ...] = BATCHES) -> float:
        return min((value(r) for r in results if r.contest.op == op and r.contest.batch in batches), default=0.0)

    def bandwidth(r: Result, passes: str) -> float:
        if "triton" not in r.both:
            return 0.0
        forward, backward = r.on_device("triton")
        moved, time = (r.contest.moved, forward) if passes == "f" else (r.contest.moved_back, backward)
        return moved / max(time, 1e-9) * 1e3 / copy

    def over_best_two_steps(r: Result) -> float:
        others = [r.on_device(way)[0] for way in r.both if way.startswith("norm and rotation compiled")]
        return min(others) / r.on_device("triton")[0] if others and "triton" in r.both else 0.0

    # Small batches do not fill the device: bandwidth is judged at 128 and above.
    large = BATCHES[1:]
    return [
        ("RMSNorm forward, share of copy bandwidth", 0.90, worst("rms_norm", lambda r: bandwidth(r, "f"), large)),
        ("RMSNorm backward, share of copy bandwidth", 0.80, worst("rms_norm", lambda r: bandwidth(r, "b"), large)),
        (
            "qk-norm + RoPE forward, share of copy bandwidth",
            0.85,
            worst("qk_norm_rope", lambda r: bandwidth(r, "f"), large),
        ),
        ("adaLN forward + backward, times faster than eager", 2.0, worst("adaln", lambda r: r.gain("eager"))),
        (
            "attention forward, times faster than compiled norm + RoPE and the best backend",
            1.15,
            worst("self_attention", over_best_two_steps),
        ),
        (
            "LightningDiT-XL block forward + backward, times faster than eager",
            1.2,
            worst("block", lambda r: r.gain("eager")),
        ),
    ]


def markdown(results: list[Result], roof: dict[str, float], reached: list[tuple[str, float, float]], title: str) -> str:
    lines = [f"# {title}", ""]
    lines += [
        f"Copy {roof['copy_bytes_per_s'] / 1e12:.2f} TB/s, bf16 matmul "
        f"{roof['matmul_flops_per_s'] / 1e12:.0f} TFLOP/s.",
        "",
    ]
    lines += ["| goal | wanted | found | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {wanted:.2f} | {found:.2f} | {'met' if found >= wanted else 'missed'} |"
        for what, wanted, found in reached
    ]
    lines += [
        "",
        "| op | shape | batch | way | forward ms | x ours | of copy | of matmul "
        "| forward + backward ms | x ours | on the device |",
    ]
    lines += ["|---" * 11 + "|"]
    for r in results:
        c = r.contest
        for way in r.both:
            forward, device = r.forward[way], sum(r.on_device(way))
            copy = c.moved / r.on_device(way)[0] * 1e3 / roof["copy_bytes_per_s"]
            matmul = c.flops / r.on_device(way)[0] * 1e3 / roof["matmul_flops_per_s"]
            ours = [r.forward.get("triton", math.nan), r.both.get("triton", math.nan)]
            lines.append(
                f"| {c.op} | {c.shape} | {c.batch} | {way} | {forward:.4f} "
                f"| {forward / ours[0]:.2f} | {copy:.2f} | {matmul:.2f} "
                f"| {r.both[way]:.4f} | {r.both[way] / ours[1]:.2f} | {device:.4f} |"
            )
        lines += [
            f"| {c.op} | {c.shape} | {c.batch} | {way} | did not run: {why} | | | | | | |"
            for way, why in r.skipped.items()
        ]
    return "\n".join(lines) + "\n"


def _rms_norm(backend: str) -> Callable[..., Outputs]:
    return lambda x, weight: (ops.rms_norm(x, weight, backend=backend),)


def _other_rms_norms(device: str) -> dict[str, Callable[..., Outputs]]:
    ways = {"torch.rms_norm": lambda x, weight: (torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-6),)}
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        ways["liger"] = lambda x, weight: (LigerRMSNormFunction.apply(x, weight, 1e-6, 0.0, "llama", False),)
    return ways


def _adaln(backend: str) -> Callable[..., Outputs]:
    return lambda x, update, scale, shift, gate, weight: ops.adaln(
        x, scale, shift, update=update, gate=gate, weight=weight, backend=backend
    )


def _qk_norm_rope(backend: str, tables: tuple[Tensor, Tensor]) -> Callable[..., Outputs]:
    return lambda qkv, q_weight, k_weight: ops.qk_norm_rope(
        qkv, *tables, q_weight=q_weight, k_weight=k_weight, backend=backend
    )


def _apply_rope(backend: str, tables: tuple[Tensor, Tensor]) -> Callable[..., Outputs]:
    return lambda x: (ops.apply_rope(x, *tables, backend=backend),)


def _self_attention(prologue: str, backend: str, tables: tuple[Tensor, Tensor]) -> Callable[..., Outputs]:
    if backend == "triton":
        return lambda qkv, q_weight, k_weight: (
            ops.self_attention(qkv, *tables, q_weight=q_weight, k_weight=k_weight, backend="triton"),
        )
    return _two_steps(_qk_norm_rope(prologue, tables), backend)


def _two_steps(prologue: Callable[..., Outputs], backend: str) -> Callable[..., Outputs]:
    return lambda *inputs: (ops.attention(*prologue(*inputs), backend=backend),)


def check() -> int:
    """Correctness at small size: the accuracy contract, and every way of every contest against eager torch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = accuracy.check(count=1)
    for row in rows:
        print(row)
    problems = [str(row) for row in rows if not row.kept]
    torch.manual_seed(0)
    small = [*contests(2, 16, torch.float32, device, compiled=False)] if device == "cpu" else []
    for contest in (*small, *([block_contest(2, torch.float32, device, compiled=False)] if small else [])):
        found = agree(contest)
        problems += found
        print(f"{'FAIL' if found else 'ok  '} {contest.op:15} {contest.shape}: {', '.join(contest.ways)}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def benchmark(out: Path, batches: tuple[int, ...], dtype: torch.dtype) -> int:
    import triton

    name = torch.cuda.get_device_name()
    arch = f"sm_{kernels.capability(None)}"
    versions = {"device": name, "torch": torch.__version__, "triton": triton.__version__}
    torch.manual_seed(0)
    roof = roofs()
    results: list[Result] = []
    for batch in batches:
        for contest in contests(batch, 256, dtype, "cuda", compiled=True):
            results.append(measure(contest))
            _say(results[-1])
        if batch <= 128:
            results.append(measure(block_contest(batch, dtype, "cuda", compiled=True)))
            _say(results[-1])
        torch.compiler.reset()
        torch.cuda.empty_cache()
        reached = goals(results, roof["copy_bytes_per_s"])
        # So far: an interruption leaves what there is.
        write_results(out, results, reached, roof, arch, dtype, versions)
    for what, wanted, found in reached:
        print(f"{'met   ' if found >= wanted else 'MISSED'} {what}: {found:.2f}, goal {wanted:.2f}")
    print(f"wrote results.json and results.md to {out}")
    return 0


def write_results(
    out: Path,
    results: list[Result],
    reached: list[tuple[str, float, float]],
    roof: dict[str, float],
    arch: str,
    dtype: torch.dtype,
    versions: dict[str, str],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    times = [
        {
            "op": r.contest.op,
            "shape": r.contest.shape,
            "batch": r.contest.batch,
            "forward_ms": r.forward,
            "forward_backward_ms": r.both,
            "device_forward_ms": r.device_forward,
            "device_forward_backward_ms": r.device_both,
            "skipped": r.skipped,
        }
        for r in results
    ]
    listed = [{"goal": what, "wanted": wanted, "found": found} for what, wanted, found in reached]
    report = {**versions, "arch": arch, "dtype": str(dtype), "roofs": roof, "goals": listed, "results": times}
    write_atomic(out / "results.json", json.dumps(report, indent=1).encode())
    title = f"Kernels on {versions['device']}, torch {versions['torch']}, triton {versions['triton']}, {dtype}"
    write_atomic(out / "results.md", markdown(results, roof, reached, title).encode())


def _say(result: Result) -> None:
    ours = result.both.get("triton", math.nan)
    others = ", ".join(f"{way} {time / ours:.2f}" for way, time in result.both.items() if way != "triton")
    print(
        f"{result.contest.op} {result.contest.shape} batch {result.contest.batch}: {ours:.3f} ms; times ours: {others}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="correctness only; with TRITON_INTERPRET=1 on the CPU")
    parser.add_argument("--times", action="store_true", help="times without the correctness part")
    parser.add_argument("--out", type=Path, default=Path("runs/kernels"))
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--dtype", choices=("bf16", "fp16"), default="bf16")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not (arguments.check and kernels.INTERPRETED):
        way_out = "" if arguments.check else "; without one: TRITON_INTERPRET=1 python tools/bench/kernels.py --check"
        needed = "a CUDA device or TRITON_INTERPRET=1" if arguments.check else "a CUDA device"
        print(f"error: this needs {needed}{way_out}", file=sys.stderr)
        return 2
    try:
        failed = 0 if arguments.times else check()
        if arguments.check:
            return failed
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[arguments.dtype]
        return benchmark(arguments.out, tuple(arguments.batches), dtype) or failed
    except FAEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
