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
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fae_core.errors import CheckpointError
from fae_core.files import read_json, staged_folder
from fae_core.progress import progress
from fae_diffusion.models.text_condition import TextCondition
from fae_diffusion.text import TextEncoder


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

    @classmethod
    def build(cls, folder: str | Path, encoder: TextEncoder, prompts: Sequence[str], chunk: int = 256) -> TextCache:
        """The cache in `folder` if it has these prompts from this encoder; else encode them there, "" included."""
        folder, fingerprint = Path(folder), encoder.fingerprint()
        wanted = sorted({"", *prompts})
        if (folder / "index.json").is_file():
            found = cls(folder)
            if found.fingerprint == fingerprint and all(prompt in found for prompt in wanted):
                return found
        offsets = [0]
        with staged_folder(folder, overwrite=True) as staging:
            with (staging / "tokens.bin").open("wb") as file, progress(len(wanted), "encoding prompts") as bar:
                for start in range(0, len(wanted), chunk):
                    text = encoder.encode(wanted[start : start + chunk])
                    for tokens, mask in zip(text.tokens.to(torch.bfloat16).cpu(), text.mask.cpu(), strict=True):
                        kept = tokens[mask]
                        file.write(kept.view(torch.uint16).numpy().tobytes())
                        offsets.append(offsets[-1] + len(kept))
                    bar.advance(min(chunk, len(wanted) - start))
            keys = np.stack([np.frombuffer(_key(prompt), dtype=np.uint8) for prompt in wanted])
            np.save(staging / "keys.npy", keys, allow_pickle=False)
            np.save(staging / "offsets.npy", np.array(offsets, dtype=np.int64), allow_pickle=False)
            index = {"fingerprint": fingerprint, "encoder": encoder.name, "width": encoder.width}
            index |= {"prompts": len(wanted), "tokens": offsets[-1]}
            (staging / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        return cls(folder)


def _key(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=16).digest()
