"""Images through a tokenizer and back: what is lost, as pictures and as numbers.

For the metrics that need other networks (rFID, LPIPS) there is `fae eval reconstruction`; these here need nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core import folders
from fae_core.commands.provenance import provenance
from fae_core.errors import FAEError
from fae_core.files import write_json
from fae_core.folders import IMAGES, PAIRS, RESULTS
from fae_core.images import ImageSource, load_batch, psnr, save_grid, save_image, to_uint8
from fae_core.images.transform import resize
from fae_core.progress import progress
from fae_core.protocols import read_size, require_decoder
from fae_decoders.fae.fae import FAE


class Reconstruction:
    """Reconstructs a source with an FAE, whose features are compared too, or any other tokenizer that decodes.

    Every number is a mean over images, so the batch size changes none of them. Raises FAEError where it cannot paint.
    """

    def __init__(self, tokenizer: Any, source: ImageSource, batch_size: int, device: str) -> None:
        require_decoder(tokenizer, f"this {type(tokenizer).__name__}")
        self.tokenizer, self.source, self.batch_size, self.device = tokenizer, source, batch_size, device
        self.name = type(tokenizer).__name__

    def run(self, folder: Path, *, pairs: int, files: bool, facts: dict[str, Any]) -> dict[str, Any]:
        """Write pairs.png, images/ if `files`, and results/ with the record and its own copy of the picture into
        `folder`.

        Returns the record. Raises FAEError where the tokenizer paints numbers that are not finite.
        """
        values: dict[str, list[float]] = {}
        shown: list[list[Tensor]] = []
        pairs = min(pairs, len(self.source))
        wanted = {i * len(self.source) // pairs for i in range(pairs)}
        with progress(len(self.source), "reconstructing") as bar:
            for start in range(0, len(self.source), self.batch_size):
                rows = range(start, min(start + self.batch_size, len(self.source)))
                target, painted, measured = self.batch(rows)
                for name, numbers in measured.items():
                    values.setdefault(name, []).extend(numbers.tolist())
                shown += [pair for i, *pair in zip(rows, target, painted, strict=True) if i in wanted]
                if files:
                    for index, image in zip(rows, painted, strict=True):
                        save_image(image, folder / IMAGES / folders.image(index))
                bar.advance(len(rows))
        save_grid(
            torch.stack([image for pair in zip(*shown, strict=True) for image in pair]),
            folder / PAIRS,
            len(shown),
            row_labels=["image", self.name],
        )
        record = self._record({name: sum(numbers) / len(numbers) for name, numbers in values.items()}, facts)
        path = folder / RESULTS / "reconstruction.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / PAIRS, path.parent / PAIRS)
        write_json(path, record)
        return record

    @torch.no_grad()
    def batch(self, rows: range) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Targets and reconstructions of some images (B, 3, H, W) on the CPU, and (B,) numbers for each."""
        images = load_batch(self.source, rows, read_size(self.tokenizer)).to(self.device)
        if isinstance(self.tokenizer, FAE):
            z, measured = self._features(self.tokenizer, images)
        else:
            z, measured = self.tokenizer.encode(images), {}
        target, painted = resize(images, self.tokenizer.spec.image_shape), self.tokenizer.decode(z)
        if not bool(painted.isfinite().all()):
            raise FAEError(f"{self.name} paints numbers that are not finite (images {rows.start} to {rows.stop - 1})")
        painted = to_uint8(painted).float() / 255  # what a picture on disk holds, and what `fae eval` measures
        measured = {
            "PSNR [dB]": psnr(target, painted),
            "L1": (painted - target).abs().flatten(1).mean(1),
            **measured,
        }
        return target.cpu(), painted.cpu(), {name: value.cpu() for name, value in measured.items()}

    @staticmethod
    def _features(fae: FAE, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents (B, C, h, w), and how well features survive them, (B,) numbers."""
        features = fae.encoder.features(images).float()
        z = fae.spec.normalize(fae.encoder.adapt(features).mode())
        reconstructed = fae.features(z).float()
        return z, {
            "feature cosine": F.cosine_similarity(reconstructed, features, dim=-1).mean(1),
            "feature MSE": (reconstructed - features).square().flatten(1).mean(1),
            "feature mean square": features.square().flatten(1).mean(1),
        }

    def _record(self, means: dict[str, float], facts: dict[str, Any]) -> dict[str, Any]:
        height, width = self.tokenizer.spec.image_shape
        notes = [
            f"Means over {len(self.source)} images of {height}x{width} pixels; PSNR of each image, peak 1, "
            "at most 100 dB.",
        ]
        if "feature MSE" in means:
            notes.append(
                "Features are the backbone's after normalisation; their mean square is given as the scale of their MSE."
            )
        return {
            "kind": "reconstruction",
            "title": f"Images through {self.name}",
            "table": {"columns": ["", self.name], "rows": [[name, value] for name, value in means.items()]},
            "figures": [{"path": PAIRS, "caption": "originals above, reconstructions below"}],
            "notes": notes,
            "warnings": [],
            "values": means,
            "provenance": provenance(
                device=self.device,
                fingerprint=self.tokenizer.spec.fingerprint,
                images=len(self.source),
                **facts,
            ),
        }
