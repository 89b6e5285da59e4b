"""Whether kernels can be compiled and launched here, tried once: triton needs a C compiler and a device it knows."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fae_core.errors import first_line


def unusable(x: Tensor) -> str | None:
    """Why the automatic choice cannot take kernels on the device of x, or None where a launch went well.

    Args:
        x: A tensor on CUDA. Where it is a fake one, nothing is tried.
    """
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return None
    if torch.cuda.is_current_stream_capturing():
        return "nothing was compiled before the capture of a CUDA graph"
    return _tried(x.get_device())


@functools.cache
def _tried(device: int) -> str | None:
    try:
        from fae_core.ops.operators import RMS_NORM

        probe = torch.ones(1, 64, device=f"cuda:{device}", dtype=torch.float16)
        with torch.no_grad():
            value = float(RMS_NORM(probe, None, 1e-6)[0, 0])
    except Exception as error:  # triton raises errors of many kinds, also of the C compiler that it starts
        return f"triton cannot compile or launch here: {first_line(error)[:200]}"
    return None if abs(value - 1) < 1e-2 else "a kernel gave a wrong result here"
