"""Checkpoint files of other people, read without unpickling."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fae_core.errors import CheckpointError

# Where training scripts put a model's state dict inside a checkpoint.
_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema", "teacher")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a torch checkpoint (loaded with weights_only=True).

    Raises CheckpointError, one line, where the file is absent, damaged, would need unpickling, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"backbone weights {path} do not exist")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read safely as a torch checkpoint: {_first_line(error)}") from None
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
