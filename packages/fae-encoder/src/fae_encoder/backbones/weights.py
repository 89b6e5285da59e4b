"""Checkpoint files of other people, read without unpickling."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fae_core import foreign

# Where training scripts put a model's state dict inside a checkpoint.
_SECTIONS = ("state_dict", "model", "state_dict_ema", "model_ema", "teacher")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a torch checkpoint, without the prefix of data-parallel training.

    Raises CheckpointError, one line, where the file is absent, damaged, would need unpickling, or holds no tensors.
    """
    state = foreign.read_state_dict(path, sections=_SECTIONS)
    return {name.removeprefix("module."): value for name, value in state.items()}
