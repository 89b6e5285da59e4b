"""The tables of docs/scaling.md: what each preset of the paper takes on so many GPUs, counted by fae_core.cost.counted,
and how fast the present device trains it, timed by fae_core.cost.measured.

python tools/bench/scaling_table.py --gpus 8
OMP_NUM_THREADS=1 python tools/bench/scaling_table.py --measure --blocks 6
python tools/bench/scaling_table.py --measure --device cuda --batch 32
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from device_time import now

from fae_core.cost.counted import estimate, measure_cost
from fae_core.cost.measured import device_name, measure_throughput
from fae_core.models.presets import load_preset
from fae_core.plugins import load_plugins

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
    parser.add_argument("--measure", action="store_true", help="time a device instead of counting for GPUs")
    parser.add_argument("--device", default="cpu", help="to time")
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
        "| preset | parameters | GFLOPs a sample, forward + backward | state, DDP / FSDP "
        "| activations a sample, plain / checkpointed "
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
    """Rates per core-second on a CPU, by the clock on a GPU."""
    gpu = arguments.device.startswith("cuda")
    reached = matrix_product(arguments.device)
    unit, scale = ("TFLOP/s", 1e12) if gpu else ("GFLOP/s", 1e9)
    print(
        f"{device_name(arguments.device)}, torch {torch.__version__}; a matrix product: {reached / scale:.0f} {unit}\n"
    )
    seconds, hours = ("second", "GPU-hours") if gpu else ("core-second", "core-hours")
    print(
        f"| preset | blocks timed | GFLOPs a sample | samples a {seconds} | {unit}, share of a matrix product's "
        f"| {hours} an epoch, measured |"
    )
    print("|---|---|---|---|---|---|")
    for name in arguments.presets:
        build = builder(name)
        blocks = None if load_preset(name)["model_type"] == "fae-encoder" else arguments.blocks
        found = measure_throughput(
            build, device=arguments.device, batch=arguments.batch, blocks=blocks, repeats=arguments.repeats
        )
        rate = found.samples_per_second if gpu else found.samples_per_core_second
        timed = f"{found.blocks[0]} of {found.blocks[1]}" if found.blocks else "all"
        speed = rate * found.whole
        print(
            f"| {name} | {timed} | {found.whole / 1e9:,.0f} | {rate:.4g} "
            f"| {speed / scale:.1f}, {speed / reached:.0%} | {IMAGENET / rate / 3600:,.{2 if gpu else 0}f} |",
            flush=True,
        )


def builder(name: str) -> partial:
    """What makes the model of a preset, given fields of its config that are to differ."""
    return partial(load_plugins("fae.models")[load_preset(name)["model_type"]].load().from_preset, name)


def matrix_product(device: str) -> float:
    """FLOPs per second of a product of two square matrices, the best of some rounds: fp32 and core-seconds on a CPU,
    bf16 on a GPU."""
    gpu = device.startswith("cuda")
    size, rounds = (8192, 20) if gpu else (2048, 5)
    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    if gpu:
        left, right = left.bfloat16(), right.bfloat16()
    best = float("inf")
    for number in range(rounds + 1):
        begun = now(device)
        left @ right
        if number:
            best = min(best, now(device) - begun)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
