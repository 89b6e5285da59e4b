"""Reading checkpoint files of the original code, without running anything that is in them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.files import read_json
from fae_core.models.foreign import read_state_dict, read_weights

# SiT stores its argparse options beside the weights. A Namespace is a plain container.
_ALLOWED = [argparse.Namespace]


def read_checkpoint(path: str | Path, section: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint file.

    Args:
        path: a .pt or .safetensors file.
        section: the part to read; None: averaged ("ema") weights where there are any, else the first known section.

    Raises:
        InvalidFile: where the file is missing, damaged, or holds more than tensors and plain settings.
    """
    return read_state_dict(path, section=section, allowed=_ALLOWED)


def read_mmdit(
    place: Path, section: str | None = None, variant: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of an MMDiT, and the config beside it where diffusers saved it.

    Args:
        place: a file; or the folder of diffusers' transformer, or of a pipeline with transformer/ in it.
        section: of a file; see `read_checkpoint`.
        variant: of a folder's weights, as "fp16"; None takes the plain ones, or the only variant.

    Raises:
        InvalidFile: where a file is missing or damaged, or the option of a file is given for a folder, or the reverse.
    """
    folder = place / "transformer" if (place / "transformer").is_dir() else place
    config = read_json(folder / "config.json") if folder.is_dir() else {}
    return read_weights(folder, section=section, variant=variant, allowed=_ALLOWED), config


def pipeline_fields(folder: Path) -> dict[str, Any]:
    """Fields of our config that the folder of diffusers' SD3 pipeline shows beside its transformer.

    Args:
        folder: that is imported; one that is no such pipeline gives none.

    Returns:
        `text_encoder`, and as `transport` the shift of its scheduler.

    Raises:
        InvalidFile: where a file is damaged.
    """
    if not (folder / "model_index.json").is_file():
        return {}
    parts = read_json(folder / "model_index.json")
    if parts.get("_class_name") != "StableDiffusion3Pipeline":
        return {}
    t5 = parts.get("text_encoder_3") not in (None, [None, None])
    fields: dict[str, Any] = {"text_encoder": {"name": str(folder.resolve()), "kind": "sd3", "t5": t5, "dtype": "fp32"}}
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        fields["transport"] = {"shift": read_json(scheduler).get("shift", 1.0)}
    return fields


def read_statistics(path: str | Path) -> tuple[list[float], list[float]]:
    """(mean, std) of each channel from LightningDiT's latents_stats.pt, which holds tensors "mean" and "std".

    Raises:
        FAEError: for a file without them.
    """
    state = read_checkpoint(path)
    if not {"mean", "std"} <= state.keys():
        raise FAEError(f"{path} is not a statistics file: it lacks 'mean' and 'std'")
    return state["mean"].flatten().tolist(), state["std"].flatten().tolist()
