"""The protocols that make packages interchangeable.

A Generator makes latents. A Tokenizer turns images into latents, and back where it can; a Decoder only turns latents
into images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from fae_core.errors import FAEError
from fae_core.spec import LatentSpec

if TYPE_CHECKING:
    from torch import Tensor

    from fae_core.random import SlotRandom


class SamplingStep(NamedTuple):
    """Where sampling is, for what watches it.

    Attributes:
        done: Share of the steps that are done, in [0, 1]; 0 at the start, 1 at the result.
        name: Of the place, such as "t = 0.50" or "block 2 of 6".
        z: The state there, (B, C, h, w) in the model's latents; None between two states.
    """

    done: float
    name: str
    z: Tensor | None


Observer = Callable[[SamplingStep], None]
"""What `sample` calls at every step; an exception that it raises ends the sampling.

One with an attribute `needs_states` that is False only counts steps, and no states have to be kept for it.
"""


@runtime_checkable
class Generator(Protocol):
    """A model that learns and samples latents of one LatentSpec. Latents are normalised, (B, C, h, w).

    It may have a number `evaluations`, which `sample` raises by one for each pass of one sample through the network.
    """

    spec: LatentSpec

    def loss(self, z: Tensor, condition: Any, *, random: SlotRandom | None = None) -> dict[str, Tensor]:
        """The training loss of a batch.

        Args:
            z: Normalised latents (B, C, h, w).
            condition: What the model was built for: class labels (B,) int64, or text (see the package).
            random: Fixes every draw.

        Returns:
            Scalars to log, means over the batch; "loss" is the one to minimise.
        """
        ...

    # To type checkers `*args, **options` is any signature, such as one with the options by name.
    def sample(self, condition: Any, *args: Any, **options: Any) -> Tensor:
        """Normalised latents (B, C, h, w), one per condition.

        Args:
            condition: As in `loss`.
            args: None are passed; all that follows is passed by name.
            options: `noise`, the starting point (B, C, h, w), None draws one from `random`; `random`, a `SlotRandom`,
                which fixes every draw, or None; and annotated parameters, or fields of the class's `sample_config` (see
                `fae_core.models.draw`). A parameter `observe` takes an `Observer`; a generator without one is only seen
                when it is done.
        """
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """A model that turns images (B, 3, H, W) in [0, 1] into latents; one that can also decode has `decode`."""

    spec: LatentSpec

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) of images (B, 3, H, W) in [0, 1].

        Args:
            images: (B, 3, H, W) in [0, 1], of the spec's aspect ratio.
        """
        ...


@runtime_checkable
class Decoder(Protocol):
    """The part of a tokenizer that sampling needs."""

    spec: LatentSpec

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, 3, H, W), fp32, in [0, 1], of normalised latents (B, C, h, w).

        Args:
            z: Normalised latents (B, C, h, w) of `spec`.
        """
        ...


@runtime_checkable
class PosteriorTokenizer(Tokenizer, Protocol):
    """A tokenizer whose latents have a distribution."""

    def posterior(self, images: Tensor) -> Any:
        """The distribution of images (B, 3, H, W): `mean` and `logvar` (B, C, h, w), raw, and `sample(random)`."""
        ...


@runtime_checkable
class FeatureEncoder(Protocol):
    """A model that turns images into features; an FAE's `encoder` is one."""

    def features(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, 3, H, W) in [0, 1]."""
        ...


@runtime_checkable
class AdaptingEncoder(FeatureEncoder, Protocol):
    """An encoder whose latents are made of its features, as an FAE's are."""

    def adapt(self, features_BND: Tensor) -> Any:
        """The posterior of features (B, N, D); its `mode()` is a latent (B, C, h, w), not normalised."""
        ...


@runtime_checkable
class Movable(Protocol):
    """What works on a device that it is told, such as latents that are encoded as they are read."""

    def to(self, device: str) -> Any:
        """Work on `device` from now on."""
        ...


def encoder_of(tokenizer: Any) -> Any:
    """The part of a tokenizer that reads images: its `encoder`, or the tokenizer itself."""
    return getattr(tokenizer, "encoder", tokenizer)


def read_size(tokenizer: Any) -> tuple[int, int]:
    """(height, width) of the images that a tokenizer takes: its own `read_size`, else its spec's `image_shape`."""
    own = getattr(tokenizer, "read_size", None)
    return own or getattr(encoder_of(tokenizer), "read_size", tokenizer.spec.image_shape)


def can_decode(tokenizer: Any) -> bool:
    """Whether a tokenizer turns latents into images.

    A tokenizer with a `decode` that needs a part which may be missing says so by its property `can_decode`.
    """
    return isinstance(tokenizer, Decoder) and getattr(tokenizer, "can_decode", True)


def require_decoder(tokenizer: Any, name: object) -> None:
    """Raise FAEError unless a tokenizer can decode.

    Args:
        tokenizer: Any model.
        name: What the error message calls it, such as its path.
    """
    if not can_decode(tokenizer):
        raise cannot_decode(name)


def cannot_decode(name: object) -> FAEError:
    """The error about a tokenizer that has to decode and cannot.

    Args:
        name: What the message calls it, such as its path.
    """
    return FAEError(
        f"{name} encodes but cannot paint images; give a tokenizer with a pixel decoder, such as a whole FAE"
    )


def class_count(generator: Any) -> int | None:
    """How many classes a generator was built for; None where it knows none."""
    return getattr(getattr(generator, "config", None), "classes", None)
