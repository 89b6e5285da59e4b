"""Reading the originals' checkpoint files without running anything that is in them."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from fae_core.errors import FAEError
from fae_core.models.foreign import SECTIONS, read_state_dict


def read_checkpoint(path: str | Path, section: str | None = None) -> dict[str, Tensor]:
    """The state dict in a .pt or .safetensors file: averaged ("ema") weights where it has them, or those of `section`.

    Raises InvalidFile, one line, where the file is missing, damaged, or holds more than tensors and plain settings.
    """
    # SiT stores its argparse options beside the weights; a Namespace is a plain container.
    return read_state_dict(path, section=section, sections=("ema", *SECTIONS), allowed=[argparse.Namespace])


def read_statistics(path: str | Path) -> tuple[list[float], list[float]]:
    """Per-channel (mean, std) from LightningDiT's latents_stats.pt: tensors "mean" and "std" of C numbers."""
    state = read_checkpoint(path)
    if not {"mean", "std"} <= state.keys():
        raise FAEError(f"{path} is not a statistics file: it lacks 'mean' and 'std'")
    return state["mean"].flatten().tolist(), state["std"].flatten().tolist()
