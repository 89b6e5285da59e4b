"""Embeddings of many prompts on disk, each encoded once: a folder of memory-mapped arrays.

index.json     fingerprint of the encoder, width, numbers of prompts and of tokens, which prompts became equal when they
               were cut; the SHA-256 of each .npy file, and a checksum of index.json itself
keys.npy       (P, 16) uint8, hash of each prompt
offsets.npy    (P + 1,) int64, where the tokens of each prompt begin
sums.npy       (P,) uint32, CRC-32 of the tokens of each prompt, compared whenever they are read
tokens.bin     (T, width) bfloat16, the tokens that count, one prompt after the other
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fae_core.errors import FAEError, FolderInUse, InvalidFile
from fae_core.files import (
    CHECKSUM,
    hold,
    read_json,
    require_new_folder,
    sha256_file,
    unsealed,
)
from fae_core.folders import CACHE_INDEX, CACHE_TOKENS
from fae_core.processes import Processes
from fae_diffusion.text.cache_parts import encode_into, prompt_key
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.encoder import TextEncoder, check_prompts
from fae_diffusion.text.stored import CACHE_KIND, is_cache

log = logging.getLogger("fae")
_POLL_SECONDS = 0.5


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
        return prompt_key(prompt) in self._rows

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
        tokens = torch.zeros(len(prompts), length, self.width, device="cpu")
        mask = torch.zeros(len(prompts), length, dtype=torch.bool, device="cpu")
        for place, prompt in enumerate(prompts):
            text = self._one(prompt)
            if len(text) > length:
                raise FAEError(f"the prompt {prompt[:60]!r} has {len(text)} tokens, more than {length}")
            tokens[place, : len(text)], mask[place, : len(text)] = text.float(), True
        return TextCondition(tokens, mask)

    def _one(self, prompt: str) -> Tensor:
        """The tokens of one prompt, (tokens, width), bfloat16."""
        row = self._rows.get(prompt_key(prompt))
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

        A call after an interrupted one keeps the parts that were finished. While another command makes the cache, this
        one waits, and then takes what was made where it has these prompts.

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
        if group.is_main:
            require_new_folder(folder, overwrite=True, kind=CACHE_KIND)
        with _held_in_turn(folder, group):
            if group.broadcast(group.is_main and _holds(folder, fingerprint, prompts)):
                return cls(folder)
            encode_into(folder, encoder, fingerprint, prompts, (chunk, part), group)
        made = cls(folder)
        if group.is_main:
            _warn_of_equal(made.equal_after_cut)
        return made


@contextmanager
def _held_in_turn(folder: Path, group: Processes) -> Iterator[None]:
    """Be the only command that makes a cache, once another one that makes it has ended. The first process holds it.

    The others hear from it at each attempt: they would give up after a silence of hours.
    """
    with ExitStack() as held:
        taken = waits = False
        while not taken:
            if group.is_main:
                try:
                    held.enter_context(hold(folder))
                    taken = True
                except FolderInUse as error:
                    if not waits:
                        log.info("waiting for %s, which is being made by %s", folder, error.holder)
                    waits = True
                    time.sleep(_POLL_SECONDS)
            taken = group.broadcast(taken)
        yield


def _holds(folder: Path, fingerprint: str, prompts: Sequence[str]) -> bool:
    """Whether the cache in a folder has all these prompts, and "", from that encoder."""
    if not is_cache(folder):
        return False
    found = TextCache(folder)
    if found.fingerprint != fingerprint or not all(prompt in found for prompt in {"", *prompts}):
        return False
    _warn_of_equal(found.equal_after_cut)
    return True


def _warn_of_equal(equal: dict[str, Any] | None) -> None:
    """Log a warning for prompts that became equal when they were cut."""
    if equal is not None:
        first, second = equal["example"]
        log.warning(
            f"{equal['prompts']} captions are the same as another one once they are cut to {equal['length']} tokens, "
            f"such as {first!r} and {second!r}; a larger text_encoder.max_length tells them apart"
        )
