"""The protocols that make packages interchangeable.

A Generator makes latents; a Tokenizer turns images into latents and back; a Decoder is its way back alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fae_core.errors import FAEError
from fae_core.spec import LatentSpec

if TYPE_CHECKING:
    from torch import Tensor

    from fae_core.random import SlotRandom


@runtime_checkable
class Generator(Protocol):
    """Anything that learns and samples latents of one LatentSpec. Latents are normalised, (B, C, h, w).

    `condition` is what the model was built for: class labels (B,) int64, or text (see the package).
    """

    spec: LatentSpec

    def loss(self, z: Tensor, condition: Any, *, random: SlotRandom | None = None) -> dict[str, Tensor]:
        """Scalars to log, means over the batch; "loss" is the one to minimise. `random` fixes every draw."""
        ...

    def sample(
        self, condition: Any, *, noise: Tensor | None = None, random: SlotRandom | None = None, **options: Any
    ) -> Tensor:
        """Latents (B, C, h, w), one per condition. `noise` is the starting point; without it `random` draws one.

        options: named and annotated parameters, or fields of the class attribute `sample_config`; see `fae_core.models.draw`.
        """
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Images to latents; those that can also decode have `decode`. Images are (B, 3, H, W) in [0, 1]."""

    spec: LatentSpec

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w)."""
        ...


@runtime_checkable
class Decoder(Protocol):
    """What sampling needs of a tokenizer."""

    spec: LatentSpec

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W), fp32, in [0, 1], of normalised latents (B, C, h, w)."""
        ...


@runtime_checkable
class PosteriorTokenizer(Tokenizer, Protocol):
    """A tokenizer whose latents have a distribution."""

    def posterior(self, images: Tensor) -> Any:
        """Of images (B, 3, H, W): `mean` and `logvar` (B, C, h, w), not normalised, and `sample(random)`."""
        ...


@runtime_checkable
class FeatureEncoder(Protocol):
    """What makes features of images; an FAE's `encoder` is one."""

    def features(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, 3, H, W) in [0, 1]."""
        ...


def encoder_of(tokenizer: Any) -> Any:
    """The part of a tokenizer that reads images: its `encoder`, or the tokenizer itself."""
    return getattr(tokenizer, "encoder", tokenizer)


def read_size(tokenizer: Any) -> tuple[int, int]:
    """(height, width) at which to read images for a tokenizer: its own `read_size`, else the size its latents stand for."""
    return getattr(encoder_of(tokenizer), "read_size", tokenizer.spec.image_shape)


def can_decode(tokenizer: Any) -> bool:
    """Whether a tokenizer turns latents into images. One that has `decode` and lacks a part it needs says so: `can_decode`."""
    return isinstance(tokenizer, Decoder) and getattr(tokenizer, "can_decode", True)


def require_decoder(tokenizer: Any, name: object) -> None:
    """Raise FAEError, which calls the tokenizer `name`, unless it can decode."""
    if not can_decode(tokenizer):
        raise FAEError(f"{name} encodes but cannot paint images; give a tokenizer with a pixel decoder")


def class_count(generator: Any) -> int | None:
    """How many classes a generator was built for; None where it knows none."""
    return getattr(getattr(generator, "config", None), "classes", None)
