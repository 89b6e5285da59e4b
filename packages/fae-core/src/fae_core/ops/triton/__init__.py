"""Our Triton kernels: what they need, what they take, and the kernels themselves.

This module and `contract` import without triton, so that `ops.explain` can say what is missing; the modules with kernels are
imported by the first call that runs one. docs/kernels.md has the design.
"""

from __future__ import annotations

import functools
import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run on the CPU through triton's interpreter: triton reads the variable once, when kernels are first imported."""


@torch.compiler.assume_constant_result
def missing() -> str | None:
    """Why triton cannot be imported here, or None."""
    return _missing()


@torch.compiler.assume_constant_result
def capability(index: int | None) -> int | None:
    """A CUDA device's compute capability as a number: 90 for 9.0. index: None is the current device.

    None without a device, where fake CUDA tensors are traced.
    """
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


@functools.cache
def _missing() -> str | None:
    try:
        import triton.language  # noqa: F401
    except ImportError as error:
        return f"triton is not installed ({error})"
    except Exception as error:
        return f"triton does not import: {str(error).strip().splitlines()[0]}"
    return None
