"""PatchFlow: a rectified flow whose network is a small MLP-Mixer over the positions of a latent."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fae_core.config import Config
from fae_core.layers import LabelEmbedding, TimestepEmbedding, class_labels
from fae_core.models.pretrained import PretrainedModel
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec


class PatchFlowConfig(Config):
    width: int = Field(default=64, ge=4)
    depth: int = Field(default=4, ge=1)
    classes: int = Field(default=1, ge=1)
    class_dropout: float = Field(default=0.1, ge=0, lt=1)


class PatchFlow(PretrainedModel[PatchFlowConfig]):
    model_type = "patch-flow"  # the key of the entry points
    config_class = PatchFlowConfig

    def __init__(self, config: PatchFlowConfig, spec: LatentSpec) -> None:
        super().__init__(config, spec)
        width, positions = config.width, spec.height * spec.width
        self.proj_in, self.proj_out = nn.Linear(spec.channels, width), nn.Linear(width, spec.channels)
        self.time, self.label = TimestepEmbedding(width), LabelEmbedding(config.classes, width)
        self.mix = nn.ModuleList(nn.Linear(positions, positions) for _ in range(config.depth))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(config.depth)
        )

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        x = self.proj_in(z.flatten(2).mT) + (self.time(t) + self.label(labels))[:, None]
        for mix, mlp in zip(self.mix, self.mlp, strict=True):
            x = x + mix(x.mT).mT
            x = x + mlp(x)
        return self.proj_out(x).mT.unflatten(2, z.shape[2:])

    def loss(self, z: Tensor, condition: Any, *, random: SlotRandom | None = None) -> dict[str, Tensor]:
        self.spec.check(z)
        random = random or SlotRandom(torch.seed(), range(len(z)))
        labels = class_labels(condition, len(z), self.config.classes).to(z.device)
        if self.training:
            dropped = random.uniform((), "dropout", z.device) < self.config.class_dropout
            labels = labels.where(~dropped, self.label.null_label)
        t, noise = random.uniform((), "time", z.device), random.normal(z.shape[1:], "noise", z.device)
        state = z + t[:, None, None, None] * (noise - z)
        return {"loss": (self(state, t, labels) - (noise - z)).square().mean()}

    def sample(
        self,
        condition: Any,
        *,
        noise: Tensor | None = None,
        random: SlotRandom | None = None,
        steps: Annotated[int, Field(ge=1)] = 20,
        guidance: Annotated[float, Field(ge=0)] = 1.0,
    ) -> Tensor:
        device = next(self.parameters()).device
        random = random or SlotRandom(torch.seed(), range(len(condition)))
        z = random.normal(self.spec.shape, "noise", device) if noise is None else noise
        labels = class_labels(condition, len(z), self.config.classes).to(device)
        null = torch.full_like(labels, self.label.null_label)
        for step in range(steps):
            t = torch.full((len(z),), 1 - step / steps, device=device)
            velocity = self(z, t, labels)
            if guidance != 1:
                velocity = torch.lerp(self(z, t, null), velocity, guidance)
            z = z - velocity / steps
        return z

    def dry_run(self, batch: int) -> Tensor:
        z = self.dry_input(batch, *self.spec.shape)
        return self(z, z.new_zeros(batch), torch.zeros(batch, dtype=torch.long, device=z.device))
