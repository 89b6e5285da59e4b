"""What the setting "auto" of `compile` means on a device."""

from __future__ import annotations

import os
import shutil
from typing import Literal

import torch

from fae_core.ops import triton


def compiles(setting: bool | Literal["auto"], device: torch.device | str) -> bool:
    """Whether to compile blocks with torch.compile.

    Args:
        setting: True, False, or "auto": on CUDA, where torch.compile can work; see `cannot_compile`.
        device: Where the blocks run.
    """
    return setting if setting != "auto" else cannot_compile(device) is None


def cannot_compile(device: torch.device | str) -> str | None:
    """Why "auto" does not compile on a device, or None.

    Args:
        device: Where the blocks run.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return f"torch.compile is left to GPUs, the model is on {device.type}"
    if triton.MISSING:
        return triton.MISSING
    if not any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang")):
        return "torch.compile needs a C compiler: install gcc or clang, or name one in CC"
    return triton.unknown_device(device.index)
