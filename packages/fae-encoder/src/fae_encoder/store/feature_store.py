"""FeatureStore: features that were computed once, read in place of a run of the backbone.

It is the latent store of an encoder whose adapter is the identity. A frozen backbone returns the same features in every
run, so it need not run again for every adapter or decoder that is trained on the same images: encode them once (`fae
encode --model <a preset with adapter type identity>`) and pass `--features STORE`.

Shapes: B images, N tokens row-major over the grid, D feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.latent_store import LatentStore
from fae_encoder.store.source_identity import identity_by_name, is_identity_by_name, same_source, source_identity

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder.encoder import FAEEncoder


class FeatureStore:
    """The features of every image of `source`, as `encoder.backbone` returns them, before FeatureNorm.

    Images are compared by content, or by name for a store of an earlier version.

    Args:
        folder: a latent store of the same images, read at the same size, by an encoder with the same backbone, an
            identity adapter and no feature statistics.
        encoder: the encoder whose backbone it replaces.
        source: the images.

    Raises:
        FAEError: if the store does not fit; the message names what differs.
        DataError: if the folder is damaged or no latent store.
    """

    def __init__(self, folder: str | Path, encoder: FAEEncoder, source: ImageSource) -> None:
        self.store = LatentStore(folder, sample=False)
        spec, (height, width) = self.store.spec, encoder.backbone.grid
        if spec.shape != (encoder.backbone.dim, height, width):
            raise FAEError(
                f"{folder} holds {'x'.join(map(str, spec.shape))}, the backbone's features are "
                f"{encoder.backbone.dim}x{height}x{width}"
            )
        if spec.fingerprint != encoder.features_fingerprint():
            raise FAEError(
                f"{folder} holds something else than the features of {encoder.backbone.name}: another backbone, "
                "other layers or sizes, an encoder whose adapter is not the identity, or one of an earlier version: "
                "encode them again"
            )
        # Stores of earlier versions knew their images by name alone.
        stored = self.store.plan.source
        if is_identity_by_name(stored):
            same = stored == identity_by_name(source, encoder.read_size, self.precision)
        else:
            same = same_source(stored, source_identity(source, encoder.read_size, self.precision, before=stored))
        if not same:
            raise FAEError(
                f"{folder} was made from other images than the {len(source)} given, in another order or size, or with "
                "other labels or captions"
            )
        if len(self.store) != len(source):
            raise FAEError(
                f"{folder} has features of {len(self.store)} images, and {len(source)} are given: encode them again "
                "with --survey, a report of `fae check`, and give it here, too, so that both leave the same images out"
            )

    def __len__(self) -> int:
        return len(self.store)

    @property
    def precision(self) -> str:
        """Of the arithmetic that computed the features: fp32 or bf16."""
        return self.store.plan.source.rpartition(" ")[2]

    def read(self, indices: Sequence[int]) -> Tensor:
        """Features of some images.

        Args:
            indices: the images' places in the source.

        Returns:
            (B, N, D), fp32, on the CPU.
        """
        mean, _ = self.store.read_posterior(indices)
        return mean.flatten(2).transpose(1, 2)
