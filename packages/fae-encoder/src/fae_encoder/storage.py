"""How an FAEEncoder lies in its model folder: the backbone's weights inside, or named and checked by fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import CheckpointError, FAEError
from fae_core.folders import ENCODER, MODEL_CONFIG, MODEL_WEIGHTS
from fae_core.models.folder import load_state, read_config, require_unchanged
from fae_core.models.sources import resolve_model_folder
from fae_core.spec import LatentSpec

if TYPE_CHECKING:
    from fae_encoder.encoder import FAEEncoder, FAEEncoderConfig

STORED = "stored"
FETCHABLE = ("pretrained", "pip")
_BACKBONE = "backbone."
WHOLE_FAE = "fae"  # model_type of encoder and decoders together


def prepare(encoder: FAEEncoder, include_backbone: Literal["auto"] | bool) -> None:
    """Resolve where the backbone's weights will be found again, and write fingerprints into config and spec."""
    backbone = encoder.backbone.config
    if include_backbone == "auto":
        local = backbone.name.startswith("hf/") and Path(backbone.name.removeprefix("hf/")).is_dir()
        include_backbone = backbone.weights not in FETCHABLE or local
    if include_backbone:
        source = STORED
    else:
        # A path is of no use on another machine: then whoever loads passes `weights`.
        source = backbone.weights if backbone.weights in FETCHABLE else None
    if not include_backbone and next(encoder.backbone.parameters()).dtype != torch.float32:
        raise FAEError(
            "the backbone was cast; cast the encoder back to float32 to save it without the backbone's weights"
        )
    fingerprint = encoder.backbone.fingerprint()
    stored = backbone.model_copy(update={"weights": source, "fingerprint": fingerprint})
    encoder.config = encoder.config.model_copy(update={"backbone": stored})
    encoder.stamp(fingerprint)


def state_to_save(encoder: FAEEncoder) -> dict[str, Tensor]:
    state = encoder.state_dict()
    if encoder.config.backbone.weights == STORED:
        return state
    return {name: tensor for name, tensor in state.items() if not name.startswith(_BACKBONE)}


def read_folder(
    cls: type[FAEEncoder], source: str | Path, weights: str | Path | None, **hub: str | None
) -> tuple[Path, FAEEncoderConfig, LatentSpec]:
    """The folder, its config with the backbone's source of weights decided, and its spec."""
    folder = resolve_model_folder(source, part="tokenizer", **hub)
    stored = read_config(folder)
    if stored.get("model_type") == WHOLE_FAE:
        folder = folder / ENCODER
        stored = read_config(folder)
    if stored.get("model_type") != cls.model_type:
        raise CheckpointError(f"{folder} holds a {stored.get('model_type')!r} model, not {cls.model_type!r}")
    config = parse_config(cls.config_class, stored.get("config", {}), f"{folder}/{MODEL_CONFIG}")
    if weights != "default":
        if config.backbone.weights == STORED:
            raise CheckpointError(f"{folder} holds its backbone's weights itself; leave `weights` out")
        source_of_weights = None if weights is None else str(weights)
        revision = config.backbone.revision if source_of_weights == "pretrained" else None
        backbone = config.backbone.model_copy(update={"weights": source_of_weights, "revision": revision})
        config = config.model_copy(update={"backbone": backbone})
    return folder, config, LatentSpec.load(folder)


def load_into(encoder: FAEEncoder, folder: Path) -> None:
    """Load model.safetensors, every key accounted for; the backbone's only where they are stored."""
    path = folder / MODEL_WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if encoder.config.backbone.weights != STORED:
        if any(name.startswith(_BACKBONE) for name in state):
            raise CheckpointError(f"{path} holds backbone weights that its {MODEL_CONFIG} does not speak of")
        state.update({n: t for n, t in encoder.state_dict().items() if n.startswith(_BACKBONE)})
    load_state(encoder, state, str(path))


def verify(encoder: FAEEncoder, folder: Path) -> None:
    """Raise CheckpointError unless backbone, adapter and spec are those that the folder was saved with."""
    wanted, source = encoder.config.backbone.fingerprint, encoder.config.backbone.weights
    found = encoder.backbone.fingerprint()
    if wanted and wanted != found:
        raise CheckpointError(
            f"the backbone's weights (from {source or 'nowhere: pass weights=PATH'}) are not those that {folder} was "
            f"made with"
        )
    if encoder.spec.fingerprint and encoder.spec.fingerprint != encoder.fingerprint(found):
        raise CheckpointError(f"the weights in {folder} do not match the fingerprint in its latent_spec.json")
    require_unchanged(folder, state_to_save(encoder), encoder.spec)
