"""The second phase of a GAN: a discriminator that sees what the decoder made in the same step."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.models.build import on_meta
from fae_core.models.folder import load_state
from fae_core.models.identity import model_checksum
from fae_core.random import SlotRandom
from fae_core.training import Phase
from fae_decoders.losses.pixel import PixelLoss
from fae_decoders.stages.kept_discriminator import WEIGHTS, read_discriminator


class Adversary:
    """The discriminator in a task, if its losses have one: adds the module and the phase, and hands images on to it.

    Attributes:
        kept: Hash of the discriminator that was taken over; None for a new one.

    Args:
        losses: Of the task.
        modules: Of the task; the discriminator is added.
        phases: Of the task; the discriminator's is added.
        checkpoint: Take over the discriminator of this checkpoint of another run; None begins with a new one.

    Raises:
        InvalidFile: The checkpoint's discriminator is another network, or cannot be read.
        FAEError: There is a checkpoint, and no adversarial term.
    """

    def __init__(
        self, losses: PixelLoss, modules: dict[str, nn.Module], phases: list[Phase], checkpoint: Path | None = None
    ) -> None:
        self.losses = losses
        self.kept: str | None = None
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
                    moments_from=checkpoint,
                )
            )
        if checkpoint is not None and not on_meta():
            self._take_over(checkpoint)

    def _take_over(self, checkpoint: Path) -> None:
        """Load weights and anchors; the moments are loaded where the optimiser is (`Phase.moments_from`)."""
        if self.losses.discriminator is None:
            raise FAEError("a discriminator can be taken over where the losses have an adversarial term")
        found = read_discriminator(checkpoint)
        state = {name.removeprefix(WEIGHTS): value for name, value in found.items() if name.startswith(WEIGHTS)}
        load_state(self.losses.discriminator, state, str(checkpoint))
        self.losses.discriminator.begin_step(-1)  # settles the anchors: this run counts its steps from 0
        self.kept = model_checksum(found, None)

    def remember(self, decoded: Tensor, random: SlotRandom) -> None:
        """Keep the decoder's images (B, 3, H, W) until the discriminator's phase."""
        if self.losses.discriminator is not None:
            self._decoded[random.slots[0]] = decoded.detach()

    def _loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        return self.losses.discriminator_terms(self._decoded.pop(random.slots[0]), batch["target"], random)
