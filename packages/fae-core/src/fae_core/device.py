"""Which device a command or a call works on: one rule for all of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fae_core.errors import FAEError

if TYPE_CHECKING:
    import torch

_GPU = re.compile(r"cuda(?::(0|[1-9]\d{0,3}))?")


def resolve_device(device: str | torch.device | None = None) -> str:
    """The device asked for ("cpu", "cuda" or "cuda:N"); without one cuda where there is one, else cpu.

    Raises FAEError, one line, for any other name and for a GPU that torch does not see.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = str(device)
    if device == "cpu":
        return device
    found = _GPU.fullmatch(device)
    if found is None:
        raise FAEError(f"unknown device {device[:40]!r}; FAE works on cpu, cuda or cuda:N")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen == 0:
        raise FAEError(f"device {device} was asked for, but torch sees no GPU; pass --device cpu")
    if int(found[1] or 0) >= seen:
        raise FAEError(f"device {device} was asked for, but the last GPU that torch sees is cuda:{seen - 1}")
    return device
