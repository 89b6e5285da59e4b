"""Reading foreign checkpoint files without running anything that is in them."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import CheckpointError, FAEError

# Where training programs keep a model's weights, best first.
_SECTIONS = ("ema", "model", "state_dict", "model_state_dict", "module")


def read_checkpoint(path: str | Path, section: str | None = None) -> dict[str, Tensor]:
    """The state dict in a .pt or .safetensors file: averaged ("ema") weights where it has them, or those of `section`.

    Raises CheckpointError, one line, where the file is missing, damaged, or holds more than tensors and plain settings.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if section is not None:
        if not isinstance(content.get(section), Mapping):
            mappings = sorted(str(key) for key, value in content.items() if isinstance(value, Mapping))
            raise CheckpointError(f"{path} has no section {section!r}; it has {', '.join(mappings) or 'none'}")
        content = content[section]
    else:
        content = next((content[s] for s in _SECTIONS if isinstance(content.get(s), Mapping)), content)
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no weights")
    return state


def read_statistics(path: str | Path) -> tuple[list[float], list[float]]:
    """Per-channel (mean, std) from LightningDiT's latents_stats.pt: tensors "mean" and "std" of C numbers."""
    state = read_checkpoint(path)
    if not {"mean", "std"} <= state.keys():
        raise FAEError(f"{path} is not a statistics file: it lacks 'mean' and 'std'")
    return state["mean"].flatten().tolist(), state["std"].flatten().tolist()


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        # SiT stores its argparse options beside the weights; a Namespace is a plain container.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is not a checkpoint of tensors and plain values; nothing else is loaded"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200] or "it is empty"
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
