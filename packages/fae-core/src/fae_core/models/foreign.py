"""Other people's checkpoint files (.safetensors, .pt, .pth), read without running anything that is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fae_core.errors import InvalidFile

# Where training programs keep a model's weights inside a checkpoint.
SECTIONS = ("model", "state_dict", "model_state_dict", "module")


def read_state_dict(
    path: str | Path,
    *,
    section: str | None = None,
    sections: Sequence[str] = SECTIONS,
    allowed: Sequence[type] = (),
) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name: of its `section`, or else of the first of `sections` that it has, or else
    of the file itself. Entries that are no tensors are left out.

    allowed: plain classes that torch.load may build besides tensors and containers.
    Raises InvalidFile, one line, where the file is missing, damaged, needs unpickling, or holds no weights.
    """
    content = read_checkpoint(path, allowed=allowed)
    if section is not None:
        if not isinstance(content.get(section), Mapping):
            known = sorted(str(name) for name, value in content.items() if isinstance(value, Mapping))
            raise InvalidFile(f"{path} has no section {section!r}; it has {', '.join(known) or 'none'}")
        content = content[section]
    else:
        content = next((content[name] for name in sections if isinstance(content.get(name), Mapping)), content)
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InvalidFile(f"{path} holds no weights")
    return state


def read_checkpoint(path: str | Path, *, allowed: Sequence[type] = ()) -> Mapping[str, Any]:
    """The whole content of a checkpoint file, on the CPU; raises as `read_state_dict` does."""
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
    except Exception as error:  # damaged files make torch raise almost anything
        reason = " ".join(str(error).split())[:200] or "it is empty"
        raise InvalidFile(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(content, Mapping):
        raise InvalidFile(f"{path} holds a {type(content).__name__}, not a state dict")
    return content
