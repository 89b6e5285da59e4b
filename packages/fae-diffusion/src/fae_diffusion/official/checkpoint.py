"""Reading checkpoint files of the original code, without running anything that is in them."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.models.foreign import SECTIONS, read_state_dict


def read_checkpoint(path: str | Path, section: str | None = None) -> dict[str, Tensor]:
    """The state dict in a checkpoint file.

    Args:
        path: a .pt or .safetensors file.
        section: the part to read; None: averaged ("ema") weights where there are any, else the first known section.

    Raises:
        InvalidFile: where the file is missing, damaged, or holds more than tensors and plain settings.
    """
    # SiT stores its argparse options beside the weights. A Namespace is a plain container.
    return read_state_dict(path, section=section, sections=("ema", *SECTIONS), allowed=[argparse.Namespace])


def read_statistics(path: str | Path) -> tuple[list[float], list[float]]:
    """(mean, std) of each channel from LightningDiT's latents_stats.pt, which holds tensors "mean" and "std".

    Raises:
        FAEError: for a file without them.
    """
    state = read_checkpoint(path)
    if not {"mean", "std"} <= state.keys():
        raise FAEError(f"{path} is not a statistics file: it lacks 'mean' and 'std'")
    return state["mean"].flatten().tolist(), state["std"].flatten().tolist()
