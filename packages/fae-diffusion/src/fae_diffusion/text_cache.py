"""Embeddings of many prompts on disk, each encoded once: a folder of memory-mapped arrays.

index.json     fingerprint of the encoder, width, prompts and tokens in all
keys.npy       (P, 16) uint8, hash of each prompt
offsets.npy    (P + 1,) int64, where each prompt's tokens begin
tokens.bin     (T, width) bfloat16, the tokens that count, one prompt after the other
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from fae_core.errors import CheckpointError
from fae_core.files import (
    disk_errors,
    hold,
    read_json,
    remove_folder,
    require_new_folder,
    staged_folder,
    write_atomic,
)
from fae_core.progress import progress
from fae_core.training.distributed import Processes
from fae_diffusion.models.text_condition import TextCondition
from fae_diffusion.text import TextEncoder

_KIND = "text cache"


class TextCache:
    """read(prompts) -> TextCondition on the CPU, for prompts that were put in by `build`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = read_json(self.folder / "index.json")
        try:
            self.fingerprint, self.width = str(index["fingerprint"]), int(index["width"])
            self._offsets = np.load(self.folder / "offsets.npy", allow_pickle=False)
            keys = np.load(self.folder / "keys.npy", allow_pickle=False)
            count, total = int(index["prompts"]), int(index["tokens"])
            self._tokens = np.memmap(self.folder / "tokens.bin", dtype=np.uint16, mode="r", shape=(total, self.width))
        except (KeyError, ValueError, OSError) as error:
            raise CheckpointError(f"{self.folder} is not a whole text cache: {' '.join(str(error).split())}") from None
        if keys.shape != (count, 16) or self._offsets.shape != (count + 1,) or self._offsets[-1] != total:
            raise CheckpointError(f"{self.folder} is not a whole text cache: its parts disagree")
        self._rows = {key.tobytes(): row for row, key in enumerate(keys)}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, prompt: str) -> bool:
        return _key(prompt) in self._rows

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int(np.diff(self._offsets).max())

    def read(self, prompts: Sequence[str], length: int | None = None) -> TextCondition:
        """(B, length, width) fp32, padded to `length` tokens; by default to the longest of all prompts."""
        length = length or self.longest
        tokens = torch.zeros(len(prompts), length, self.width)
        mask = torch.zeros(len(prompts), length, dtype=torch.bool)
        for place, prompt in enumerate(prompts):
            text = self._one(prompt)[:length]
            tokens[place, : len(text)], mask[place, : len(text)] = text.float(), True
        return TextCondition(tokens, mask)

    def _one(self, prompt: str) -> Tensor:
        row = self._rows.get(_key(prompt))
        if row is None:
            raise CheckpointError(f"{self.folder} has no embeddings of the prompt {prompt[:60]!r}")
        first, last = self._offsets[row : row + 2]
        return torch.from_numpy(np.array(self._tokens[first:last])).view(torch.bfloat16)

    @staticmethod
    def holds(folder: str | Path, encoder: TextEncoder, prompts: Sequence[str]) -> bool:
        """Whether `build` would find its work done."""
        return _holds(Path(folder), encoder.fingerprint(), prompts)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        encoder: TextEncoder,
        prompts: Sequence[str],
        chunk: int = 256,
        part: int = 4096,
        group: Processes | None = None,
    ) -> TextCache:
        """The cache in `folder` if it has these prompts from this encoder; else encode them there, "" included.

        chunk: prompts at a time. part: prompts that a process writes at once; a call that was interrupted goes on with the parts that
        it had finished. group: processes that share the parts; each of them calls this, and each gets the cache.
        """
        folder, group = Path(folder), group or Processes(0, 1, str(encoder.device))
        fingerprint = str(group.broadcast(encoder.fingerprint() if group.is_main else None))
        if group.broadcast(group.is_main and _holds(folder, fingerprint, prompts)):
            return cls(folder)
        with ExitStack() as held:
            if group.is_main:
                require_new_folder(folder, overwrite=True, kind=_KIND)
                held.enter_context(hold(folder))
            group.barrier()
            cls._encode(folder, encoder, fingerprint, prompts, (chunk, part), group)
        return cls(folder)

    @staticmethod
    def _encode(
        folder: Path,
        encoder: TextEncoder,
        fingerprint: str,
        prompts: Sequence[str],
        sizes: tuple[int, int],
        group: Processes,
    ) -> None:
        chunk, part = sizes
        wanted = sorted({"", *prompts})
        parts = [_Part.of(folder, fingerprint, wanted[i : i + part]) for i in range(0, len(wanted), part)]
        own = parts[group.rank :: group.world_size]
        with progress(sum(len(one.prompts) for one in own), "encoding prompts", enabled=group.is_main) as bar:
            for one in own:
                if not one.path.is_file():
                    one.write(encoder, chunk)
                bar.advance(len(one.prompts))
        group.barrier()
        if group.is_main:
            facts = {"fingerprint": fingerprint, "encoder": encoder.name, "width": encoder.width}
            _join(folder, wanted, parts, facts)
        group.barrier()


@dataclass(frozen=True)
class _Part:
    """A run of prompts and the file that holds their tokens until all parts are joined."""

    prompts: list[str]
    path: Path

    @classmethod
    def of(cls, folder: Path, fingerprint: str, prompts: list[str]) -> _Part:
        """Named by what is in it, so that a file that is there is the right one."""
        text = "\0".join([fingerprint, *prompts])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return cls(prompts, _parts_folder(folder) / f"{name}.safetensors")

    def write(self, encoder: TextEncoder, chunk: int) -> None:
        tokens, lengths = [], []
        for start in range(0, len(self.prompts), chunk):
            text = encoder.encode(self.prompts[start : start + chunk])
            for row, mask in zip(text.tokens.to(torch.bfloat16).cpu(), text.mask.cpu(), strict=True):
                tokens.append(row[mask])
                lengths.append(len(tokens[-1]))
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, save({"tokens": torch.cat(tokens), "lengths": torch.tensor(lengths)}))


def _parts_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.parts")


def _holds(folder: Path, fingerprint: str, prompts: Sequence[str]) -> bool:
    """Whether the cache in a folder has all these prompts, and "", from that encoder."""
    if not (folder / "index.json").is_file():
        return False
    found = TextCache(folder)
    return found.fingerprint == fingerprint and all(prompt in found for prompt in {"", *prompts})


def _join(folder: Path, wanted: list[str], parts: list[_Part], facts: dict[str, object]) -> None:
    """Make one cache of all parts, and remove them."""
    offsets = [0]
    with staged_folder(folder, overwrite=True, kind=_KIND) as staging:
        with (staging / "tokens.bin").open("wb") as file:
            for part in parts:
                held = load_file(part.path)
                file.write(held["tokens"].view(torch.uint16).numpy().tobytes())
                offsets += (offsets[-1] + held["lengths"].cumsum(0)).tolist()
        keys = np.stack([np.frombuffer(_key(prompt), dtype=np.uint8) for prompt in wanted])
        np.save(staging / "keys.npy", keys, allow_pickle=False)
        np.save(staging / "offsets.npy", np.array(offsets, dtype=np.int64), allow_pickle=False)
        index = {**facts, "prompts": len(wanted), "tokens": offsets[-1]}
        (staging / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    remove_folder(_parts_folder(folder))


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=16).digest()
