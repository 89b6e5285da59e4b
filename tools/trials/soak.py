"""Does memory stay flat? Train a tiny model for many steps and watch the resident set.

    python tools/trials/soak.py --steps 10000 --out runs/soak

Latents are read from a store on disk, by a loader thread, with checkpoints, metrics and previews as in a long run.
Writes soak.json with the resident set every hundredth of the run, and exits with 1 if it grew by more than --limit MB
between a fifth of the run and its end.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from datetime import date
from pathlib import Path

import torch

from fae_core.latent_store import LatentStore, write_store
from fae_core.protocols import Generator
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.training import TrainConfig, train
from fae_core.training.generator_task import GeneratorTask
from fae_core.training.task import Batch
from fae_diffusion import LightningDiT


class WatchedTask(GeneratorTask):
    """Notes the resident set while it trains."""

    def __init__(self, generator: Generator, store: LatentStore, every: int) -> None:
        super().__init__(generator, store)
        self.every, self.resident = every, []

    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        if random.step % self.every == 0:
            self.resident.append((random.step, resident_megabytes()))
        return super().load(indices, random)


def resident_megabytes() -> float:
    """Linux's count of this process's pages in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=16.0, help="MB")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(arguments.out, ignore_errors=True)

    spec = LatentSpec(channels=4, height=4, width=4, image_size=32, backbone="none")
    latents = torch.randn(4096, *spec.shape, generator=torch.Generator().manual_seed(0))
    write_store(arguments.out / "latents", spec, latents, labels=[i % 10 for i in range(4096)])
    torch.manual_seed(0)
    model = LightningDiT.from_preset("lightningdit-tiny", spec=spec, width=32, heads=2, depth=2, classes=10)
    task = WatchedTask(model, LatentStore(arguments.out / "latents"), every=max(1, arguments.steps // 100))
    config = TrainConfig(
        steps=arguments.steps,
        batch_size=8,
        learning_rate=1e-4,
        checkpoint_every=max(1, arguments.steps // 20),
        log_every=10,
    )
    train(task, config, arguments.out / "run", device="cpu")

    settled = dict(task.resident)[arguments.steps // 5 // task.every * task.every]
    growth = task.resident[-1][1] - settled
    record = {
        "date": date.today().isoformat(),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "steps": arguments.steps,
        "growth_mb": round(growth, 1),
        "resident_mb": [[step, round(size, 1)] for step, size in task.resident],
    }
    (arguments.out / "soak.json").write_text(json.dumps(record) + "\n")
    print(
        f"{arguments.steps} steps: {settled:.1f} MB after a fifth, "
        f"{task.resident[-1][1]:.1f} MB at the end ({growth:+.1f})"
    )
    sys.exit(growth > arguments.limit)


if __name__ == "__main__":
    main()
