"""Stage Ia: the adapter and the feature decoder learn to pass frozen features through a small latent (equation 4.1)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_core.hub import ModelConfig
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.training import Phase, Task
from fae_decoders.fae import FAE
from fae_decoders.feature_decoder import FeatureDecoder
from fae_decoders.feature_space import FeatureSpace
from fae_decoders.losses.vae import (
    channel_weights,
    cosine_loss,
    feature_loss,
    kl_to_standard_normal,
    unexplained_variance,
)
from fae_decoders.stages.data import DataConfig, StageData
from fae_decoders.stages.statistics import ChannelStatistics

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder import FAEEncoder


class AutoencoderConfig(ModelConfig):
    """beta: weight of the KL term, both terms being means over elements. cosine: weight of 1 - cosine similarity per token.
    layer_weights: relative weight of each of the backbone's layers in the feature loss, where it concatenates several.
    feature_norm: "standardize" every channel of the features over the data, or leave them ("identity", the paper).
    gradient_checkpointing: recompute the decoder's blocks in the backward pass.
    """

    beta: float = Field(1e-3, ge=0)
    cosine: float = Field(0.0, ge=0)
    layer_weights: tuple[float, ...] | None = None
    feature_norm: str = Field("standardize", pattern="^(standardize|identity)$")
    gradient_checkpointing: bool = False
    data: DataConfig = DataConfig()


class AutoencoderTask(Task):
    """Adapter + feature decoder on features of a frozen backbone; exports an FAE without a pixel decoder.

    During training latents are not normalised: the decoder's spec has mean 0 and standard deviation 1. `export` measures the
    posterior means over the training images and writes their statistics into the spec; the decoder denormalises with them.
    """

    ema_modules = ("adapter", "feature_decoder")

    def __init__(
        self, encoder: FAEEncoder, decoder: FeatureDecoder, source: ImageSource, config: AutoencoderConfig
    ) -> None:
        if decoder.spec.shape != encoder.spec.shape:
            raise FAEError(f"the encoder makes latents {encoder.spec.shape}, the decoder takes {decoder.spec.shape}")
        if decoder.config.feature_dim != encoder.backbone.dim:
            raise FAEError(
                f"the backbone's features have {encoder.backbone.dim} channels, the decoder makes {decoder.config.feature_dim}"
            )
        if decoder.spec.is_normalized:
            raise FAEError("a feature decoder is trained on latents without statistics; they are measured at its end")
        self.encoder, self.config = encoder, config
        self.data = StageData(source, encoder, config.data)
        decoder.gradient_checkpointing = config.gradient_checkpointing
        self.modules = {"adapter": encoder.adapter, "feature_decoder": decoder}
        self.phases = [Phase("autoencoder", ("adapter", "feature_decoder"), self._loss)]
        self._weights = self._channel_weights()

    def __len__(self) -> int:
        return len(self.data)

    def to(self, device: str) -> None:
        self.data.to(device)
        self._weights = None if self._weights is None else self._weights.to(device)
        standardize = self.config.feature_norm == "standardize"
        if standardize or self.data.fits:
            self.data.prepare(fit_norm=standardize)

    def load(self, indices: list[int], random: SlotRandom) -> dict[str, Tensor]:
        return self.data.load(indices, random)

    def _loss(self, batch: dict[str, Tensor], random: SlotRandom) -> dict[str, Tensor]:
        features = self.data.batch_features(batch)
        mean, logvar = posterior(self.modules["adapter"], features, self.encoder.backbone.grid)
        z = mean + (0.5 * logvar).exp() * random.normal(mean.shape[1:], "posterior", mean.device)
        reconstructed = self.modules["feature_decoder"](z)
        terms = {
            "l2": feature_loss(reconstructed, features, self._weights),
            "kl": kl_to_standard_normal(mean, logvar),
        }
        loss = terms["l2"] + self.config.beta * terms["kl"]
        if self.config.cosine:
            terms["cosine"] = cosine_loss(reconstructed, features)
            loss = loss + self.config.cosine * terms["cosine"]
        with torch.no_grad():
            terms["unexplained"] = unexplained_variance(reconstructed, features)
        return {"loss": loss, **terms}

    def export(self, folder: Path, modules: dict[str, nn.Module]) -> None:
        self._finished(modules).save_pretrained(folder)

    def _finished(self, modules: dict[str, nn.Module]) -> FAE:
        """The trained parts as one FAE that speaks normalised latents."""
        adapter = copy.deepcopy(modules["adapter"]).eval()
        mean, std = self._latent_statistics(adapter)
        encoder = self.encoder.finished(adapter, mean, std)
        trained = modules["feature_decoder"]
        config = trained.config.model_copy(update={"features": FeatureSpace.of(encoder)})
        decoder = FeatureDecoder(config, encoder.spec)
        decoder.load_state_dict({name: value.cpu() for name, value in trained.state_dict().items()})
        return FAE(encoder, decoder).eval()

    @torch.no_grad()
    def _latent_statistics(self, adapter: nn.Module) -> tuple[list[float], list[float]]:
        """Per-channel mean and standard deviation of the posterior mean over the training images."""
        adapter = adapter.to(self.data.device)
        statistics = ChannelStatistics(self.encoder.spec.channels)
        for features in self.data.feature_batches(self.data.spread(), "latents of the data"):
            mean, _ = posterior(adapter, features, self.encoder.backbone.grid)
            statistics.add(mean.movedim(1, -1))
        # A dead channel has no scale of its own; any small positive one keeps normalisation finite.
        return statistics.mean.tolist(), statistics.std.clamp_min(1e-6).tolist()

    def _channel_weights(self) -> Tensor | None:
        weights, dims = self.config.layer_weights, self.encoder.backbone.layer_dims
        if weights is None:
            return None
        if len(weights) != len(dims):
            raise FAEError(f"layer_weights has {len(weights)} numbers, the backbone gives {len(dims)} layers")
        return channel_weights(weights, tuple(dims))


def posterior(adapter: nn.Module, features: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (B, C, h, w), unnormalised, of features (B, N, D)."""
    mean, logvar = adapter(features, grid)
    return tuple(x.float().transpose(1, 2).unflatten(2, grid) for x in (mean, logvar))


def training_spec(spec: LatentSpec) -> LatentSpec:
    """The spec of latents while they are being learned: no statistics, no fingerprint yet."""
    import dataclasses

    return dataclasses.replace(spec, mean=None, std=None, fingerprint="")
