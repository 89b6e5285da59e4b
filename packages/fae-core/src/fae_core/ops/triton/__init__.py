"""Our Triton kernels: what they need, which calls they can take, and the kernels themselves.

This module, `contract` and `plans` import without triton, so that `ops.explain` can name what is missing; the modules
with kernels are imported by the first call that runs one. docs/kernels.md describes the design.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from pathlib import Path

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run on the CPU in triton's interpreter. Triton reads the variable once, when kernels are imported."""

DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)
"""The types of devices that kernels run on."""

MISSING = None if importlib.util.find_spec("triton") else "triton is not installed"
"""Why no kernel can run here, or None. Torch for CUDA on Linux brings triton; torch for the CPU or macOS does not."""


def capability(index: int | None) -> int | None:
    """A CUDA device's compute capability as a number: 90 for 9.0.

    Args:
        index: The device's; None: the current device.

    Returns:
        The number, or None without a device, where fake CUDA tensors are traced.
    """
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
    return 10 * found.major + found.minor


# Compute capabilities that triton's compiler knows and the kernels were compiled for or are of the same family.
_KNOWN = frozenset({80, 86, 87, 89, 90, 100, 103, 120, 121})


def unknown_device(index: int | None) -> str | None:
    """Why the automatic choice leaves a CUDA device to torch, or None: AMD's, and what triton was not tried on.

    Args:
        index: The device's; None: the current device.
    """
    if torch.version.hip:
        return "the kernels have not been tried on AMD devices"
    found = capability(index)
    if found is not None and found not in _KNOWN:
        return f"the kernels have not been tried on compute capability {found // 10}.{found % 10}"
    return None


def version() -> str | None:
    """Triton's, or None where it is not installed."""
    return None if MISSING else importlib.import_module("triton").__version__


def driver_version() -> str:
    """Of NVIDIA's driver; where the system does not say, what torch was built for."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", text)
    return found.group(1) if found else f"for cuda {torch.version.cuda}"
