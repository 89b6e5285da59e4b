"""The tables of docs/scaling.md: what each preset of the paper takes on so many GPUs, counted by fae_core.cost, and how fast the
present CPU trains it, timed by fae_core.throughput.

python tools/scaling_table.py --gpus 8
OMP_NUM_THREADS=1 python tools/scaling_table.py --measure --blocks 6
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import torch

from fae_core.cost import estimate, measure_cost
from fae_core.plugins import load_plugins
from fae_core.presets import load_preset
from fae_core.throughput import device_name, measure_throughput

PRESETS = (
    "fae-dinov2-g-32",
    "feature-decoder-1536",
    "pixel-decoder-l",
    "sit-xl",
    "lightningdit-xl",
    "mmdit-256",
    "mmdit-384",
    "starflow-1b",
)
IMAGENET = 1_281_167


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu-memory", type=float, default=80.0, help="GB")
    parser.add_argument("--tflops", type=float, default=989.0)
    parser.add_argument("--utilisation", type=float, default=0.4)
    parser.add_argument("--measure", action="store_true", help="time this CPU instead of counting for GPUs")
    parser.add_argument("--batch", type=int, default=2, help="samples a timed step")
    parser.add_argument("--blocks", type=int, help="time so many identical blocks only, where the model can be cut")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(arguments)
    else:
        counted(arguments)


def counted(arguments: argparse.Namespace) -> None:
    print(
        "| preset | parameters | GFLOPs a sample, forward + backward | state, DDP / FSDP | activations a sample, plain / checkpointed "
        "| most samples a GPU, DDP plain | GPU-hours an epoch, assumed |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in arguments.presets:
        cost = measure_cost(builder(name))
        set_up = partial(
            estimate,
            cost,
            gpus=arguments.gpus,
            batch_size=arguments.gpus,
            samples=IMAGENET,
            gpu_memory=arguments.gpu_memory,
            flops_per_second=arguments.tflops * 1e12 * arguments.utilisation,
        )
        ddp, fsdp = set_up(), set_up(parallel="fsdp")
        again = "-" if cost.checkpointed is None else f"{cost.checkpointed / 1e6:,.0f} MB"
        print(
            f"| {name} | {cost.parameters:,} | {cost.forward_flops / 1e9:,.0f} + {cost.backward_flops / 1e9:,.0f} "
            f"| {ddp.state:.1f} / {fsdp.state:.1f} GB | {cost.activations / 1e6:,.0f} MB / {again} "
            f"| {ddp.largest_batch:,} | {ddp.gpu_hours_per_epoch:.1f} |"
        )


def measured(arguments: argparse.Namespace) -> None:
    reached = matrix_product()
    print(f"{device_name('cpu')}, torch {torch.__version__}; a matrix product: {reached / 1e9:.0f} GFLOP/s\n")
    print(
        "| preset | blocks timed | GFLOPs a sample | samples a core-second | GFLOP/s, share of a matrix product's "
        "| core-hours an epoch, measured |"
    )
    print("|---|---|---|---|---|---|")
    for name in arguments.presets:
        build = builder(name)
        blocks = None if load_preset(name)["model_type"] == "fae-encoder" else arguments.blocks
        found = measure_throughput(build, batch=arguments.batch, blocks=blocks, repeats=arguments.repeats)
        rate = found.samples_per_core_second
        timed = f"{found.blocks[0]} of {found.blocks[1]}" if found.blocks else "all"
        speed = rate * found.whole
        print(
            f"| {name} | {timed} | {found.whole / 1e9:,.0f} | {rate:.4f} "
            f"| {speed / 1e9:.1f}, {speed / reached:.0%} | {IMAGENET / rate / 3600:,.0f} |",
            flush=True,
        )


def builder(name: str) -> partial:
    """What makes the model of a preset, given fields of its config that are to differ."""
    return partial(load_plugins("fae.models")[load_preset(name)["model_type"]].load().from_preset, name)


def matrix_product(size: int = 2048, rounds: int = 5) -> float:
    """FLOPs per core-second of an fp32 product of two square matrices; the best of some rounds."""
    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    left @ right
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        left @ right
        best = min(best, time.process_time() - begun)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
