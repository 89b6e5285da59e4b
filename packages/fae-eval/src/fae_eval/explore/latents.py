"""What a tokenizer keeps of a picture: reconstruction and its errors, and the way between two pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from fae_core.images import psnr
from fae_eval.explore.uploads import Picture, as_batch, as_pictures
from fae_eval.figures.canvas import colormap
from fae_eval.tokenizers import features_of_latents, grid_of, image_features, rebuilds_features

CELL = 256  # pixels of a shown picture


@dataclass(frozen=True)
class Rebuilt:
    """A picture, its reconstruction, and what differs.

    Attributes:
        original: uint8 (H, W, 3), at the size that is painted.
        painted: uint8 (H, W, 3).
        pixel_errors: Mean absolute difference of the channels, (H, W) in [0, 1].
        feature_errors: 1 - cosine of every patch's features and those rebuilt, (h, w); None without features.
        values: Name to number, of the whole picture.
    """

    original: np.ndarray
    painted: np.ndarray
    pixel_errors: np.ndarray
    feature_errors: np.ndarray | None
    values: dict[str, float]


@torch.inference_mode()
def rebuild(tokenizer: Any, picture: Picture, device: str = "cpu") -> Rebuilt:
    """A picture through a tokenizer and back.

    Args:
        tokenizer: Has `encode` and `decode`.
        picture: At its sizes.
        device: Where it is.
    """
    read, original = as_batch([picture.read], device), as_batch([picture.original], device)
    z = tokenizer.encode(read)
    painted = (tokenizer.decode(z).float().clamp(0, 1) * 255).round() / 255
    difference = (painted - original).abs()
    values = {"PSNR in dB": float(psnr(painted, original)), "mean error of 256 levels": float(difference.mean() * 255)}
    errors = None
    if rebuilds_features(tokenizer):
        features, rebuilt = image_features(tokenizer, read).float(), features_of_latents(tokenizer, z).float()
        cosine = F.cosine_similarity(features, rebuilt, dim=-1)
        errors = (1 - cosine)[0].reshape(grid_of(features, z.shape[2], z.shape[3])).cpu().numpy()
        values["cosine of features"] = float(cosine.mean())
        missed = (features - rebuilt).square().sum() / features.square().sum().clamp_min(1e-12)
        values["relative squared error of features"] = float(missed)
    return Rebuilt(picture.original, as_pictures(painted)[0], difference[0].mean(0).cpu().numpy(), errors, values)


def rebuilt_pictures(rebuilt: Rebuilt) -> list[tuple[str, Image.Image]]:
    """Original, reconstruction and maps of the errors, each from 0 (dark) to its own largest value, with titles."""
    shown = [("picture", Image.fromarray(rebuilt.original)), ("reconstruction", Image.fromarray(rebuilt.painted))]
    for title, errors in (("pixels", rebuilt.pixel_errors), ("features", rebuilt.feature_errors)):
        if errors is not None:
            colors = colormap(torch.from_numpy(errors / max(errors.max(), 1e-9)))
            shown.append((f"error of {title}, 0 to {errors.max():.2g}", Image.fromarray(colors)))
    return shown


@torch.inference_mode()
def between_pictures(
    tokenizer: Any, first: np.ndarray, second: np.ndarray, count: int, device: str = "cpu"
) -> list[np.ndarray]:
    """What is painted of latents on the straight line between those of two pictures.

    Args:
        tokenizer: Has `encode` and `decode`.
        first: uint8 (H, W, 3), at the size that it reads.
        second: The same.
        count: How many, the two reconstructions among them; at least 2.
        device: Where it is.

    Returns:
        uint8 (H, W, 3) each.
    """
    start, end = tokenizer.encode(as_batch([first, second], device)).float()
    weights = torch.linspace(0, 1, count, device=start.device).view(-1, 1, 1, 1)
    return as_pictures(tokenizer.decode(torch.lerp(start[None], end[None], weights)))


def enlarged(picture: np.ndarray, side: int = CELL) -> Image.Image:
    """A picture whose longer side has `side` pixels; pixels of small pictures stay squares."""
    image = Image.fromarray(picture)
    factor = side / max(image.size)
    smooth = Image.Resampling.LANCZOS if factor < 2 else Image.Resampling.NEAREST
    return image.resize((round(image.width * factor), round(image.height * factor)), smooth)
