"""How much faster our diffusion transformer is than a plain one, on the same weights, in one process.

    python tools/bench/diffusion.py --preset lightningdit-b --batch 4
    python tools/bench/diffusion.py --preset lightningdit-xl --batch 32 --device cuda --precision bf16 --compile
    python tools/bench/diffusion.py --original CHECKOUT      # forward, beside hustvl/LightningDiT, on the CPU

The plain path is the textbook: scores and probabilities written out, the rotation by rotate-half, norms and modulation
one operation each, fp32 weights (with bf16, under autocast unless --plain-precision fp32). It is checked against ours
first. Times are CPU seconds on the CPU and wall seconds on a GPU, the best of several, ours and plain in turn; compare
ratios, not seconds. Guided sampling: plain makes two calls in every step, as the textbook does, on all times; ours
makes one batched call, and a plain one outside the guided interval.

Beside the original, all ways take turns; "products alone" is what is left of a forward pass when all but its matrix
products and attention are free, so that original / products is about the most that anyone can gain in this precision
with this library. Page faults are counted because fresh memory costs time too: MALLOC_TRIM_THRESHOLD_=4294967296
MALLOC_MMAP_THRESHOLD_=33554432 in the environment makes glibc keep what was freed. The original needs timm and einops;
its blocks carry torch.compile.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import resource
from collections.abc import Callable
from pathlib import Path

import torch
from device_time import seconds
from diffusion_rivals import load_original, plain_forward, plain_sample, plain_step, products_alone, randomise

from fae_core.random import SlotRandom
from fae_diffusion import Guidance, LightningDiT


def compare(name: str, ours: Callable[[], object], plain: Callable[[], object], device: str, repeats: int) -> None:
    """Prints the best of `repeats` of each, in turn, after a warm-up."""
    best = {"ours": math.inf, "plain": math.inf}
    for repeat in range(repeats + 1):
        for kind, function in (("ours", ours), ("plain", plain)):
            taken = seconds(function, device)
            if repeat:
                best[kind] = min(best[kind], taken)
    row = {"what": name, "ours_s": round(best["ours"], 4), "plain_s": round(best["plain"], 4)}
    row["times_faster"] = round(best["plain"] / best["ours"], 3)
    print(json.dumps(row), flush=True)


def beside_original(like: LightningDiT, arguments: argparse.Namespace) -> None:
    """Prints one table of forward passes. Theirs and ours have the same weights, and are compared first."""
    torch.set_num_threads(1)
    original, constructor = load_original(arguments.original, like)
    ours = LightningDiT.from_official(original.state_dict(), constructor)
    half = copy.deepcopy(ours).to(torch.bfloat16)
    z = torch.randn(arguments.batch, *ours.spec.shape)
    t, labels = torch.linspace(0.1, 0.9, arguments.batch), torch.arange(arguments.batch)

    def theirs_eager() -> torch.Tensor:
        with torch.compiler.set_stance("force_eager"):
            return original(z, 1 - t, labels)

    ways: dict[str, Callable[[], object]] = {"original, eager": theirs_eager, "ours": lambda: ours(z, t, labels)}
    if arguments.compile:
        fused = copy.deepcopy(ours)
        for block in fused.blocks:
            block.compile()
        ways |= {
            "original, compiled": lambda: original(z, 1 - t, labels),
            "ours, compiled": lambda: fused(z, t, labels),
        }
    if arguments.precision == "bf16":
        ways["ours, bf16"] = lambda: half(z, t, labels)
    ways["products alone"] = products_alone(ours, arguments.batch)
    best, faults = dict.fromkeys(ways, math.inf), dict.fromkeys(ways, 0)
    with torch.inference_mode():
        difference = (theirs_eager() + ours(z, t, labels)).abs().max()  # their velocity has the other sign
        for repeat in range(arguments.repeats + 1):
            for name, forward in ways.items():
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                taken = seconds(forward, "cpu")
                faults[name] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
                if repeat:
                    best[name] = min(best[name], taken)
    print(
        f"{arguments.preset}, {like.config.depth} blocks, batch {arguments.batch}, "
        f"torch {torch.__version__}, one thread"
    )
    print(f"largest difference of the two forwards: {difference:.2g}")
    print(f"{'':20}{'CPU s':>8}{'original / it':>15}{'page faults':>13}")
    for name, taken in best.items():
        print(f"{name:20}{taken:8.3f}{best['original, eager'] / taken:15.3f}{faults[name]:13}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lightningdit-b")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours")
    parser.add_argument("--plain-precision", choices=("fp32", "bf16"), help="of the plain path, instead of the same")
    parser.add_argument("--compile", action="store_true", help="compile our blocks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of guided sampling")
    parser.add_argument(
        "--original", type=Path, help="checkout of hustvl/LightningDiT: time only forwards, beside its own"
    )
    parser.add_argument("--depth", type=int, help="blocks, instead of the preset's")
    arguments = parser.parse_args()
    device = arguments.device

    torch.manual_seed(0)
    changes = {} if arguments.depth is None else {"depth": arguments.depth}
    plain = LightningDiT.from_preset(arguments.preset, **changes)
    if arguments.original is not None:
        beside_original(plain, arguments)
        return
    randomise(plain)
    plain = plain.to(device)
    model = LightningDiT(plain.config, plain.spec).to(device)
    model.load_state_dict(plain.state_dict())
    z = torch.randn(arguments.batch, *plain.spec.shape, device=device)
    t = torch.linspace(0.1, 0.9, arguments.batch, device=device)
    labels = torch.arange(arguments.batch, device=device) % plain.config.classes
    random = SlotRandom(0, range(arguments.batch))
    with torch.no_grad():
        difference = (model(z, t, labels) - plain_forward(plain, z, t, labels)).abs().max().item()
    print(json.dumps({"largest difference of the two forwards in fp32": difference}))

    if arguments.compile:
        for block in model.blocks:
            block.compile()
    bf16 = arguments.precision == "bf16"
    plain_bf16 = (arguments.plain_precision or arguments.precision) == "bf16"

    def autocast(wanted: bool) -> contextlib.AbstractContextManager:
        return torch.autocast(device, torch.bfloat16) if wanted else contextlib.nullcontext()

    def train_ours() -> None:
        with autocast(bf16):
            loss = model.loss(z, labels, random=random)["loss"]
        loss.backward()

    def train_plain() -> None:
        with autocast(plain_bf16):
            loss = plain_step(plain, z, labels, random)
        loss.backward()

    def forward_plain() -> torch.Tensor:
        with autocast(plain_bf16):
            return plain_forward(plain, z, t, labels)

    def sample_plain() -> torch.Tensor:
        with autocast(plain_bf16):
            return plain_sample(plain, z, labels, arguments.steps, 2.5)

    compare("training step", train_ours, train_plain, device, arguments.repeats)
    model, plain = model.eval(), plain.eval()
    model.zero_grad(set_to_none=True)
    plain.zero_grad(set_to_none=True)
    inference = model.to(torch.bfloat16) if bf16 else model
    with torch.inference_mode():
        compare("forward", lambda: inference(z, t, labels), forward_plain, device, arguments.repeats)
        for where, interval in (("on all times", (0.0, 1.0)), ("on t <= 0.7", (0.0, 0.7))):
            guidance = Guidance(scale=2.5, interval=interval)
            compare(
                f"guided sampling, {arguments.steps} Euler steps, guidance {where}",
                lambda guidance=guidance: inference.sample(
                    labels, noise=z, steps=arguments.steps, method="euler", shift=1.0, guidance=guidance
                ),
                sample_plain,
                device,
                arguments.repeats,
            )
    setting = {**vars(arguments), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({"setting": setting}))


if __name__ == "__main__":
    main()
