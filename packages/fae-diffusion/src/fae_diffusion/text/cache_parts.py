"""Encoding the prompts of a cache of embeddings: in parts, which processes share and an interruption keeps.

The files of a cache are those of `fae_diffusion.text.cache`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fae_core.errors import FAEError, InvalidFile
from fae_core.files import disk_errors, remove_folder, sha256_file, staged_folder, write_atomic, write_json
from fae_core.folders import CACHE_INDEX, CACHE_TOKENS
from fae_core.processes import Processes
from fae_core.progress import progress
from fae_diffusion.text.encoder import TextEncoder, check_prompts
from fae_diffusion.text.stored import CACHE_KIND


def encode_into(
    folder: Path,
    encoder: TextEncoder,
    fingerprint: str,
    prompts: Sequence[str],
    sizes: tuple[int, int],
    group: Processes,
) -> None:
    """Make the cache: every process encodes its share of the parts, and the first one joins them all.

    Args:
        folder: Of the cache.
        encoder: Of the prompts.
        fingerprint: The encoder's.
        prompts: Texts; "" is added to them.
        sizes: Prompts encoded in one call of the encoder, and prompts of a part.
        group: The processes.

    Raises:
        FAEError: Embeddings are not finite, or a part is damaged meanwhile.
    """
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


def prompt_key(prompt: str) -> bytes:
    """The hash of a prompt."""
    check_prompts([prompt])
    return hashlib.blake2b(prompt.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class _Part:
    """Consecutive prompts, and the file that holds their tokens until all parts are joined."""

    prompts: list[str]
    path: Path

    @classmethod
    def of(cls, folder: Path, fingerprint: str, prompts: list[str]) -> _Part:
        """The part of these prompts. The file is named by a hash of encoder and prompts, so that it needs no check."""
        name = hashlib.blake2b(b"".join([fingerprint.encode(), *map(prompt_key, prompts)]), digest_size=16).hexdigest()
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
        numbers = {"lengths": lengths, "sums": [_sum(one) for one in tokens]}
        stored = {name: torch.tensor(values, device="cpu") for name, values in numbers.items()}
        write_atomic(self.path, save({"tokens": torch.cat(tokens), **stored}))

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
            "keys": np.stack([np.frombuffer(prompt_key(prompt), dtype=np.uint8) for prompt in wanted]),
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


def _equal_after_cut(encoder: TextEncoder, prompts: list[str]) -> dict[str, Any] | None:
    """How many prompts are equal to another one once they are cut to the encoder's length, and two of them."""
    groups = encoder.equal_after_cut(prompts)
    if not groups:
        return None
    example = [p if len(p) <= 100 else f"{p[:48]} ... {p[-48:]}" for p in groups[0][:2]]
    return {"prompts": sum(map(len, groups)), "length": encoder.max_length, "example": example}


def _sum(tokens: Tensor) -> int:
    """The CRC-32 of tokens."""
    return zlib.crc32(tokens.contiguous().view(torch.uint16).numpy().data)
