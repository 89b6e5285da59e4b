"""Our Triton kernels: what they need, what they take, and the kernels themselves.

This module, `contract` and `wins` import without triton, so that `ops.explain` can say what is missing; the modules with
kernels are imported by the first call that runs one. docs/kernels.md has the design.
"""

from __future__ import annotations

import importlib.util
import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run on the CPU through triton's interpreter: triton reads the variable once, when kernels are first imported."""

MISSING = None if importlib.util.find_spec("triton") else "triton is not installed"
"""Why no kernel can run here, or None. Triton is part of torch for CUDA on Linux, not of torch for the CPU or macOS."""


def capability(index: int | None) -> int | None:
    """A CUDA device's compute capability as a number: 90 for 9.0. index: None is the current device.

    None without a device, where fake CUDA tensors are traced.
    """
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
    return 10 * found.major + found.minor
