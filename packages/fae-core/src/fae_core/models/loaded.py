"""The types of what the loaders return, for editors and type checkers.

A type cannot say "a module that is a Generator, too"; these classes do. Nothing derives from them: what is loaded is an
instance of the class that a package registers, and protocols (`fae_core.protocols`) say what that class must have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fae_core.images.accept import AnyImages, ImageTransform
from fae_core.models.card import Card
from fae_core.models.pretrained import PretrainedModel
from fae_core.protocols import Decoder, Generator, Tokenizer
from fae_core.random import SlotRandom


class LoadedDecoder(nn.Module, Decoder):
    """What `load_decoder` returns."""


class LoadedTokenizer(nn.Module, Tokenizer, Decoder):
    """What `load_tokenizer` returns: all that FAE's own have.

    One that only encodes has no `decode` (`fae_core.protocols.can_decode` says it), one of a third party may lack
    `transform`.
    """

    @property
    def transform(self) -> ImageTransform:
        """A Pillow image to the tensor (3, H, W) that `encode` takes, read as `fae encode` reads a file."""
        raise NotImplementedError

    def encode(self, images: AnyImages) -> Tensor:
        """Normalised latents (B, C, h, w).

        Args:
            images: (B, 3, H, W) in [0, 1]; FAE's own also take Pillow images, uint8 tensors, arrays with their channels
                last, and lists of these, see `fae_core.images.accept`.
        """
        raise NotImplementedError

    def save_pretrained(
        self, folder: str | Path, *, overwrite: bool = False, card: Card | str | None = None, **options: Any
    ) -> Path:
        """Write a model folder, as `PretrainedModel.save_pretrained` does.

        Args:
            folder: Where it is made.
            overwrite: Replace an older folder.
            card: The model card's text, or a `Card`; None takes a short default.
            options: Of the class, such as `include_backbone` of an encoder.
        """
        raise NotImplementedError

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model, as `PretrainedModel.push_to_hub` does.

        Args:
            repo_id: "owner/name".
            options: As there.
        """
        raise NotImplementedError


class LoadedGenerator(PretrainedModel[Any], Generator):
    """What `load_generator` returns."""

    def sample(
        self, condition: Any, *, noise: Tensor | None = None, random: SlotRandom | None = None, **options: Any
    ) -> Tensor:
        """Normalised latents (B, C, h, w), one per condition.

        Args:
            condition: Class labels (B,) int64, or text (see the package).
            noise: The starting point (B, C, h, w); None draws one from `random`.
            random: Fixes every draw.
            options: Of the class's own `sample`.
        """
        raise NotImplementedError
