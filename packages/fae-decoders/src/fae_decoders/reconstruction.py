"""Images through a tokenizer and back: what is lost, as pictures and as numbers.

PSNR, L1 and the error of features need nothing else. What other networks measure (rFID, LPIPS) comes from a study,
which fae-eval registers under the entry-point group "fae.studies".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fae_core import folders
from fae_core.commands.provenance import provenance
from fae_core.files import write_json
from fae_core.folders import IMAGES, PAIRS, RESULTS
from fae_core.images import ImageSource, psnr, save_grid, save_image
from fae_core.images.grid import column_edges
from fae_core.images.spread import spread_indices
from fae_core.progress import progress
from fae_core.protocols import require_decoder
from fae_core.sampling.reconstruction import Reconstructed, reconstruct
from fae_decoders.fae.fae import FAE

# Of a study's record, what is worth keeping beside the facts of the reconstruction itself.
_FROM_STUDY = ("extractor", "lpips", "preparation", "uint8_rule")


class Reconstruction:
    """Reconstructs images with an FAE, whose features are compared too, or with any other tokenizer that decodes.

    Every number is a mean over images, so the batch size changes none of them.

    Args:
        tokenizer: The tokenizer.
        source: The images.
        batch_size: Images at a time.
        device: Where the tokenizer is.

    Raises:
        FAEError: The tokenizer cannot decode.
    """

    def __init__(self, tokenizer: Any, source: ImageSource, batch_size: int, device: str) -> None:
        require_decoder(tokenizer, f"this {type(tokenizer).__name__}")
        self.tokenizer, self.source, self.batch_size, self.device = tokenizer, source, batch_size, device
        self.name = type(tokenizer).__name__
        self._shown: list[tuple[Tensor, Tensor]] = []

    def run(
        self,
        folder: Path,
        *,
        pairs: int,
        files: bool,
        facts: dict[str, Any],
        study: Callable[..., Any] | None = None,
    ) -> dict[str, Any]:
        """Write pairs.png, images/ if `files`, and results/ with the record and its own copy of the picture.

        Args:
            folder: Where to write.
            pairs: How many originals and reconstructions the picture shows.
            files: Whether every reconstruction is written as a picture of its own.
            facts: Recorded as provenance.
            study: Measures instead of this class: called as `fae_eval.evaluate_reconstruction`, which sees each batch
                once and hands it on.

        Returns:
            The record.

        Raises:
            FAEError: Reconstructions are not finite.
        """
        wanted = set(spread_indices(len(self.source), pairs))

        def keep(rows: range, batch: Reconstructed) -> None:
            originals, decoded = batch.original.cpu(), batch.decoded.cpu()
            for place, index in enumerate(rows):
                if index in wanted:
                    self._shown.append((originals[place], decoded[place]))
                if files:
                    save_image(decoded[place], folder / IMAGES / folders.image(index))

        warnings: list[str] = []
        if study is None:
            means = self._measure(keep)
        else:
            options = {"batch_size": self.batch_size, "device": self.device, "observe": keep, "progress": progress}
            result = study(self.tokenizer, self.source, **options)
            means, warnings = result.values, result.warnings
            facts = {**facts, **{name: result.provenance.get(name) for name in _FROM_STUDY}}
        images = torch.stack([image for side in zip(*self._shown, strict=True) for image in side])
        save_grid(images, folder / PAIRS, len(wanted), row_labels=["image", self.name])
        with Image.open(folder / PAIRS) as grid:
            columns = column_edges(grid.width, len(wanted), images.shape[-1])
        record = {**self._record(means, facts, columns), "warnings": warnings}
        path = folder / RESULTS / "reconstruction.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / PAIRS, path.parent / PAIRS)
        write_json(path, record)
        return record

    def _measure(self, keep: Callable[[range, Reconstructed], None]) -> dict[str, float]:
        """Means over all images of what needs no other network."""
        values: dict[str, list[float]] = {}
        with progress(len(self.source), "reconstructing") as bar:
            for start in range(0, len(self.source), self.batch_size):
                rows = range(start, min(start + self.batch_size, len(self.source)))
                batch = reconstruct(self.tokenizer, self.source, rows, self.device)
                for name, numbers in self._numbers(batch).items():
                    values.setdefault(name, []).extend(numbers.tolist())
                keep(rows, batch)
                bar.advance(len(rows))
        return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}

    @torch.no_grad()
    def _numbers(self, batch: Reconstructed) -> dict[str, Tensor]:
        """(B,) numbers of a batch, by name."""
        numbers = {
            "PSNR [dB]": psnr(batch.original, batch.decoded),
            "L1": (batch.decoded - batch.original).abs().flatten(1).mean(1),
        }
        if isinstance(self.tokenizer, FAE) and batch.features is not None:
            features = batch.features.float()
            rebuilt = self.tokenizer.features(batch.latents).float()
            numbers["feature cosine"] = F.cosine_similarity(rebuilt, features, dim=-1).mean(1)
            numbers["feature MSE"] = (rebuilt - features).square().flatten(1).mean(1)
            numbers["feature mean square"] = features.square().flatten(1).mean(1)
        return {name: value.cpu() for name, value in numbers.items()}

    def _record(self, means: dict[str, float], facts: dict[str, Any], columns: list[list[int]]) -> dict[str, Any]:
        height, width = self.tokenizer.spec.image_shape
        notes = [
            f"Means over {len(self.source)} images of {height}x{width} pixels; PSNR of each image, peak 1, "
            "at most 100 dB.",
        ]
        if "feature mean square" in means:
            notes.append(
                "Features are the backbone's after normalisation; their mean square is given as the scale of their MSE."
            )
        return {
            "kind": "reconstruction",
            "title": f"Images through {self.name}",
            "table": {"columns": ["", self.name], "rows": [[name, value] for name, value in means.items()]},
            "figures": [{"path": PAIRS, "caption": "originals above, reconstructions below", "columns": columns}],
            "notes": notes,
            "values": means,
            "provenance": provenance(
                device=self.device,
                fingerprint=self.tokenizer.spec.fingerprint,
                images=len(self.source),
                **facts,
            ),
        }
