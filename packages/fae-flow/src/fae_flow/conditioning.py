"""Conditions: what callers pass, what blocks take, and the null condition that stands for "none".

Labels are (B,) int64 in [0, classes], where `classes` itself is the null label. Text is (B, L, text_dim) embeddings, or a
pair with a mask (B, L), True at words: masked embeddings become zero, as in the original. Null text is all zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.random import SlotRandom
from fae_flow.config import STARFlowConfig


def prepare_condition(config: STARFlowConfig, condition: Any, device: torch.device) -> Tensor | None:
    """The condition as one tensor on `device`; None for an unconditional model, which ignores what it is given.

    Raises FAEError where labels are out of range, embeddings have another width, or a condition is missing.
    """
    if not config.conditional:
        return None
    if condition is None:
        raise FAEError(
            f"this model is conditional on {_kind(config)}; pass them, or noise alone for the null condition"
        )
    if config.classes is not None:
        labels = torch.as_tensor(condition, device=device)
        if labels.ndim != 1 or labels.is_floating_point():
            raise FAEError(f"expected class labels of shape (B,), got {labels.dtype} of shape {tuple(labels.shape)}")
        # Looking at the values of labels on an accelerator would wait for it; the embedding checks them there.
        if labels.device.type == "cpu" and labels.numel() and not 0 <= labels.min() <= labels.max() <= config.classes:
            raise FAEError(f"class labels must lie in 0..{config.classes - 1} ({config.classes} = none)")
        return labels.long()
    embeddings, mask = condition if isinstance(condition, tuple) else (condition, None)
    if embeddings.ndim != 3 or embeddings.shape[-1] != config.text_dim:
        raise FAEError(f"expected text embeddings of shape (B, L, {config.text_dim}), got {tuple(embeddings.shape)}")
    if mask is not None:
        embeddings = embeddings * mask.unsqueeze(-1).to(embeddings.dtype)
    return embeddings.to(device)


def null_condition(config: STARFlowConfig, batch: int, device: torch.device, like: Tensor | None) -> Tensor | None:
    """The null condition for `batch` samples; text takes its length from `like` where given."""
    if config.classes is not None:
        return torch.full((batch,), config.classes, dtype=torch.long, device=device)
    if config.text_dim is not None:
        length = like.shape[1] if like is not None else max(config.text_tokens, 1)
        return torch.zeros(batch, length, config.text_dim, device=device)
    return None


def drop_condition(config: STARFlowConfig, condition: Tensor | None, random: SlotRandom | None) -> Tensor | None:
    """Replace the condition of a `label_dropout` share of samples by the null condition; stream "label_dropout"."""
    if condition is None or not config.label_dropout:
        return condition
    batch, device = condition.shape[0], condition.device
    drawn = random.uniform((), "label_dropout", device) if random is not None else torch.rand(batch, device=device)
    null = null_condition(config, batch, device, condition).to(condition.dtype)
    dropped = (drawn < config.label_dropout).view(-1, *[1] * (condition.ndim - 1))
    return torch.where(dropped, null, condition)


def condition_rows(condition: Any) -> int | None:
    """How many samples a condition as passed by a caller stands for; None where it does not say."""
    if condition is None:
        return None
    if isinstance(condition, tuple):
        condition = condition[0]
    return len(condition)


def _kind(config: STARFlowConfig) -> str:
    return "class labels" if config.classes is not None else "text embeddings"
