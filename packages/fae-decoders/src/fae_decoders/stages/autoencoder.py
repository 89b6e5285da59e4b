"""Stage Ia: the adapter and the feature decoder learn to pass frozen features through a small latent (equation 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.latent_store.statistics import ChannelSums
from fae_core.models.no_init import no_initial_weights
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.training import Phase, Task
from fae_decoders.fae.fae import FAE
from fae_decoders.fae.feature_decoder import FeatureDecoder
from fae_decoders.fae.feature_space import FeatureSpace
from fae_decoders.losses.vae import (
    channel_weights,
    cosine_loss,
    feature_loss,
    unexplained_variance,
)
from fae_decoders.stages.config import AutoencoderConfig
from fae_decoders.stages.data import StageData

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore


_MEAN_ABSOLUTE = 0.8  # of a standard normal number, as GAE rounds sqrt(2 / pi)


class AutoencoderTask(Task):
    """Adapter + feature decoder on features of a frozen backbone; exports an FAE without a pixel decoder.

    During training latents are not normalised: the decoder's spec has mean 0 and standard deviation 1.
    `export` measures the posterior means over the training images and writes their statistics into the spec;
    the decoder denormalises with them.

    Args:
        encoder: With the frozen backbone and the adapter to train.
        decoder: The feature decoder to train, for latents without statistics.
        source: The images.
        config: The stage's settings.
        features: Known features of the same images, read instead of computed.

    Raises:
        FAEError: Encoder and decoder do not fit each other, the decoder's latents have statistics, or `layer_weights`
            do not fit the backbone.
    """

    ema_modules = ("adapter", "feature_decoder")

    def __init__(
        self,
        encoder: FAEEncoder,
        decoder: FeatureDecoder,
        source: ImageSource,
        config: AutoencoderConfig,
        features: FeatureStore | None = None,
    ) -> None:
        if decoder.spec.shape != encoder.spec.shape:
            raise FAEError(f"the encoder makes latents {encoder.spec.shape}, the decoder takes {decoder.spec.shape}")
        if decoder.config.feature_dim != encoder.backbone.dim:
            raise FAEError(
                f"the backbone's features have {encoder.backbone.dim} channels, "
                f"the decoder makes {decoder.config.feature_dim}"
            )
        if decoder.spec.is_normalized:
            raise FAEError("a feature decoder is trained on latents without statistics; they are measured at its end")
        if encoder.config.adapter.latent_norm != "none" and config.beta:
            raise FAEError(
                "latents with adapter.latent_norm have no variance for a KL term to weigh; set autoencoder.beta=0"
            )
        self.encoder, self.config = encoder, config
        self.data = StageData(source, encoder, config.data, store=features)
        self.read_groups = self.data.read_groups
        decoder.gradient_checkpointing = config.gradient_checkpointing
        self.modules: dict[str, nn.Module] = {"adapter": encoder.adapter, "feature_decoder": decoder}
        self.phases = [Phase("autoencoder", ("adapter", "feature_decoder"), self._loss)]
        self._weights = self._channel_weights()

    def __len__(self) -> int:
        return len(self.data)

    @property
    def exported(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.modules["feature_decoder"]

    def identity(self) -> dict[str, Any]:
        # A fresh adapter has no fingerprint yet: it comes from the seed.
        start = self.encoder.spec.fingerprint
        return {**self.data.identity(), **({"encoder": start} if start else {})}

    def prepare(self, device: str) -> None:
        self.data.to(device)
        self._weights = None if self._weights is None else self._weights.to(device)
        if self.data.fits or self.data.wants_norm:
            self.data.prepare()

    def load(self, indices: list[int], random: SlotRandom) -> dict[str, Tensor]:
        return self.data.load(indices, random)

    def _loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        features = self.data.batch_features(batch)
        posterior = self.encoder.adapt(features)
        reconstructed = self.modules["feature_decoder"](self._noised(posterior.sample(random), random))
        loss = feature_loss(reconstructed, features, self._weights)
        terms = {"l2": loss}
        if self.encoder.config.adapter.latent_norm == "none":
            terms["kl"] = posterior.kl().mean()
            loss = loss + self.config.beta * terms["kl"]
        if self.config.cosine:
            terms["cosine"] = cosine_loss(reconstructed, features)
            loss = loss + self.config.cosine * terms["cosine"]
        with torch.no_grad():
            terms["unexplained"] = unexplained_variance(reconstructed, features)
        return {"loss": loss, **terms}

    def _noised(self, z: Tensor, random: SlotRandom) -> Tensor:
        """Latents (B, C, h, w) with the noise of the settings."""
        if not self.config.noise:
            return z
        scale = random.normal((1, 1, 1), "latent_noise_scale", z.device) * (self.config.noise / _MEAN_ABSOLUTE)
        return z + scale * random.normal(z.shape[1:], "latent_noise", z.device)

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        with self._finished_encoder(modules["adapter"]) as encoder:
            trained = modules["feature_decoder"]
            assert isinstance(trained, FeatureDecoder)
            config = trained.config.model_copy(update={"features": FeatureSpace.of(encoder)})
            with no_initial_weights():
                decoder = FeatureDecoder(config, encoder.spec)
            decoder.load_state_dict({name: value.cpu() for name, value in trained.state_dict().items()})
            FAE(encoder, decoder).save_pretrained(folder)

    @contextmanager
    def _finished_encoder(self, adapter: nn.Module) -> Iterator[FAEEncoder]:
        """The encoder with the adapter to export, the latents' statistics and a fingerprint; restored afterwards."""
        encoder, live, spec = self.encoder, self.encoder.adapter, self.encoder.spec
        encoder.adapter = adapter.to(self.data.device)
        try:
            encoder.with_statistics(*self._latent_statistics())
            encoder.stamp()
            yield encoder
        finally:
            encoder.adapter, encoder.spec = live, spec

    @torch.no_grad()
    def _latent_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of the posterior mean over the training images."""
        sums = ChannelSums.empty(self.encoder.spec.channels)
        for features in self.data.feature_batches(self.data.spread(), "latents of the data"):
            sums = sums + ChannelSums.of(self.encoder.adapt(features).mode())
        return sums.mean_std()

    def _channel_weights(self) -> Tensor | None:
        """The loss weight of every feature channel (D,), None for equal ones."""
        weights, dims = self.config.layer_weights, self.encoder.backbone.layer_dims
        if weights is None:
            return None
        if len(weights) != len(dims):
            raise FAEError(
                f"layer_weights has {len(weights)} numbers, the backbone gives {len(dims)} layers; set "
                "autoencoder.layer_weights to one number per layer or to null"
            )
        return channel_weights(weights, tuple(dims))


def training_spec(spec: LatentSpec) -> LatentSpec:
    """The spec of latents while they are being learned: without statistics and fingerprint."""
    return dataclasses.replace(spec, mean=None, std=None, fingerprint="")
