"""Weights in half precision: first the numbers are rounded in memory, then they are stored without loss.

A tokenizer's fingerprint is that of its numbers. Rounding before it is taken, and storing in the short type only what is
exactly representable there, makes the fingerprint that of what is loaded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fae_core.errors import FAEError


def round_parameters(module: nn.Module, dtype: torch.dtype, *, skip: Sequence[str] = ()) -> None:
    """Round every parameter to the nearest number that `dtype` holds, in place; it stays in its own type.

    Buffers (statistics, tables) keep their precision, and so do parameters whose names start with one of `skip`.
    Raises FAEError where a number is out of dtype's range.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.is_floating_point() or name.startswith(tuple(skip)):
                continue
            rounded = parameter.to(dtype).to(parameter.dtype)
            if not rounded.isfinite().all():
                raise FAEError(
                    f"{name} of {type(module).__name__} has numbers beyond the range of {str(dtype).removeprefix('torch.')}; "
                    "use bfloat16 or float32"
                )
            parameter.copy_(rounded)


def compact_weights(path: Path, dtype: torch.dtype) -> None:
    """Store in `dtype` those tensors of a safetensors file that lose nothing by it; the others stay as they are."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.element_size() > dtype.itemsize:
            short = tensor.to(dtype)
            if torch.equal(short.to(tensor.dtype), tensor):
                tensors[name] = short
    save_file(tensors, path)
