"""Weights in half precision: rounded in memory first, then stored without loss.

A tokenizer's fingerprint is a hash of its weights' values. Weights are rounded before it is taken, and stored in the
short type only where that is exact, so that the loaded model has the same fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fae_core.errors import FAEError


def round_parameters(module: nn.Module, dtype: torch.dtype, *, skip: Sequence[str] = ()) -> None:
    """Round every parameter in place to the nearest number of a shorter type. Types stay; buffers are not rounded.

    Args:
        module: The model.
        dtype: The shorter type.
        skip: Starts of the names of parameters that are not rounded.

    Raises:
        FAEError: Where a number is out of dtype's range.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.is_floating_point() or name.startswith(tuple(skip)):
                continue
            rounded = parameter.to(dtype).to(parameter.dtype)
            if not rounded.isfinite().all():
                kind = str(dtype).removeprefix("torch.")
                raise FAEError(
                    f"{name} of {type(module).__name__} has numbers beyond the range of {kind}; use bfloat16 or float32"
                )
            parameter.copy_(rounded)


def compact_weights(path: Path, dtype: torch.dtype) -> None:
    """Store in `dtype` those tensors of a safetensors file that it holds exactly; the others stay as they are."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.element_size() > dtype.itemsize:
            short = tensor.to(dtype)
            if torch.equal(short.to(tensor.dtype), tensor):
                tensors[name] = short
    save_file(tensors, path)
