"""Checkpoints of other projects (.safetensors, .pt, .pth, diffusers' folders), read without running code in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fae_core.errors import InvalidFile, InvalidSettings
from fae_core.files import read_json

# Names under which training programs keep a model's weights inside a checkpoint; averaged weights come first.
AVERAGED = ("ema", "state_dict_ema", "model_ema")
SECTIONS = (*AVERAGED, "model", "state_dict", "model_state_dict", "module")
# Names of a model's weights in a folder of diffusers', around the variant, and in order of preference: an index of
# shards or one file, as safetensors or in torch's own format.
DIFFUSERS = "diffusion_pytorch_model"
_DIFFUSERS_NAMES = tuple(
    (f"{DIFFUSERS}{start}", end)
    for suffix in (".safetensors", ".bin")
    for start, end in ((f"{suffix}.index", ".json"), ("", suffix))
)
_SHARD = re.compile(r"-\d+-of-\d+\.")


def read_weights(
    place: str | Path, *, section: str | None = None, variant: str | None = None, allowed: Sequence[type] = ()
) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, or of a model in a folder as diffusers writes it, by name.

    Args:
        place: The file, or the folder.
        section: Of a file; see `read_state_dict`.
        variant: Of a folder's weights, as "fp16"; None takes the plain ones, or the only variant that there is.
        allowed: Of a file; see `read_state_dict`.

    Raises:
        InvalidFile: As `read_state_dict`, and where a folder has no weights, several variants or a wrong index.
        InvalidSettings: A section of a folder, or a variant of a file.
    """
    place = Path(place)
    if not place.is_dir():
        if variant is not None:
            raise InvalidSettings(f"{place} is one file and has no variants; leave the variant out")
        return read_state_dict(place, section=section, allowed=allowed)
    if section is not None:
        raise InvalidSettings(f"{place} is a folder of diffusers', which has no sections; leave the section out")
    state: dict[str, Tensor] = {}
    for path in _weight_files(place, variant):
        state |= read_state_dict(path, sections=())
    return state


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The files of a model that diffusers saved: one, or its shards."""
    of = f".{variant}" if variant else ""
    for start, end in _DIFFUSERS_NAMES:
        path = folder / f"{start}{of}{end}"
        if path.is_file():
            return _shards(path) if end == ".json" else [path]
    variants = {
        path.name: path.name[len(start) + 1 : -len(end)]
        for start, end in _DIFFUSERS_NAMES
        for path in folder.glob(f"{start}.*{end}")
        if not _SHARD.search(path.name)
    }
    if variant is None and len(set(variants.values())) == 1:
        return _weight_files(folder, next(iter(variants.values())))
    others = f", but {' and '.join(sorted(variants))}; choose a variant" if variants else ""
    raise InvalidFile(f"{folder} has no {DIFFUSERS}{of}.safetensors{others}")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, each once."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InvalidFile(f"{index} lacks a weight_map from tensors to files")
    if any(Path(name).name != name for name in names.values()):
        raise InvalidFile(f"{index} names files outside its folder")
    return [index.parent / name for name in sorted(set(names.values()))]


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
