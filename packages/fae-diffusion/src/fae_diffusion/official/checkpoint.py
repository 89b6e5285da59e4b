"""Reading checkpoint files of the original code, without running anything that is in them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from fae_core.errors import FAEError, InvalidFile
from fae_core.files import read_json
from fae_core.models.foreign import read_state_dict

_DIFFUSERS = "diffusion_pytorch_model.safetensors"


def read_checkpoint(path: str | Path, section: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint file.

    Args:
        path: a .pt or .safetensors file.
        section: the part to read; None: averaged ("ema") weights where there are any, else the first known section.

    Raises:
        InvalidFile: where the file is missing, damaged, or holds more than tensors and plain settings.
    """
    # SiT stores its argparse options beside the weights. A Namespace is a plain container.
    return read_state_dict(path, section=section, allowed=[argparse.Namespace])


def read_diffusers_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and the config of a transformer that diffusers saved, in one safetensors file or in shards.

    Args:
        folder: of the transformer, or of a pipeline with transformer/ in it.

    Raises:
        InvalidFile: where a file is missing or damaged.
    """
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    config, index = read_json(folder / "config.json"), folder / f"{_DIFFUSERS}.index.json"
    names = [_DIFFUSERS]
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise InvalidFile(f"{index} lacks a weight_map from tensors to files")
        names = sorted(set(shards.values()))
        if any(Path(name).name != name for name in names):
            raise InvalidFile(f"{index} names files outside its folder")
    state: dict[str, Tensor] = {}
    for name in names:
        state |= read_state_dict(folder / name, sections=())
    return state, config


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
