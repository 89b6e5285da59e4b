"""Which tokens of a text count: one interpretation of masks for every generator that takes text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.tracing import is_readable

_HIDDEN = -1e4  # an additive mask holds 0 where a token counts and this, or less, where it does not


def token_mask(mask: Any, shape: tuple[int, int]) -> Tensor:
    """A boolean mask, True where a token counts, from any of the usual kinds.

    Args:
        mask: booleans; numbers that are all 0 or 1 (a tokenizer's attention_mask); or an additive mask of 0 and -inf
            (or -1e4 and less). Where values cannot be read (`fae_core.tracing.is_readable`), integers are taken for 0
            and 1, and floats, which could be either, are refused.
        shape: (B, L), which the mask must have; (1, L) and (B, 1, 1, L) are refused.

    Returns:
        (B, L) bool.

    Raises:
        FAEError: the mask has another shape, other numbers, or is ambiguous (floats that are all 0, or
            cannot be read).
    """
    if not isinstance(mask, Tensor):
        raise FAEError(f"a text mask is a tensor, not a {type(mask).__name__}")
    if tuple(mask.shape) != tuple(shape):
        raise FAEError(f"a text mask has the shape (B, L) of its text, {tuple(shape)}, not {tuple(mask.shape)}")
    if mask.dtype == torch.bool or mask.numel() == 0:
        return mask.bool()
    if mask.is_complex():
        raise FAEError(f"a text mask holds booleans, 0 and 1, or 0 and -inf, not {mask.dtype}")
    zeros = mask == 0
    if not is_readable(mask):
        if mask.is_floating_point():
            raise FAEError("floats of a text mask cannot be read while traced (0 and 1, or 0 and -inf): pass booleans")
        return ~zeros
    if bool((zeros | (mask == 1)).all()):
        if mask.is_floating_point() and bool(zeros.all()):
            raise FAEError("a text mask of zeros alone hides every token or, as an additive mask, none; pass booleans")
        return ~zeros
    if mask.is_floating_point() and bool((zeros | (mask <= _HIDDEN)).all()):
        return zeros
    raise FAEError("a text mask holds booleans, 0 and 1, or 0 and -inf; this one holds other numbers")


def without_padding(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens with zeros where the mask is False, in place of any value, NaN and inf included.

    Args:
        tokens: (B, L, D).
        mask: (B, L) bool; None keeps all tokens.
    """
    return tokens if mask is None else torch.where(mask.unsqueeze(-1), tokens, tokens.new_zeros(()))
