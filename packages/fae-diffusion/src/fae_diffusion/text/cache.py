"""Embeddings of many prompts on disk, each encoded once: a folder of memory-mapped arrays.

index.json     fingerprint of the encoder, width, numbers of prompts and of tokens, which prompts became equal when they
               were cut; the SHA-256 of each .npy file, and a checksum of index.json itself
keys.npy       (P, 16) uint8, hash of each prompt
offsets.npy    (P + 1,) int64, where the tokens of each prompt begin
sums.npy       (P,) uint32, CRC-32 of the tokens of each prompt, compared whenever they are read
tokens.bin     (T, width) bfloat16, the tokens that count, one prompt after the other
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fae_core.errors import FAEError, InvalidFile
from fae_core.files import (
    CHECKSUM,
    disk_errors,
    hold,
    read_json,
    remove_folder,
    require_new_folder,
    sha256_file,
    staged_folder,
    unsealed,
    write_atomic,
    write_json,
)
from fae_core.folders import CACHE_INDEX, CACHE_TOKENS
from fae_core.processes import Processes
from fae_core.progress import progress
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.encoder import TextEncoder, check_prompts
from fae_diffusion.text.stored import CACHE_KIND, is_cache

log = logging.getLogger("fae")


class TextCache:
    """A folder of embeddings. read(prompts) -> TextCondition on the CPU, for prompts that `build` has encoded.

    The small files are compared with their checksums here, tokens when they are read. Older caches have no checksums
    and are read without.

    Args:
        folder: the cache.

    Raises:
        InvalidFile: for files that are missing or not what was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / CACHE_INDEX
        stored = read_json(path)
        index = unsealed(stored, path)
        try:
            if "sha256" in index and CHECKSUM not in stored:
                raise ValueError("index.json lost its checksum")
            self.fingerprint, self.width = str(index["fingerprint"]), int(index["width"])
            self.equal_after_cut: dict[str, Any] | None = index.get("equal_after_cut")
            keys, self._offsets = (self._array(index, name) for name in ("keys", "offsets"))
            self._sums = self._array(index, "sums") if "sha256" in index else None
            count, total = int(index["prompts"]), int(index["tokens"])
            self._tokens = np.memmap(self.folder / CACHE_TOKENS, dtype=np.uint16, mode="r", shape=(total, self.width))
            size = (self.folder / CACHE_TOKENS).stat().st_size
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, EOFError, OSError) as error:
            raise InvalidFile(
                f"{self.folder} is not a whole text cache: {' '.join(str(error).split())[:200]}; "
                "remove it to build it again"
            ) from None
        offsets, sums = self._offsets, self._sums
        if (
            keys.shape != (count, 16)
            or keys.dtype != np.uint8
            or offsets.shape != (count + 1,)
            or offsets.dtype != np.int64
            or offsets[0] != 0
            or offsets[-1] != total
            or (np.diff(offsets) < 0).any()
            or (sums is not None and sums.shape != (count,))
            or size != total * self.width * 2
        ):
            raise InvalidFile(
                f"{self.folder} is not a whole text cache: its parts disagree; remove it to build it again"
            )
        self._rows = {key.tobytes(): row for row, key in enumerate(keys)}

    def _array(self, index: dict[str, Any], name: str) -> np.ndarray:
        """One of the arrays. Raises ValueError where its file was changed."""
        path = self.folder / f"{name}.npy"
        if "sha256" in index and index["sha256"][name] != sha256_file(path):
            raise ValueError(f"{path.name} was changed")
        return np.load(path, allow_pickle=False)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, prompt: str) -> bool:
        return _key(prompt) in self._rows

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int(np.diff(self._offsets).max())

    def read(self, prompts: Sequence[str], length: int | None = None) -> TextCondition:
        """The embeddings of prompts.

        Args:
            prompts: that `build` has encoded.
            length: tokens to pad to; None: those of the longest prompt in the cache.

        Returns:
            Tokens (B, length, width), fp32, and their mask, on the CPU.

        Raises:
            InvalidFile: for a prompt that is not in the cache, or whose tokens are damaged.
            FAEError: for a prompt with more than `length` tokens.
        """
        length = self.longest if length is None else length
        tokens = torch.zeros(len(prompts), length, self.width)
        mask = torch.zeros(len(prompts), length, dtype=torch.bool)
        for place, prompt in enumerate(prompts):
            text = self._one(prompt)
            if len(text) > length:
                raise FAEError(f"the prompt {prompt[:60]!r} has {len(text)} tokens, more than {length}")
            tokens[place, : len(text)], mask[place, : len(text)] = text.float(), True
        return TextCondition(tokens, mask)

    def _one(self, prompt: str) -> Tensor:
        """The tokens of one prompt, (tokens, width), bfloat16."""
        row = self._rows.get(_key(prompt))
        if row is None:
            raise InvalidFile(f"{self.folder} has no embeddings of the prompt {prompt[:60]!r}")
        first, last = self._offsets[row : row + 2]
        tokens = np.array(self._tokens[first:last])
        if self._sums is not None and zlib.crc32(tokens.data) != self._sums[row]:
            raise InvalidFile(
                f"{self.folder}/tokens.bin is damaged: the embeddings of {prompt[:60]!r} are not what was written; "
                "remove the folder to build it again"
            )
        return torch.from_numpy(tokens).view(torch.bfloat16)

    @staticmethod
    def holds(folder: str | Path, encoder: TextEncoder, prompts: Sequence[str]) -> bool:
        """Whether the cache in `folder` has all these prompts from this encoder, so that `build` encodes nothing."""
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
        """The cache in `folder`, made unless it has these prompts from this encoder already.

        A call after an interrupted one keeps the parts that were finished.

        Args:
            folder: of the cache.
            encoder: of the prompts.
            prompts: texts; "" is added to them.
            chunk: prompts encoded in one call of the encoder.
            part: prompts written in one file until all are joined.
            group: processes that share the parts; each of them calls this and gets the cache. None: one process.

        Raises:
            FAEError: for embeddings that are not finite.
        """
        folder, group = Path(folder), group or Processes(0, 1, str(encoder.device))
        check_prompts(prompts)
        fingerprint = str(group.broadcast(encoder.fingerprint() if group.is_main else None))
        if group.broadcast(group.is_main and _holds(folder, fingerprint, prompts)):
            return cls(folder)
        with ExitStack() as held:
            if group.is_main:
                require_new_folder(folder, overwrite=True, kind=CACHE_KIND)
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
        """Encode this process's share of the parts; the first process joins them all."""
        chunk, part = sizes
        wanted = sorted({"", *prompts})
        parts = [_Part.of(folder, fingerprint, wanted[i : i + part]) for i in range(0, len(wanted), part)]
        own = parts[group.rank :: group.world_size]
        with progress(sum(len(one.prompts) for one in own), "encoding prompts", enabled=group.is_main) as bar:
            for one in own:
                if one.read() is None:
                    one.write(encoder, chunk)
                bar.advance(len(one.prompts))
        group.barrier()
        if group.is_main:
            facts = {"fingerprint": fingerprint, "encoder": encoder.name, "width": encoder.width}
            _join(folder, wanted, parts, facts, encoder)
        group.barrier()


@dataclass(frozen=True)
class _Part:
    """Consecutive prompts, and the file that holds their tokens until all parts are joined."""

    prompts: list[str]
    path: Path

    @classmethod
    def of(cls, folder: Path, fingerprint: str, prompts: list[str]) -> _Part:
        """The part of these prompts. The file is named by a hash of encoder and prompts, so that it needs no check."""
        name = hashlib.blake2b(b"".join([fingerprint.encode(), *map(_key, prompts)]), digest_size=16).hexdigest()
        return cls(prompts, _parts_folder(folder) / f"{name}.safetensors")

    def write(self, encoder: TextEncoder, chunk: int) -> None:
        """Encode the prompts and write their tokens. Raises FAEError for embeddings that are not finite."""
        tokens, lengths = [], []
        for start in range(0, len(self.prompts), chunk):
            text = encoder.encode(self.prompts[start : start + chunk])
            assert text.mask is not None
            rows = zip(self.prompts[start:], text.tokens.to(torch.bfloat16).cpu(), text.mask.cpu(), strict=False)
            for prompt, row, mask in rows:
                tokens.append(row[mask])
                if not torch.isfinite(tokens[-1]).all():
                    raise FAEError(f"{encoder.name} gives no finite embeddings of {prompt[:60]!r} in {encoder.dtype}")
                lengths.append(len(tokens[-1]))
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        sums = torch.tensor([_sum(one) for one in tokens])
        write_atomic(self.path, save({"tokens": torch.cat(tokens), "lengths": torch.tensor(lengths), "sums": sums}))

    def read(self) -> dict[str, Tensor] | None:
        """What was written; None where the file is missing or damaged."""
        try:
            stored = load_file(self.path)
            pieces = stored["tokens"].split(stored["lengths"].tolist())
            return stored if [_sum(one) for one in pieces] == stored["sums"].tolist() else None
        except (SafetensorError, OSError, KeyError, RuntimeError):
            return None


def _parts_folder(folder: Path) -> Path:
    """The hidden folder of the parts, beside the cache."""
    whole = folder.absolute()  # "." has no name
    return whole.with_name(f".{whole.name}.parts")


def _holds(folder: Path, fingerprint: str, prompts: Sequence[str]) -> bool:
    """Whether the cache in a folder has all these prompts, and "", from that encoder."""
    if not is_cache(folder):
        return False
    found = TextCache(folder)
    if found.fingerprint != fingerprint or not all(prompt in found for prompt in {"", *prompts}):
        return False
    _warn_of_equal(found.equal_after_cut)
    return True


def _join(folder: Path, wanted: list[str], parts: list[_Part], facts: dict[str, Any], encoder: TextEncoder) -> None:
    """Make one cache of all parts, and remove them."""
    lengths, sums = [], []
    with staged_folder(folder, overwrite=True, kind=CACHE_KIND) as staging:
        with (staging / CACHE_TOKENS).open("wb") as file:
            for part in parts:
                stored = part.read()
                if stored is None:
                    raise InvalidFile(f"{part.path} is damaged; run the command again to encode it again")
                file.write(stored["tokens"].view(torch.uint16).numpy().tobytes())
                lengths += stored["lengths"].tolist()
                sums += stored["sums"].tolist()
        arrays = {
            "keys": np.stack([np.frombuffer(_key(prompt), dtype=np.uint8) for prompt in wanted]),
            "offsets": np.cumsum([0, *lengths], dtype=np.int64),
            "sums": np.array(sums, dtype=np.uint32),
        }
        for name, array in arrays.items():
            np.save(staging / f"{name}.npy", array, allow_pickle=False)
        # Only a prompt of the full length may have been cut.
        full = [prompt for prompt, length in zip(wanted, lengths, strict=True) if length == encoder.max_length]
        index = {
            **facts,
            "prompts": len(wanted),
            "tokens": int(arrays["offsets"][-1]),
            "equal_after_cut": _equal_after_cut(encoder, full),
            "sha256": {name: sha256_file(staging / f"{name}.npy") for name in arrays},
        }
        write_json(staging / CACHE_INDEX, index, seal=True)
    remove_folder(_parts_folder(folder))
    _warn_of_equal(index["equal_after_cut"])


def _equal_after_cut(encoder: TextEncoder, prompts: list[str]) -> dict[str, Any] | None:
    """How many prompts are equal to another one once they are cut to the encoder's length, and two of them."""
    groups = encoder.equal_after_cut(prompts)
    if not groups:
        return None
    example = [p if len(p) <= 100 else f"{p[:48]} ... {p[-48:]}" for p in groups[0][:2]]
    return {"prompts": sum(map(len, groups)), "length": encoder.max_length, "example": example}


def _warn_of_equal(equal: dict[str, Any] | None) -> None:
    """Log a warning for prompts that became equal when they were cut."""
    if equal is not None:
        first, second = equal["example"]
        log.warning(
            f"{equal['prompts']} captions are the same as another one once they are cut to {equal['length']} tokens, "
            f"such as {first!r} and {second!r}; a larger text_encoder.max_length tells them apart"
        )


def _sum(tokens: Tensor) -> int:
    """The CRC-32 of tokens."""
    return zlib.crc32(tokens.contiguous().view(torch.uint16).numpy().data)


def _key(prompt: str) -> bytes:
    """The hash of a prompt."""
    check_prompts([prompt])
    return hashlib.blake2b(prompt.encode(), digest_size=16).digest()
