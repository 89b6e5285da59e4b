"""A convolutional KL autoencoder from scratch: reconstruction, perceptual, adversarial, KL and alignment terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.images.identity import images_identity
from fae_core.latent_store.statistics import ChannelSums
from fae_core.models.no_init import no_initial_weights
from fae_core.random import SlotRandom
from fae_core.training import Phase, Task
from fae_decoders.baselines.conv_vae import ConvVAE
from fae_decoders.losses.alignment import Alignment
from fae_decoders.losses.pixel import PixelLoss
from fae_decoders.stages.adversary import Adversary
from fae_decoders.stages.config import VAEConfig
from fae_decoders.stages.images import ImageData
from fae_decoders.stages.preview import preview_rows, save_preview

if TYPE_CHECKING:
    from fae_core.images import ImageSource


class VAETask(Task):
    """Encoder and decoder on images; exports a ConvVAE with the statistics of its latents over the training images.

    Args:
        vae: Is trained; its latents have no statistics yet.
        source: The images.
        config: The training's settings.

    Raises:
        FAEError: The latents have statistics.
    """

    ema_modules = ("encoder", "decoder")

    def __init__(self, vae: ConvVAE, source: ImageSource, config: VAEConfig) -> None:
        if vae.spec.is_normalized:
            raise FAEError("an autoencoder is trained on latents without statistics; they are measured at its end")
        self.vae, self.config = vae, config
        self.data = ImageData(source, vae.spec.image_shape, config.data)
        self.read_groups = self.data.read_groups
        self.losses = PixelLoss(config.losses, vae.spec.image_shape)
        self.device = "cpu"
        vae.gradient_checkpointing = config.gradient_checkpointing
        self.modules: dict[str, nn.Module] = {"encoder": vae.encoder, "decoder": vae.decoder}
        grid = (vae.spec.height, vae.spec.width)
        self.alignment = Alignment(config.alignment, vae.spec.channels, grid) if config.alignment else None
        if self.alignment is not None:
            self.modules["projection"] = self.alignment.projection
        self.phases = [Phase("autoencoder", tuple(self.modules), self._loss)]
        self._adversary = Adversary(self.losses, self.modules, self.phases)
        aligned = config.alignment is not None and config.alignment.adaptive
        self.micro_batch_matters = aligned or self.losses.micro_batch_matters

    def __len__(self) -> int:
        return len(self.data)

    @property
    def exported(self) -> tuple[nn.Module, ...]:
        return (self.vae,)

    def identity(self) -> dict[str, Any]:
        aligned = {} if self.alignment is None else {"backbone": self.alignment.backbone.fingerprint()}
        return {"images": images_identity(self.data.source, show=True), **self.losses.identity(), **aligned}

    def prepare(self, device: str) -> None:
        self.device = device
        self.losses.to(device)
        if self.alignment is not None:
            self.alignment.to(device)
        self.data.prepare()

    def load(self, indices: list[int], random: SlotRandom) -> dict[str, Tensor]:
        return {"target": self.data.load(indices, random)}

    def preview(self, folder: Path, step: int, modules: dict[str, nn.Module]) -> dict[str, float]:
        target = self.data.read(preview_rows(len(self))).to(self.device)
        encoder, decoder = (modules[name].to(self.device) for name in ("encoder", "decoder"))
        decoded = (decoder(ConvVAE.as_posterior(*encoder(2 * target - 1)).mode()) + 1) / 2
        return save_preview(target, decoded, folder, step)

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        with no_initial_weights():
            finished = ConvVAE(self.vae.config)
        for name in ("encoder", "decoder"):
            getattr(finished, name).load_state_dict({k: v.cpu() for k, v in modules[name].state_dict().items()})
        finished.to(self.device).eval()
        measure_statistics(finished, self.data, self.device)
        finished.cpu().save_pretrained(folder)

    def _loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        target = batch["target"]
        posterior = ConvVAE.as_posterior(*self.modules["encoder"](2 * target - 1))
        z = posterior.sample(random)
        decoded = (self.modules["decoder"](z) + 1) / 2
        self._adversary.remember(decoded, random)
        terms = self.losses.decoder_terms(decoded, target, random, self.vae.decoder.last_layer)
        terms["kl"] = posterior.kl().mean()
        terms["loss"] = terms["loss"] + self.config.beta * terms["kl"]
        if self.alignment is not None:
            aligned = self.alignment.terms(z, target, terms["reconstruction"], self.vae.encoder.last_layer)
            terms["loss"] = terms["loss"] + aligned.pop("loss")
            terms.update(aligned)
        return terms


@torch.no_grad()
def measure_statistics(vae: ConvVAE, data: ImageData, device: str) -> None:
    """Set the autoencoder's per-channel statistics to those of its posterior means over images.

    Args:
        vae: Is changed.
        data: At most its `statistics_images` are encoded.
        device: Where the autoencoder is.
    """
    sums = ChannelSums.empty(vae.spec.channels)
    for _, images in data.batches(data.spread(), "latents of the data"):
        sums = sums + ChannelSums.of(vae.posterior(images.to(device)).mode())
    vae.with_statistics(*sums.mean_std())
