"""Whether values can be read while a program runs, or only its operations are recorded."""

from __future__ import annotations

import torch
from torch import Tensor

_functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]  (absent from torch's stubs)


def is_readable(tensor: Tensor) -> bool:
    """Whether a tensor has values, and these can be read now.

    Not while it is traced (torch.compile, torch.export), nor within torch.func.vmap, nor on the meta device.

    Args:
        tensor: Of any shape and dtype.
    """
    if torch.compiler.is_compiling() or tensor.is_meta or not tensor.numel():
        return False
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return True
