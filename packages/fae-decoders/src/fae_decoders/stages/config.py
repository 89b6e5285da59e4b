"""What can be chosen about the stages of training. torch is not imported, so that settings are checked at once."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fae_core.config import Config
from fae_core.errors import FAEError
from fae_core.machine import available_threads
from fae_decoders.losses.config import AlignmentConfig, PixelLossConfig

NOT_MEASURED = "not measured"


class DataConfig(Config):
    """How a stage reads its images.

    Args:
        flip: Mirror half of the images.
        cache_gb: Memory in GiB per process for features and targets; with `flip` they are not kept.
        norm_images: How many images, evenly spread over the data, FeatureNorm and the features' root mean square are
            measured on before the first step; all of them, where features are kept in memory.
        statistics_images: How many the latents' statistics are measured on at the end.
        read_batch: Images at a time in passes over the data.
        read_threads: Threads that decode images; None: as many as the process may use cores.
    """

    flip: bool = False
    cache_gb: float = Field(default=4.0, ge=0)
    norm_images: int = Field(default=512, ge=1)
    statistics_images: int = Field(default=50_000, ge=1)
    read_batch: int = Field(default=64, ge=1)
    read_threads: int | None = Field(default=None, ge=1)

    @property
    def threads(self) -> int:
        """How many threads decode images."""
        return self.read_threads or available_threads()


class AutoencoderConfig(Config):
    """Settings of stage Ia.

    Args:
        beta: Weight of the KL term; both terms are means over elements. 0 leaves it out, as the adapter's latent_norm
            needs it.
        noise: Mean absolute standard deviation of the noise that latents carry in training beside their posterior's.
            Each image has one of its own, from N(0, (noise / 0.8)^2): GAE's, which takes 0.2 with RMS-normalised
            latents.
        cosine: Weight of 1 - cosine similarity per token.
        layer_weights: Relative weight of each backbone layer in the feature loss, where features concatenate several.
        gradient_checkpointing: Recompute the decoder's blocks in the backward pass.
        data: How the images are read.
    """

    beta: float = Field(default=1e-3, ge=0)
    noise: float = Field(default=0.0, ge=0)
    cosine: float = Field(default=0.0, ge=0)
    layer_weights: tuple[float, ...] | None = None
    gradient_checkpointing: bool = False
    data: DataConfig = DataConfig()


class PixelNoiseConfig(Config):
    """Settings of stage Ib.

    Args:
        sigma: Standard deviation of the noise; see `fae_decoders.stages.pixel_noise` for its unit.
        relative: Whether sigma is in units of the features' root mean square over the data.
        sigma_backbones: Names of the backbones that a sigma in the features' own units was chosen for; another one is
            refused. Empty: any.
        reference_rms: Root mean square of the features for which sigma was chosen, in their own units; "not measured":
            a reference encoder must be given, on which it is measured. None: no reference.
        gradient_checkpointing: Recompute the decoder's blocks in the backward pass.
        losses: Weights and choices of the loss terms.
        data: How the images are read.
    """

    sigma: float = Field(default=0.4, ge=0)
    relative: bool = True
    sigma_backbones: tuple[str, ...] = ()
    reference_rms: Annotated[float, Field(gt=0, le=1e6)] | Literal["not measured"] | None = None
    gradient_checkpointing: bool = False
    losses: PixelLossConfig = PixelLossConfig()
    data: DataConfig = DataConfig()

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if not self.relative and self.reference_rms is not None:
            raise ValueError("relative: false and reference_rms exclude each other: one sigma has one unit")
        return self

    def require_reference(self, given: bool) -> None:
        """Check that reference_rms is known or will be measured.

        Args:
            given: Whether there is an encoder on which to measure it.

        Raises:
            FAEError: It is neither, or it would be both.
        """
        if self.reference_rms == NOT_MEASURED and not given:
            raise FAEError(
                f"noise.sigma {self.sigma:g} is for DINOv2-g and is scaled by the features' norm, but "
                "noise.reference_rms, the norm of DINOv2-g's features, is not measured: --reference fae-dinov2-g-32 "
                "measures it on the same images, --set noise.reference_rms=NUMBER takes it from an earlier run's "
                "config.yaml"
            )
        if self.reference_rms != NOT_MEASURED and given:
            raise FAEError(
                f"a reference encoder measures noise.reference_rms, which is {self.reference_rms}: leave it out, "
                f'or set noise.reference_rms="{NOT_MEASURED}"'
            )

    def require_unit(self, backbone: str, standardised: bool) -> None:
        """Check that sigma is not in the units of other features.

        Args:
            backbone: The name of the backbone that makes the features.
            standardised: Whether FeatureNorm standardises them.

        Raises:
            FAEError: It is.
        """
        chosen = self.sigma_backbones
        if self.relative or not chosen or (backbone in chosen and not standardised):
            return
        raise FAEError(
            f"noise.sigma {self.sigma:g} is for the features of {' and '.join(chosen)} as they are, not for "
            f"{'standardised ones of ' if standardised else ''}{backbone}: --reference fae-dinov2-g-32 scales it by "
            "the features' norm, as the paper does; for a sigma of your own set noise.relative=true, or "
            "noise.sigma_backbones=[]"
        )


class PixelFinetuneConfig(Config):
    """Settings of stage II.

    Args:
        latent: Reconstruct from a "sample" of the posterior (the decoder also sees the spread that a generator will
            produce) or from its "mean" (as `FAE.reconstruct` does).
        latent_noise: Standard deviation of Gaussian noise on normalised latents, for a decoder of samples that carry
            noise, as a normalizing flow's do before they are denoised.
        gradient_checkpointing: Recompute the decoder's blocks in the backward pass.
        losses: Weights and choices of the loss terms.
        data: How the images are read.
    """

    latent: Literal["sample", "mean"] = "sample"
    latent_noise: float = Field(default=0.0, ge=0)
    gradient_checkpointing: bool = False
    losses: PixelLossConfig = PixelLossConfig()
    data: DataConfig = DataConfig()


class VAEConfig(Config):
    """Settings of a ConvVAE's training.

    SD's and VA-VAE's KL weight of 1e-6 is for sums over one image, and is beta = 1e-6 * C h w / (3 H W) here.

    Args:
        beta: Weight of the KL term; all terms are means over elements.
        losses: Weights and choices of the other loss terms.
        alignment: VA-VAE's term; None for a plain VAE.
        gradient_checkpointing: Recompute the levels in the backward pass.
        data: How the images are read.
    """

    beta: float = Field(default=1e-6, ge=0)
    losses: PixelLossConfig = PixelLossConfig()
    alignment: AlignmentConfig | None = None
    gradient_checkpointing: bool = False
    data: DataConfig = DataConfig()
