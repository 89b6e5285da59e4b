"""Images against their reconstructions: PSNR, SSIM, LPIPS, how well features survive, and rFD."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import DataError, FAEError
from fae_core.images import load_batch, open_images, to_uint8
from fae_eval import protocol
from fae_eval.data.samples import ContentHash, spread, spread_indices
from fae_eval.extractors import DEFAULT, FeatureExtractor, load_extractor
from fae_eval.extractors.base import UINT8_RULE
from fae_eval.generation import metric_labels
from fae_eval.metrics import LPIPS, Moments, feature_cosine, frechet_distance, psnr, ssim
from fae_eval.reference import gaussian
from fae_eval.results import Result, provenance
from fae_eval.tokenizers import (
    at_image_size,
    features_of_latents,
    image_features,
    load_image_tokenizer,
    read_size,
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
    limit: int | None = None,
    batch_size: int = 32,
    device: str | None = None,
    picture: str | Path | None = None,
    title: str = "Reconstructions",
    progress: Any = None,
) -> Result:
    """Encode and decode images, and compare.

    tokenizer: an object with encode and decode, or a folder or hub id. images: anything `open_images` takes; centre-cropped to
    the tokenizer's image size. limit: at most so many images, evenly spread. extractor: for the Frechet distance between originals and reconstructions (rFD, called rFID only
    with the official Inception), None to leave it out. lpips: needs fae-eval[perceptual] and torchvision's weights.
    picture: where to write originals above reconstructions. Reconstructions are rounded to uint8 before anything is measured.
    Raises FAEError where the tokenizer cannot decode or there is no image.
    """
    started = time.monotonic()
    model = load_image_tokenizer(tokenizer, device, needs_decode=True)
    source = spread(open_images(images), limit)
    count = len(source)
    network = load_extractor(extractor, weights=weights, device=device) if extractor is not None else None
    perceptual = LPIPS().to(device or "cpu") if lpips else None
    per_image: dict[str, list[Tensor]] = {}
    fits = _FeatureFit() if rebuilds_features(model) else None
    real, made, content, shown = None, None, ContentHash(), []
    wanted = spread_indices(count, _SHOWN)
    with _bar(progress, count) as advance:
        for start in range(0, count, batch_size):
            read = load_batch(source, range(start, min(count, start + batch_size)), read_size(model))
            read = read.to(device) if device else read
            moved = at_image_size(model, read)
            originals = moved.cpu()
            z = model.encode(read)
            pixels = to_uint8(model.decode(z))
            rebuilt = pixels.float() / 255
            content.add(to_uint8(originals).permute(0, 2, 3, 1).numpy())
            _append(per_image, "PSNR [dB]", psnr(moved, rebuilt))
            if min(moved.shape[-2:]) >= 11:
                _append(per_image, "SSIM", ssim(moved, rebuilt))
            if perceptual is not None:
                _append(per_image, "LPIPS", perceptual(moved, rebuilt))
            if fits is not None:
                fits.add(image_features(model, read), features_of_latents(model, z))
            if network is not None:
                features, other = network.features(moved), network.features(rebuilt)
                real, made = real or Moments(features.shape[1]), made or Moments(features.shape[1])
                real.add(features.cpu())
                made.add(other.cpu())
            shown += [
                (originals[i - start], rebuilt[i - start].cpu()) for i in wanted if start <= i < start + len(read)
            ]
            advance(len(originals))
    values = {name: torch.cat(parts).double().mean().item() for name, parts in per_image.items()}
    values |= fits.values() if fits is not None else {}
    warnings = []
    if network is not None and count > 1:
        label = metric_labels(network, "reconstruction")["frechet"]
        values[label] = frechet_distance(gaussian(real), mu2=gaussian(made))
        warnings += protocol.count_warnings(count, network.dim)
    figures = []
    if picture is not None:
        figures.append(_draw(shown, Path(picture)))
    record = provenance(
        device=device or "cpu",
        tokenizer=str(tokenizer) if isinstance(tokenizer, (str, Path)) else type(tokenizer).__name__,
        fingerprint=model.spec.fingerprint or None,
        images={
            "source": str(images),
            "count": count,
            "hash": content.value,
            "size": "x".join(map(str, model.spec.image_shape)),
        },
        preparation="centre crop (box halving, then bicubic)",
        extractor=network and {"name": network.name, "weights": network.fingerprint, "resize": network.resize},
        uint8_rule=UINT8_RULE,
        seconds=round(time.monotonic() - started, 1),
    )
    table = {"columns": ["", "images", *values], "rows": [["reconstructed", count, *values.values()]]}
    return Result("reconstruction", title, table, figures, [], warnings, values, record)


class _FeatureFit:
    """How well features are rebuilt: cosine, squared error, and the variance left unexplained, streamed."""

    def __init__(self) -> None:
        self.cosines: list[Tensor] = []
        self.count, self.error = 0, 0.0
        self.total, self.squares = 0.0, 0.0

    def add(self, target: Tensor, prediction: Tensor) -> None:
        if target.shape != prediction.shape:
            raise FAEError(f"features {tuple(target.shape)} were rebuilt as {tuple(prediction.shape)}")
        self.cosines.append(feature_cosine(target, prediction).cpu())
        target, prediction = target.double().flatten(0, 1).cpu(), prediction.double().flatten(0, 1).cpu()
        self.count += len(target)
        self.error += (target - prediction).square().sum(0)
        self.total += target.sum(0)
        self.squares += target.square().sum(0)

    def values(self) -> dict[str, float]:
        spread = (self.squares - self.total.square() / self.count).sum().clamp_min(1e-30)
        return {
            "feature cosine": torch.cat(self.cosines).double().mean().item(),
            "feature MSE": (self.error.mean() / self.count).item(),
            "unexplained variance": (self.error.sum() / spread).item(),
        }


def _append(parts: dict[str, list[Tensor]], name: str, values: Tensor) -> None:
    parts.setdefault(name, []).append(values.cpu())


def _draw(shown: list[tuple[Tensor, Tensor]], path: Path) -> dict[str, str]:
    from fae_eval.figures.canvas import compose, from_tensor, save_picture

    if not shown:
        raise DataError("there are no images to show")
    rows = [[from_tensor(image) for image in side] for side in zip(*shown, strict=True)]
    save_picture(compose(rows, row_titles=["original", "rebuilt"]), path)
    return {"path": path.name, "caption": "Originals above, their reconstructions below."}


def _bar(progress: Any, total: int) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def manager() -> Any:
        if progress is None:
            yield lambda count: None
        else:
            with progress(total, "reconstructing") as bar:
                yield bar.advance

    return manager()
