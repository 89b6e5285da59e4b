"""A patch that is clicked: how similar all others are in each space, and its best matches in a second picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fae_core.errors import FAEError
from fae_eval.explore.latents import CELL, enlarged
from fae_eval.explore.uploads import as_batch
from fae_eval.figures.canvas import colormap, from_grid, mark_patch
from fae_eval.figures.similarity import token_spaces

MATCHES = 3
_KEPT = 32  # pictures whose tokens are kept
_SHOWN = 0.62  # of a map over its picture

Spaces = dict[str, tuple[Tensor, tuple[int, int]]]


@dataclass(frozen=True)
class Similarity:
    """How similar the patches of one space are to the clicked one.

    Attributes:
        own: Cosines in the picture that was clicked, (h, w).
        other: Cosines in the second picture, (h, w); None without one.
        query: Row and column of the clicked patch.
        matches: Rows and columns of the most similar patches of the second picture, the best first.
    """

    own: Tensor
    other: Tensor | None
    query: tuple[int, int]
    matches: tuple[tuple[int, int], ...]


class Tokens:
    """Tokens of pictures in every space of a tokenizer. Those of the last pictures are kept, by their pixels.

    Args:
        tokenizer: What makes them.
        device: Where it is.
    """

    def __init__(self, tokenizer: Any, device: str = "cpu") -> None:
        self.tokenizer, self.device = tokenizer, device
        self._kept = functools.lru_cache(_KEPT)(self._make)

    def of(self, picture: np.ndarray) -> Spaces:
        """Tokens (N, D) and their grid by the name of the space; picture: uint8 (H, W, 3)."""
        return self._kept(picture.tobytes(), picture.shape)

    @torch.inference_mode()
    def _make(self, pixels: bytes, shape: tuple[int, ...]) -> Spaces:
        picture = np.frombuffer(pixels, np.uint8).reshape(shape).copy()
        spaces = token_spaces(self.tokenizer, as_batch([picture], self.device))
        return {name: (tokens[0], grid) for name, (tokens, grid) in spaces.items()}


def similarities(first: Spaces, second: Spaces | None, y: float, x: float) -> dict[str, Similarity]:
    """How similar all patches are to one, by the name of the space.

    Args:
        first: Tokens of the picture that was clicked.
        second: Tokens of the other picture, where there is one.
        y: Where the click was, from 0 (top) to 1.
        x: The same, from 0 (left) to 1.

    Raises:
        FAEError: The click was outside the picture.
    """
    if not (0 <= y <= 1 and 0 <= x <= 1):
        raise FAEError(f"a patch is chosen inside the picture, not at {y:.2f}, {x:.2f}")
    found = {}
    for name, (tokens, grid) in first.items():
        row, column = (min(int(place * side), side - 1) for place, side in zip((y, x), grid, strict=True))
        query = tokens[row * grid[1] + column]
        other, matches = None, ()
        if second is not None:
            others, other_grid = second[name]
            cosines = torch.cosine_similarity(others, query[None], dim=-1)
            other = cosines.view(other_grid)
            best = cosines.topk(min(MATCHES, len(cosines))).indices.tolist()
            matches = tuple(divmod(place, other_grid[1]) for place in best)
        own = torch.cosine_similarity(tokens, query[None], dim=-1).view(grid)
        found[name] = Similarity(own, other, (row, column), matches)
    return found


def similarity_pictures(
    first: np.ndarray, second: np.ndarray | None, found: dict[str, Similarity]
) -> list[tuple[str, Image.Image]]:
    """The map of each space over the clicked picture, then those over the second one, with titles.

    Colours run from cosine 0 or less (dark) to each map's own 98th percentile (bright). The clicked patch and the best
    matches are outlined.

    Args:
        first: The clicked picture, uint8 (H, W, 3).
        second: The other one.
        found: Of `similarities`.
    """
    shown = [(name, _over(first, one.own, [one.query])) for name, one in found.items()]
    for name, one in found.items():
        if second is not None and one.other is not None:
            best = f"{name}: cosine {float(one.other.max()):.2f} at best"
            shown.append((best, _over(second, one.other, one.matches)))
    return shown


def _over(picture: np.ndarray, cosines: Tensor, marked: Sequence[tuple[int, int]]) -> Image.Image:
    """A map over its picture, with patches outlined."""
    below = enlarged(picture).convert("RGB")
    bright = cosines.quantile(0.98).clamp_min(1e-6)
    above = from_grid(colormap(cosines / bright), CELL).resize(below.size, Image.Resampling.NEAREST)
    shown = Image.blend(below, above.convert("RGB"), _SHOWN)
    grid = (cosines.shape[0], cosines.shape[1])
    for row, column in reversed(marked):
        shown = mark_patch(shown, row, column, grid)
    return shown
