"""Reading the original's checkpoint and configuration files without running anything that is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import CheckpointError

# Where training programs keep weights inside a checkpoint.
_SECTIONS = ("model", "state_dict", "model_state_dict", "module")
# The released YAML files hold the trainer's options; these are the ones that its constructor knows by another name.
_TRAINER_NAMES = {"channel_size": "in_channels", "blocks": "num_blocks"}
_VAE_FACTOR = 8  # of the SD-VAE, which the image models were trained with


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pt, .pth or .safetensors file; of its model section where it has one.

    Raises CheckpointError, one line, where the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    content = next((content[s] for s in _SECTIONS if isinstance(content.get(s), Mapping)), content)
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no weights")
    return state


def constructor_arguments(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The original's constructor arguments from a mapping of them, or from a released YAML file (`arguments:` list).

    The latter gives image sizes in pixels and names a text encoder instead of its width, which the weights tell.
    """
    if "arguments" not in settings:
        return dict(settings)
    try:
        options = {key: value for entry in settings["arguments"] for key, value in entry.items()}
    except (AttributeError, TypeError):
        raise CheckpointError("arguments: must be a list of `- name: value`") from None
    options = {_TRAINER_NAMES.get(key, key): value for key, value in options.items()}
    layers = options.get("layers_per_block", 8)
    options["layers_per_block"] = [int(count) for count in str(layers).split()]
    if len(options["layers_per_block"]) > 1:
        options["num_blocks"] = len(options["layers_per_block"])
    if options.get("vae"):
        options["img_size"] = options["img_size"] // _VAE_FACTOR
    widths = [tensor.shape[1] for name, tensor in state.items() if name.endswith("proj_txt.weight")]
    return {**options, "txt_dim": widths[0] if widths else 0}


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path} holds more than tensors and plain values; nothing else is loaded") from None
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
