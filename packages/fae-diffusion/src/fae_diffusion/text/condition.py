"""What a text-conditional model is given: token embeddings, which of them count, and where used a pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.layers.token_mask import token_mask, without_padding


@dataclass(frozen=True)
class TextCondition:
    """Text of B prompts. tokens: (B, L, D). mask: (B, L), True where a token counts; None: all do. pooled: (B, P) or None.

    A mask may be given as numbers, see `token_mask`. Tokens that do not count are zeros here, whatever they were before.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or not self.tokens.is_floating_point():
            raise FAEError(
                f"text embeddings are floats of shape (B, L, D), not {self.tokens.dtype} of {tuple(self.tokens.shape)}"
            )
        if self.pooled is not None and (self.pooled.ndim != 2 or len(self.pooled) != len(self.tokens)):
            raise FAEError(
                f"pooled text has shape ({len(self.tokens)}, P) beside its tokens, not {tuple(self.pooled.shape)}"
            )
        if self.mask is not None:
            object.__setattr__(self, "mask", token_mask(self.mask, self.tokens.shape[:2]).to(self.tokens.device))
            object.__setattr__(self, "tokens", without_padding(self.tokens, self.mask))

    @classmethod
    def of(cls, value: Any) -> TextCondition:
        """From itself, a tensor of embeddings, or a pair (embeddings, mask)."""
        if isinstance(value, cls):
            return value
        if isinstance(value, Tensor):
            return cls(value)
        if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, Tensor) for v in value):
            return cls(*value)
        raise FAEError(f"expected text embeddings (B, L, D), with a mask or without, not {type(value).__name__}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Sequence[int]) -> TextCondition:
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> TextCondition:
        return self._map(lambda tensor: tensor.to(device))

    def expand(self, batch: int) -> TextCondition:
        """One prompt, for `batch` samples."""
        return self._map(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def padded(self, length: int) -> TextCondition:
        """The same text in `length` places, of which the new ones do not count."""
        extra = length - self.tokens.shape[1]
        if extra == 0:
            return self
        if extra < 0:
            raise FAEError(f"text of {self.tokens.shape[1]} tokens does not fit into {length} places")
        return TextCondition(F.pad(self.tokens, (0, 0, 0, extra)), F.pad(self._full_mask(), (0, extra)), self.pooled)

    def joined(self, other: TextCondition) -> TextCondition:
        """Both batches, one after the other, padded to one length."""
        first, second = _aligned(self, other)
        return _combine(first, second, lambda a, b: torch.cat([a, b]))

    def replaced(self, rows: Tensor, other: TextCondition) -> TextCondition:
        """`other`'s row (it has as many) wherever `rows` (B,) is True."""
        first, second = _aligned(self, other)

        def choose(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(rows.view(-1, *(1,) * (a.ndim - 1)), b, a)

        return _combine(first, second, choose)

    def _full_mask(self) -> Tensor:
        return self.mask if self.mask is not None else torch.ones_like(self.tokens[..., 0], dtype=torch.bool)

    def _map(self, function) -> TextCondition:
        return TextCondition(*(None if t is None else function(t) for t in (self.tokens, self.mask, self.pooled)))


def _aligned(first: TextCondition, second: TextCondition) -> tuple[TextCondition, TextCondition]:
    length = max(first.tokens.shape[1], second.tokens.shape[1])
    return first.padded(length), second.padded(length)


def _combine(first: TextCondition, second: TextCondition, function) -> TextCondition:
    """Piece by piece; a mask appears where either has one."""
    masked = first.mask is not None or second.mask is not None
    if (first.pooled is None) != (second.pooled is None):
        raise FAEError("one of two texts to combine has a pooled vector and the other has none")
    return TextCondition(
        function(first.tokens, second.tokens.to(first.tokens.dtype)),
        function(first._full_mask(), second._full_mask()) if masked else None,
        None if first.pooled is None else function(first.pooled, second.pooled),
    )
