"""FeatureSpace: which features a decoder was trained on, so that parts of two FAEs are not mixed up unnoticed.

It is to the features (B, N, D) between a frozen backbone and the two decoders what LatentSpec is to latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fae_core.config import Config
from fae_core.errors import FAEError
from fae_core.models.build import on_meta

if TYPE_CHECKING:
    from fae_encoder import FAEEncoder

# Two passes over the same images may sum in another order, so normalisation statistics agree up to this many of their
# own standard deviations; statistics of other data differ by far more.
_TOLERANCE = 1e-3


class FeatureSpaceMismatch(FAEError):
    """Two parts were made for different features.

    Args:
        fields: Each field that differs, with (wanted, found).
        context: Which two parts they are.
    """

    def __init__(self, fields: dict[str, tuple[object, object]], context: str = "") -> None:
        self.fields = fields
        listed = "; ".join(f"{name}: wanted {wanted}, found {found}" for name, (wanted, found) in fields.items())
        cast = "; a model that was cast has other weights: load it in float32" if "backbone weights" in fields else ""
        super().__init__(f"feature spaces differ{f' ({context})' if context else ''}: {listed}{cast}")


class FeatureSpace(Config):
    """Features of one frozen backbone after one normalisation.

    Args:
        backbone: As `create_backbone` names it.
        dim: D.
        grid: (h, w) with N = h * w, row-major.
        image_size: (height, width) in pixels that the backbone sees.
        layers: Which of its layers.
        combine: How several layers are one feature: concatenated, or their mean or sum.
        final_norm: Whether its last norm is applied.
        fingerprint: Hash of the backbone's weights.
        mean: What `FeatureNorm` subtracts, D numbers; None is the identity (the paper's presets).
        std: What it divides by, as `mean`.
        choices: How images are prepared for the backbone and what else no weight shows, as its `unseen_in_weights`
            says it; None, as in folders of earlier versions, is not known and fits any.
    """

    backbone: str
    dim: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    layers: tuple[int, ...] = ()
    combine: str = "concatenate"
    final_norm: bool = True
    fingerprint: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    choices: str | None = None

    @classmethod
    def of(cls, encoder: FAEEncoder) -> FeatureSpace:
        """The space of `encoder.features(images)`; on the meta device without the hash and the statistics.

        Args:
            encoder: Whose features they are.
        """
        backbone, norm = encoder.backbone, encoder.feature_norm
        identity = norm.is_identity
        return cls(
            backbone=backbone.name,
            dim=backbone.dim,
            grid=backbone.grid,
            image_size=backbone.image_size,
            layers=backbone.layers,
            combine=backbone.config.combine if len(backbone.layers) > 1 else "concatenate",
            final_norm=backbone.final_norm,
            fingerprint="" if norm.mean.is_meta else backbone.fingerprint(),
            mean=None if identity else tuple(norm.mean.tolist()),
            std=None if identity else tuple(norm.std.tolist()),
            choices=None if backbone.config.interpolation is None else backbone.unseen_in_weights,  # not recorded once
        )

    def require(self, other: FeatureSpace, context: str = "") -> None:
        """Check that `other` is this space; under torch.device("meta") what weights and data decide is left out.

        Args:
            other: What was found.
            context: Which two parts are compared, for the error.

        Raises:
            FeatureSpaceMismatch: Names every field that differs.
        """
        fields: dict[str, tuple[object, object]] = {}
        hashes = () if on_meta() else ("fingerprint",)
        for name in ("backbone", "dim", "grid", "image_size", "layers", "combine", "final_norm", *hashes):
            wanted, found = getattr(self, name), getattr(other, name)
            if wanted != found:
                fields["backbone weights" if name == "fingerprint" else name] = (_short(wanted), _short(found))
        if None not in (self.choices, other.choices) and self.choices != other.choices:
            fields["choices that no weight shows"] = (self.choices or "none", other.choices or "none")
        if hashes and self.dim == other.dim and not _same_statistics(self, other):
            fields["feature normalisation"] = (_describe(self), _describe(other))
        if fields:
            raise FeatureSpaceMismatch(fields, context)


def _same_statistics(a: FeatureSpace, b: FeatureSpace) -> bool:
    """Whether means and stds agree up to _TOLERANCE standard deviations."""
    mean_a, std_a, mean_b, std_b = (
        value if value is not None else (default,) * a.dim
        for value, default in ((a.mean, 0.0), (a.std, 1.0), (b.mean, 0.0), (b.std, 1.0))
    )
    return all(
        abs(ma - mb) <= _TOLERANCE * sa and abs(sa - sb) <= _TOLERANCE * sa
        for ma, sa, mb, sb in zip(mean_a, std_a, mean_b, std_b, strict=True)
    )


def _describe(space: FeatureSpace) -> str:
    """The statistics in a few words."""
    if space.mean is None or space.std is None:
        return "none"
    (low, high), (least, most) = ((min(v), max(v)) for v in (space.mean, space.std))
    return f"means from {low:.3g} to {high:.3g}, stds from {least:.3g} to {most:.3g}"


def _short(value: Any) -> Any:
    """A value as an error shows it: hashes are cut."""
    return value[:12] + "..." if isinstance(value, str) and len(value) >= 64 else value
