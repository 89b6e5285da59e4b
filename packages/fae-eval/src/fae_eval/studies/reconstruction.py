"""Images against their reconstructions: PSNR, SSIM, LPIPS, how well features survive, and rFD."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import DataError, FAEError
from fae_core.images import ImageSource, open_surveyed, to_uint8
from fae_core.images.spread import evenly_spread, spread_indices
from fae_core.processes import Processes, processes
from fae_core.sampling.reconstruction import Reconstructed, reconstruct
from fae_eval import warnings as protocol
from fae_eval.data.samples import ContentHash, batch_starts, share_size
from fae_eval.extractors import DEFAULT, FeatureExtractor, load_extractor
from fae_eval.extractors.base import UINT8_RULE
from fae_eval.metrics import LPIPS, Moments, feature_cosine, frechet_distance, psnr, ssim
from fae_eval.results import Result, provenance
from fae_eval.studies.bars import Progress, advancing
from fae_eval.studies.chosen_metrics import metric_labels
from fae_eval.studies.reference import gaussian
from fae_eval.tokenizers import (
    device_of,
    features_of_latents,
    image_features,
    load_image_tokenizer,
    name_of,
    rebuilds_features,
)

_SHOWN = 8


@torch.no_grad()
def evaluate_reconstruction(
    tokenizer: Any,
    images: Any,
    *,
    extractor: str | FeatureExtractor | None = DEFAULT,
    weights: str | Path | None = None,
    lpips: bool = False,
    survey: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
    picture: str | Path | None = None,
    title: str = "Reconstructions",
    progress: Progress | None = None,
    observe: Callable[[range, Reconstructed], None] | None = None,
) -> Result:
    """Encode and decode images, and compare.

    Reconstructions are rounded to uint8 before anything is measured. Under torchrun every process takes a share of the
    images, and all return the same record.

    Args:
        tokenizer: an object with encode and decode, or its folder or hub id.
        images: anything `open_images` takes; centre-cropped to the tokenizer's image size.
        extractor: for the Frechet distance (rFD; rFID only with the official Inception); None leaves it out.
        weights: local file of the extractor's weights.
        lpips: whether to measure LPIPS, which needs fae-eval[perceptual] and torchvision's weights.
        survey: a report of `fae check` on the images; broken ones are left out.
        limit: most images, evenly spread.
        batch_size: images of a batch.
        device: of what is loaded; cuda where there is one.
        picture: file for a picture of originals above reconstructions; None for none.
        title: heading of the record.
        progress: `fae_core.progress.progress`, or anything called like it.
        observe: called with the indices and each batch of this process, once it is measured.

    Raises:
        FAEError: where the tokenizer cannot decode, or there is no image.
    """
    started = time.monotonic()
    with processes(device) as group:
        model = load_image_tokenizer(tokenizer, group.device, needs_decode=True)
        source = evenly_spread(open_surveyed(images, report=survey), limit)
        network = load_extractor(extractor, weights=weights, device=group.device) if extractor is not None else None
        pass_ = _Pass(model, source, network, LPIPS().to(device_of(model)) if lpips else None)
        share = group.rank, group.world_size
        own = share_size(len(source), batch_size, share)
        with advancing(progress, own, "reconstructing", enabled=group.is_main) as advance:
            for start in batch_starts(len(source), batch_size, share):
                indices = range(start, min(len(source), start + batch_size))
                batch = reconstruct(model, source, indices, device_of(model))
                pass_.add(indices, batch)
                if observe is not None:
                    observe(indices, batch)
                advance(len(indices))
        pass_.gather(group)
        result = None
        if group.is_main:
            values, warnings = pass_.values()
            record = provenance(
                device=device_of(model),
                tokenizer=name_of(tokenizer),
                fingerprint=model.spec.fingerprint or None,
                images={
                    "source": source.origin or str(images),
                    "count": len(source),
                    "hash": pass_.content.value,
                    "size": "x".join(map(str, model.spec.image_shape)),
                },
                preparation="centre crop (box halving, then bicubic)",
                extractor=network and {"name": network.name, "weights": network.fingerprint, "resize": network.resize},
                lpips=None if pass_.lpips is None else pass_.lpips.name,
                uint8_rule=UINT8_RULE,
                processes=group.world_size if group.world_size > 1 else None,
                seconds=round(time.monotonic() - started, 1),
            )
            figures = [_draw(pass_.shown, Path(picture))] if picture is not None else []
            table = {"columns": ["", "images", *values], "rows": [["reconstructed", len(source), *values.values()]]}
            result = Result("reconstruction", title, table, figures, [], warnings, values, record)
        result = group.broadcast(result)
        assert isinstance(result, Result)
        return result


class _Pass:
    """What one pass over a process's share of the images measures; `gather` joins the shares as if one had done all."""

    def __init__(self, model: Any, source: ImageSource, network: FeatureExtractor | None, lpips: LPIPS | None) -> None:
        self.model, self.source, self.network, self.lpips = model, source, network, lpips
        self.per_image: dict[str, list[Tensor]] = {}
        self.fits = _FeatureFit() if rebuilds_features(model) else None
        self.moments = [Moments(network.dim, getattr(network, "device", None)) for _ in range(2)] if network else []
        self.content = ContentHash()
        self.shown: list[tuple[Tensor, Tensor]] = []
        self._wanted = spread_indices(len(source), _SHOWN)

    def add(self, indices: range, batch: Reconstructed) -> None:
        moved, rebuilt, originals = batch.original, batch.decoded, batch.original.cpu()
        self.content.add(to_uint8(originals).permute(0, 2, 3, 1).numpy())
        self._append("PSNR [dB]", psnr(moved, rebuilt))
        if min(moved.shape[-2:]) >= 11:
            self._append("SSIM", ssim(moved, rebuilt))
        if self.lpips is not None:
            self._append("LPIPS", self.lpips(moved, rebuilt))
        if self.fits is not None:
            features = image_features(self.model, batch.read) if batch.features is None else batch.features
            self.fits.add(features, features_of_latents(self.model, batch.latents))
        if self.network is not None:
            for moments, side in zip(self.moments, (moved, rebuilt), strict=True):
                moments.add(self.network.features(side))
        start = indices.start
        self.shown += [(originals[i - start], rebuilt[i - start].cpu()) for i in self._wanted if i in indices]

    def gather(self, group: Processes) -> None:
        if group.world_size == 1:
            return
        for moments in self.moments:
            moments.all_reduce()
        measured, fits, contents, shown = zip(
            *group.gather((self.per_image, self.fits, self.content, self.shown)), strict=True
        )
        names = next((part for part in measured if part), {})
        self.per_image = {name: [x for part in measured for x in part.get(name, ())] for name in names}
        self.content = ContentHash.merged(contents)
        self.shown = [pair for part in shown for pair in part]
        if self.fits is not None:
            self.fits.batches = [batch for part in fits for batch in part.batches]

    def values(self) -> tuple[dict[str, float], list[str]]:
        """The numbers by name, and warnings."""
        values = {name: torch.cat(parts).double().mean().item() for name, parts in self.per_image.items()}
        fits = self.fits.values() if self.fits is not None else {}
        values |= fits
        warnings = ["the features do not vary: there is no variance to explain"] if fits and len(fits) < 3 else []
        if self.network is None or len(self.source) < 2:
            return values, warnings
        label = metric_labels(self.network, "reconstruction")["frechet"]
        real, made = map(gaussian, self.moments)
        values[label] = frechet_distance(real, mu2=made)
        return values, [*warnings, *protocol.count_warnings(len(self.source), self.network.dim)]

    def _append(self, name: str, values: Tensor) -> None:
        self.per_image.setdefault(name, []).append(values.cpu())


class _FeatureFit:
    """How well features are rebuilt: cosine, squared error, and the variance left unexplained.

    Sums are kept batch by batch and added at the end in the order of the images, whoever made them.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, int, Tensor, Tensor]] = []

    def add(self, target: Tensor, prediction: Tensor) -> None:
        if target.shape != prediction.shape:
            raise FAEError(f"features {tuple(target.shape)} were rebuilt as {tuple(prediction.shape)}")
        cosine = feature_cosine(target, prediction).cpu()
        target, prediction = target.double().flatten(0, 1).cpu(), prediction.double().flatten(0, 1).cpu()
        sums = torch.stack([(target - prediction).square().sum(), target.square().sum()])
        self.batches.append((cosine, len(target), sums, target.sum(0)))

    def values(self) -> dict[str, float]:
        cosines, counts, sums, totals = zip(*self.batches, strict=True)
        count, total = sum(counts), torch.stack(totals).sum(0)
        error, squares = torch.stack(sums).sum(0)
        spread = squares - total.square().sum() / count
        values = {
            "feature cosine": torch.cat(cosines).double().mean().item(),
            "feature MSE": (error / (count * len(total))).item(),
        }
        # For features that are all equal the subtraction leaves only rounding.
        return values | ({"unexplained variance": (error / spread).item()} if spread > 1e-12 * squares else {})


def _draw(shown: list[tuple[Tensor, Tensor]], path: Path) -> dict[str, str]:
    from fae_eval.figures.canvas import compose, from_tensor, save_picture

    if not shown:
        raise DataError("there are no images to show")
    rows = [[from_tensor(image) for image in side] for side in zip(*shown, strict=True)]
    save_picture(compose(rows, row_titles=["original", "rebuilt"]), path)
    return {"path": path.name, "caption": "Originals above, their reconstructions below."}
