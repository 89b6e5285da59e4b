"""The discriminator's phase: it judges the images that the decoder made in the same step."""

from __future__ import annotations

from torch import Tensor, nn

from fae_core.random import SlotRandom
from fae_core.training import Phase
from fae_decoders.losses.pixel import PixelLoss


class Adversary:
    """The discriminator in a task, if its losses have one: adds the module and the phase, and hands images on to it.

    Args:
        losses: Of the task.
        modules: Of the task; the discriminator is added.
        phases: Of the task; the discriminator's is added.
    """

    def __init__(self, losses: PixelLoss, modules: dict[str, nn.Module], phases: list[Phase]) -> None:
        self.losses = losses
        self._decoded: dict[int, Tensor] = {}  # images of this step, by the batch's first slot
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

    def remember(self, decoded: Tensor, random: SlotRandom) -> None:
        """Keep the decoder's images (B, 3, H, W) until the discriminator's phase."""
        if self.losses.discriminator is not None:
            self._decoded[random.slots[0]] = decoded.detach()

    def _loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        return self.losses.discriminator_terms(self._decoded.pop(random.slots[0]), batch["target"], random)
