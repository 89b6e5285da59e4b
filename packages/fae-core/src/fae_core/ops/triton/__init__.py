"""Our Triton kernels: what they need, which calls they can take, and the kernels themselves.

This module, `contract` and `wins` import without triton, so that `ops.explain` can name what is missing; the modules
with kernels are imported by the first call that runs one. docs/kernels.md describes the design.
"""

from __future__ import annotations

import importlib.util
import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run on the CPU in triton's interpreter. Triton reads the variable once, when kernels are imported."""

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
