"""Checkpoint files of other projects (.safetensors, .pt, .pth), read without running code in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fae_core.errors import InvalidFile

# Names under which training programs keep a model's weights inside a checkpoint; averaged weights come first.
SECTIONS = ("ema", "model", "state_dict", "model_state_dict", "module")


def read_state_dict(
    path: str | Path,
    *,
    section: str | None = None,
    sections: Sequence[str] = SECTIONS,
    allowed: Sequence[type] = (),
) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name. Entries that are not tensors are left out.

    Args:
        path: The file.
        section: The part of the file to read; None takes the first of `sections` with anything in it, or else the whole
            file.
        sections: Names of parts to look for.
        allowed: Plain classes that torch.load may build besides tensors and containers.

    Raises:
        InvalidFile: Where the file is missing, damaged, needs unpickling, or holds no weights, or NaN or
            infinite ones.
    """
    content = read_checkpoint(path, allowed=allowed)
    parts = [str(name) for name, value in content.items() if isinstance(value, Mapping) and value]
    if section is None:
        section = next((name for name in sections if name in parts), None)
    elif section not in parts:
        raise InvalidFile(f"{path} has no section {section!r}; it has {', '.join(sorted(parts)) or 'none'}")
    if section is not None:
        content = content[section]
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        others = ", ".join(sorted(name for name in parts if name != section))
        choice = f" in its section {section!r}; other sections: {others or 'none'}" if section is not None else ""
        raise InvalidFile(f"{path} holds no weights{choice}")
    broken = next((name for name, tensor in state.items() if not _is_finite(name, tensor)), None)
    if broken is not None:
        raise InvalidFile(f"{path} holds NaN or infinite numbers in {broken}: its training failed, or it is damaged")
    return state


def _is_finite(name: str, tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite. Masks may hold both; numbers of one byte (fp8) are not looked at."""
    if not tensor.is_floating_point() or tensor.itemsize == 1 or name.endswith("mask") or not tensor.numel():
        return True
    if tensor.is_meta or tensor.layout != torch.strided:
        return True
    lowest, highest = tensor.aminmax()  # NaN if any number is; a tenth of the time of isfinite, without a copy
    return math.isfinite(lowest) and math.isfinite(highest)


def read_checkpoint(path: str | Path, *, allowed: Sequence[type] = ()) -> Mapping[str, Any]:
    """The whole content of a checkpoint file, on the CPU.

    Args:
        path: The file.
        allowed: Plain classes that torch.load may build besides tensors and containers.

    Raises:
        InvalidFile: Where the file is missing, damaged, needs unpickling, or is not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidFile(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise InvalidFile(f"{path} holds more than tensors and plain values; nothing else is loaded") from None
    except Exception as error:  # torch raises many types for damaged files
        reason = " ".join(str(error).split())[:200] or "it is empty"
        raise InvalidFile(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(content, Mapping):
        raise InvalidFile(f"{path} holds a {type(content).__name__}, not a state dict")
    return content
