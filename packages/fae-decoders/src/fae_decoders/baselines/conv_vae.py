"""ConvVAE: a convolutional KL autoencoder as a tokenizer, the baseline that FAE is compared with.

images (B, 3, H, W) in [0, 1] -> posterior N(mean, std) (B, C, h, w) -> z, normalised by the spec -> images

It has an FAE's interface (`encode`, `posterior`, `decode`, `spec`, folders), so every generator and every command
takes either. It is trained from scratch (stages/vae.py), or holds the weights of an AutoencoderKL of diffusers or
LDM (VA-VAE, SD-VAE; imports/autoencoder_kl.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fae_core.config import Config, parse_config
from fae_core.images import AnyImages, ImageTransform
from fae_core.models.card import Card
from fae_core.models.folder import load_state
from fae_core.models.no_init import no_initial_weights
from fae_core.models.pretrained import PretrainedModel
from fae_core.models.rounding import round_parameters
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_decoders.baselines.config import ConvVAEConfig
from fae_decoders.baselines.conv_net import ConvDecoder, ConvEncoder
from fae_decoders.official.autoencoder_kl import translate_autoencoder_kl
from fae_encoder.backbones.preprocess import Preprocess
from fae_encoder.fingerprint import combine_fingerprints, fingerprint_state
from fae_encoder.posterior import LOGVAR_RANGE, Posterior


class ConvVAE(PretrainedModel[ConvVAEConfig]):
    """Images to latents and back. Images are (B, 3, H, W) in [0, 1], latents (B, C, h, w) normalised by `spec`.

    Results do not depend on the batch size beyond rounding.

    Args:
        config: The sizes.
        spec: The latents; by default those that follow from the sizes, with mean 0 and std 1 until `with_statistics`
            and without a fingerprint until `stamp`, which saving calls.

    Raises:
        LatentSpecMismatch: `spec` does not fit the sizes.
    """

    model_type: ClassVar[str] = "conv-vae"
    config_class: ClassVar[type[Config]] = ConvVAEConfig
    pipeline_tag: ClassVar[str | None] = "image-to-image"

    def __init__(self, config: ConvVAEConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        (height, width), stride = config.image_shape, config.stride
        own = LatentSpec(config.channels, height // stride, width // stride, config.image_size, self.model_type)
        if spec is None:
            self.spec = own
        else:
            own.require(spec, ignore=("mean", "std", "fingerprint"), context="the autoencoder's configuration")
        self.preprocess = Preprocess(config.image_shape, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.encoder = ConvEncoder(config.sizes(config.encoder_attention))
        self.decoder = ConvDecoder(config.sizes(config.decoder_attention))

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        *,
        image_size: int | tuple[int, int] | None = None,
    ) -> Self:
        """The autoencoder of another project's weights, in eval mode, with the statistics that its config names.

        Args:
            state_dict: In LDM's layout (VA-VAE, SD-VAE; also within a whole diffusion model's), or in diffusers'.
            config: LDM's constructor arguments, of which only `resolution` is needed, or diffusers' config.json.
            image_size: Pixels of the images that latents stand for; None: the config's, or 256.

        Raises:
            InvalidFile: It is something else, has a structure that is not supported, or is not of this config.
        """
        fields, state, statistics = translate_autoencoder_kl(state_dict, config or {}, image_size)
        with no_initial_weights():
            vae = cls(parse_config(ConvVAEConfig, fields, "the autoencoder's config"))
        load_state(vae, state, "the checkpoint")
        if statistics is not None:
            vae.with_statistics(*statistics)
        vae.stamp()
        return vae.eval()

    def dry_run(self, batch: int) -> Tensor:
        """A forward pass of random images, see PretrainedModel.

        Args:
            batch: How many images.
        """
        mean, _ = self.encoder(self.dry_input(batch, 3, *self.config.image_shape))
        return self.decoder(mean)

    @property
    def blocks(self) -> list[nn.Module]:
        """The levels of encoder and decoder: what `gradient_checkpointing` recomputes."""
        return [*self.encoder.blocks, *self.decoder.blocks]

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether levels are recomputed in the backward pass instead of kept."""
        return self.encoder.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, recompute: bool) -> None:
        self.encoder.gradient_checkpointing = self.decoder.gradient_checkpointing = recompute

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which images should be read: the size that the latents stand for."""
        return self.spec.image_shape

    @property
    def transform(self) -> ImageTransform:
        """A Pillow image to the tensor (3, H, W) that `encode` takes, read as `fae encode` reads a file."""
        return ImageTransform(self.read_size)

    def posterior(self, images: AnyImages) -> Posterior:
        """The distribution over raw latents.

        Args:
            images: (B, 3, H, W) in [0, 1], another size is resized; or Pillow images, uint8 tensors, arrays with their
                channels last, and lists of these, see `fae_core.images.accept`.

        Raises:
            FAEError: The images have another aspect ratio, shape or range.
        """
        return self.as_posterior(*self.encoder(self.preprocess(images).to(self._dtype)))

    @staticmethod
    def as_posterior(mean: Tensor, logvar: Tensor) -> Posterior:
        """The distribution that the encoder's two outputs (B, C, h, w) describe.

        Args:
            mean: (B, C, h, w).
            logvar: (B, C, h, w); it is clamped to `LOGVAR_RANGE`.
        """
        return Posterior(mean.float().contiguous(), logvar.float().clamp(*LOGVAR_RANGE).contiguous())

    @torch.no_grad()
    def encode(self, images: AnyImages, *, sample: bool = False, random: SlotRandom | None = None) -> Tensor:
        """Latents, normalised by the spec's statistics, where it has any; only `posterior` builds a graph.

        Args:
            images: as `posterior` takes them.
            sample: Draw from the posterior instead of taking its mean.
            random: Fixes the draw.

        Returns:
            (B, C, h, w).
        """
        posterior = self.posterior(images)
        return self.spec.normalize(posterior.sample(random) if sample else posterior.mode())

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W), fp32, clamped to [0, 1], of normalised latents (B, C, h, w).

        Args:
            z: Normalised latents (B, C, h, w).
        """
        self.spec.check(z)
        raw = self.spec.denormalize(z.float()).to(self._dtype)
        return ((self.decoder(raw).float() + 1) / 2).clamp(0, 1).contiguous()

    def reconstruct(self, images: AnyImages) -> Tensor:
        """decode(encode(images)).

        Args:
            images: (B, 3, H, W) in [0, 1], or what else `encode` takes.
        """
        return self.decode(self.encode(images))

    forward = reconstruct

    def with_statistics(self, mean: Any, std: Any) -> Self:
        """Set the per-channel mean and std by which latents are normalised; returns the autoencoder itself.

        Args:
            mean: C numbers, of the raw latents.
            std: C positive numbers.
        """
        self.spec = self.spec.with_statistics(mean, std)
        return self

    def stamp(self) -> LatentSpec:
        """Set the spec's fingerprint to that of the encoder's present weights, and return the spec."""
        default = ConvVAEConfig.model_fields["norm_groups"].default
        unseen = [] if self.config.norm_groups == default else [f"norm_groups={self.config.norm_groups}"]  # in weights
        fingerprint = combine_fingerprints(self.model_type, fingerprint_state(self.encoder.state_dict()), *unseen)
        self.spec = LatentSpec.from_dict({**self.spec.to_dict(), "fingerprint": fingerprint}, "autoencoder")
        return self.spec

    def round_parameters(self, dtype: torch.dtype) -> None:
        """Round every parameter to what `dtype` holds and stamp the spec anew.

        Args:
            dtype: Such as torch.float16; the parameters keep the type that they have.
        """
        round_parameters(self, dtype)
        self.stamp()

    def _write(self, folder: Path, card: Card) -> None:
        self.stamp()  # weights may have changed since
        super()._write(folder, card)

    @property
    def _dtype(self) -> torch.dtype:
        return self.decoder.conv_out.weight.dtype
