"""The discriminator's phase: it judges what the decoder painted in the same step."""

from __future__ import annotations

from torch import Tensor, nn

from fae_core.random import SlotRandom
from fae_core.training import Phase
from fae_decoders.losses.pixel import PixelLoss


class Adversary:
    """Joins a task where its losses have a discriminator: adds the module and the phase, and carries images between phases."""

    def __init__(self, losses: PixelLoss, modules: dict[str, nn.Module], phases: list[Phase]) -> None:
        self.losses = losses
        # What was painted in this step, by the batch's first slot: the discriminator judges the same images.
        self._painted: dict[int, Tensor] = {}
        if losses.discriminator is not None:
            config = losses.config
            modules["discriminator"] = losses.discriminator
            phases.append(
                Phase(
                    "discriminator",
                    ("discriminator",),
                    self._loss,
                    learning_rate=config.discriminator_learning_rate,
                    betas=config.discriminator_betas,
                    start_step=config.discriminator_start,
                )
            )

    def remember(self, painted: Tensor, random: SlotRandom) -> None:
        """Keep what the decoder painted (B, 3, H, W) until the discriminator's turn."""
        if self.losses.discriminator is not None:
            self._painted[random.slots[0]] = painted.detach()

    def _loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        return self.losses.discriminator_terms(self._painted.pop(random.slots[0]), batch["target"], random)
