"""The condition of a text-conditional model: token embeddings, which of them count, and optionally a pooled vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.display import fields_html, fields_repr
from fae_core.errors import FAEError
from fae_core.layers.token_mask import token_mask, without_padding


@dataclass(frozen=True)
class TextCondition:
    """Embedded text of B prompts. Tokens that do not count are replaced by zeros.

    Attributes:
        tokens: embeddings, (B, L, D).
        mask: (B, L), True where a token counts; None: all do. May be given as numbers, see `token_mask`.
        pooled: a vector per prompt, (B, P), or None.

    Raises:
        FAEError: for shapes or dtypes that do not fit together.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None

    __repr__, _repr_html_ = fields_repr, fields_html

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or not self.tokens.is_floating_point():
            raise FAEError(
                f"text embeddings are floats of shape (B, L, D), not {self.tokens.dtype} of {tuple(self.tokens.shape)}"
            )
        if self.pooled is not None and (self.pooled.ndim != 2 or self.pooled.shape[0] != self.tokens.shape[0]):
            raise FAEError(
                f"pooled text has shape ({len(self.tokens)}, P) beside its tokens, not {tuple(self.pooled.shape)}"
            )
        if self.mask is not None:
            batch, length, _ = self.tokens.shape
            object.__setattr__(self, "mask", token_mask(self.mask, (batch, length)).to(self.tokens.device))
            object.__setattr__(self, "tokens", without_padding(self.tokens, self.mask))

    @classmethod
    def of(cls, value: Any) -> TextCondition:
        """A TextCondition as it is; or one made of a tensor of embeddings, or of a pair (embeddings, mask).

        Args:
            value: A TextCondition; embeddings (B, L, D); or these and a mask (B, L), True for tokens that count.

        Raises:
            FAEError: for anything else.
        """
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
        """The same text on a device.

        Args:
            device: Such as "cuda:0".
        """
        return self._map(lambda tensor: tensor.to(device))

    def expand(self, batch: int) -> TextCondition:
        """One prompt (a batch of one), repeated for `batch` samples without a copy.

        Args:
            batch: How many samples.
        """
        return self._map(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def padded(self, length: int) -> TextCondition:
        """The same text with `length` tokens, of which the added ones do not count.

        Args:
            length: Of the result in tokens, at least that of the text.

        Raises:
            FAEError: for a text that is longer.
        """
        extra = length - self.tokens.shape[1]
        if extra == 0:
            return self
        if extra < 0:
            raise FAEError(f"text of {self.tokens.shape[1]} tokens does not fit into {length} places")
        return TextCondition(F.pad(self.tokens, (0, 0, 0, extra)), F.pad(self._full_mask(), (0, extra)), self.pooled)

    def joined(self, other: TextCondition) -> TextCondition:
        """Both batches, one after the other, padded to the same length.

        Args:
            other: Embeddings of the same width.
        """
        first, second = _aligned(self, other)
        return _combine(first, second, lambda a, b: torch.cat([a, b]))

    def replaced(self, rows: Tensor, other: TextCondition) -> TextCondition:
        """This text, with the row of `other` wherever `rows` is True.

        Args:
            rows: booleans, (B,).
            other: as many prompts; both are padded to the same length.
        """
        first, second = _aligned(self, other)

        def choose(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(rows.view(-1, *(1,) * (a.ndim - 1)), b, a)

        return _combine(first, second, choose)

    def _full_mask(self) -> Tensor:
        """The mask, of ones where there is none."""
        return self.mask if self.mask is not None else torch.ones_like(self.tokens[..., 0], dtype=torch.bool)

    def _map(self, function: Callable[[Tensor], Tensor]) -> TextCondition:
        """The function applied to each tensor."""
        mask, pooled = (None if t is None else function(t) for t in (self.mask, self.pooled))
        return TextCondition(function(self.tokens), mask, pooled)


def _aligned(first: TextCondition, second: TextCondition) -> tuple[TextCondition, TextCondition]:
    """Both, padded to the longer of the two."""
    length = max(first.tokens.shape[1], second.tokens.shape[1])
    return first.padded(length), second.padded(length)


def _combine(
    first: TextCondition, second: TextCondition, function: Callable[[Tensor, Tensor], Tensor]
) -> TextCondition:
    """The function of each pair of tensors. The result has a mask where either has one."""
    masked = first.mask is not None or second.mask is not None
    if (first.pooled is None) != (second.pooled is None):
        raise FAEError("one of two texts to combine has a pooled vector and the other has none")
    return TextCondition(
        function(first.tokens, second.tokens.to(first.tokens.dtype)),
        function(first._full_mask(), second._full_mask()) if masked else None,
        None if first.pooled is None or second.pooled is None else function(first.pooled, second.pooled),
    )
