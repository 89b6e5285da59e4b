"""A small training run as a program of its own, so that tests can start it under torchrun, kill it, and resume it.

python toy_training.py RUN [--resume] [--steps N] [--accumulation N] [--parallel ddp|fsdp] [--delay SECONDS]
    [--adversarial] [--deterministic] [--keep-at STEP]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fae_core.layers import MLP, RMSNorm, SelfAttention
from fae_core.random import SlotRandom
from fae_core.training import Phase, Task, TrainConfig, train
from fae_core.training.task import Batch


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.attention, self.mlp = RMSNorm(dim), SelfAttention(dim, 2), MLP(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(self.norm(x))


class Denoiser(nn.Module):
    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.out = nn.Linear(dim, dim)  # first here and last in use, so that DDP finds another order than it assumed
        self.blocks = nn.ModuleList([Block(dim) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.out(x)


class ToyTask(Task):
    """Remove noise from 37 fixed sequences; with a critic as a second phase where `adversarial`."""

    def __init__(self, adversarial: bool = False, delay: float = 0.0, poison: tuple[int, ...] = ()) -> None:
        torch.manual_seed(0)
        self.modules = {"model": Denoiser()}
        self.ema_modules = ("model",)
        self.phases = [Phase("denoise", ("model",), self._loss)]
        if adversarial:
            self.modules["critic"] = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1))
            self.phases.append(Phase("critic", ("critic",), self._critic_loss, learning_rate=1e-4, start_step=2))
        self.data = torch.randn(37, 6, 8, generator=torch.Generator().manual_seed(1))
        self.delay, self.poison, self.seen = delay, poison, []

    def __len__(self) -> int:
        return len(self.data)

    def load(self, indices: list[int], random: SlotRandom) -> Batch:
        time.sleep(self.delay)
        self.seen += indices
        x = self.data[indices]
        return {"x": x * float("nan") if random.step in self.poison else x}

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        save_file(modules["model"].state_dict(), folder / "model.safetensors")

    def _loss(self, batch: Batch, random: SlotRandom) -> dict[str, Tensor]:
        noise = random.normal((6, 8), "noise", batch["x"].device)
        error = (self.modules["model"](batch["x"] + 0.3 * noise) - batch["x"]).square().mean()
        if "critic" not in self.modules:
            return {"loss": error}
        judged = self.modules["critic"](self.modules["model"](batch["x"])).mean()
        return {"loss": error - 0.01 * judged, "error": error}

    def _critic_loss(self, batch: Batch, random: SlotRandom) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.modules["model"](batch["x"])
        critic = self.modules["critic"]
        return {"loss": (1 - critic(batch["x"])).relu().mean() + (1 + critic(fake)).relu().mean()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--parallel", default="ddp")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--adversarial", action="store_true")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--keep-at", type=int, action="append", default=[])
    arguments = parser.parse_args()
    config = TrainConfig(
        steps=arguments.steps,
        batch_size=8,
        accumulation=arguments.accumulation,
        learning_rate=1e-2,
        warmup_steps=2,
        schedule="cosine",
        ema_decay=0.9,
        checkpoint_every=3,
        log_every=1,
        parallel=arguments.parallel,
        deterministic=arguments.deterministic,
        keep_at=tuple(arguments.keep_at),
    )
    task = ToyTask(arguments.adversarial, arguments.delay)
    train(task, config, arguments.run, resume=arguments.resume, device="cpu")


if __name__ == "__main__":
    main()
