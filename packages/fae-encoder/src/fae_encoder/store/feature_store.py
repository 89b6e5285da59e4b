"""Features computed once: the latent store of an encoder whose adapter is the identity, read back in the backbone's place.

A frozen backbone gives the same features in every run. Where many adapters or decoders are trained on the same images, it can
run once (`fae encode --model <a preset with adapter type identity>`), and `--features STORE` reads what it gave. Shapes: B
images, N tokens row-major over the grid, D feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.latent_store import LatentStore
from fae_encoder.store.source_identity import identity_by_name, is_identity_by_name, source_identity

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder.encoder import FAEEncoder


class FeatureStore:
    """The features of every image of `source`, as `encoder.backbone` gives them, before FeatureNorm.

    folder: a latent store made from the same images, read at the same size, by an encoder with the same backbone, an identity
    adapter and no statistics of features. Images are compared by content (those of a store that an earlier version wrote by
    name). Raises FAEError, naming what differs, where it is not one; DataError where it is damaged or no store.
    """

    def __init__(self, folder: str | Path, encoder: FAEEncoder, source: ImageSource) -> None:
        self.store = LatentStore(folder, sample=False)
        spec, (height, width) = self.store.spec, encoder.backbone.grid
        if spec.shape != (encoder.backbone.dim, height, width):
            raise FAEError(
                f"{folder} holds {'x'.join(map(str, spec.shape))}, the backbone's features are {encoder.backbone.dim}x{height}x{width}"
            )
        if spec.fingerprint != encoder.features_fingerprint():
            raise FAEError(
                f"{folder} holds something else than the features of {encoder.backbone.name}: another backbone, other layers or "
                "sizes, an encoder whose adapter is not the identity, or one of an earlier version: encode them again"
            )
        # Stores of earlier versions knew their images by name alone.
        identity = identity_by_name if is_identity_by_name(self.store.plan.source) else source_identity
        if self.store.plan.source != identity(source, encoder.read_size, self.precision):
            raise FAEError(
                f"{folder} was made from other images than the {len(source)} given, in another order or size, or with other labels "
                "or captions"
            )
        if len(self.store) != len(source):
            raise FAEError(f"{folder} has features of {len(self.store)} images, and {len(source)} are given")

    def __len__(self) -> int:
        return len(self.store)

    @property
    def precision(self) -> str:
        """Of the arithmetic that made them: fp32 or bf16."""
        return self.store.plan.source.rpartition(" ")[2]

    def read(self, indices: Sequence[int]) -> Tensor:
        """Features (B, N, D), fp32, on the CPU."""
        mean, _ = self.store.read_posterior(indices)
        return mean.flatten(2).transpose(1, 2)
