"""The table of docs/scaling.md: what each preset of the paper takes on so many GPUs, counted by fae_core.cost.

python tools/scaling_table.py --gpus 8
"""

from __future__ import annotations

import argparse
from functools import partial

from fae_core.cost import estimate, measure_cost
from fae_core.plugins import load_plugins
from fae_core.presets import load_preset

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
    arguments = parser.parse_args()
    print(
        "| preset | parameters | GFLOPs a sample, forward + backward | state, DDP / FSDP | activations a sample, plain / checkpointed "
        "| most samples a GPU, DDP plain | GPU-hours an epoch |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in PRESETS:
        cost = measure_cost(
            partial(load_plugins("fae.models")[load_preset(name)["model_type"]].load().from_preset, name)
        )
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


if __name__ == "__main__":
    main()
