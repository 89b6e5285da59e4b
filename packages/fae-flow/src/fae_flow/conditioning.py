"""Conditions: what callers pass, what blocks take, and the null condition that stands for "none".

Labels are (B,) int64 in [0, classes]. `classes` itself is the null label, which data must not have (`check_data`). Text
is (B, L, text_dim) embeddings, alone or in a pair with a mask (B, L), True at words (see `token_mask`): masked
embeddings become zero, as in the original. Null text is zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.layers import class_labels
from fae_core.layers.condition_rows import is_masked_text
from fae_core.layers.token_mask import token_mask, without_padding
from fae_core.random import SlotRandom
from fae_flow.config import STARFlowConfig


def prepare_condition(config: STARFlowConfig, condition: Any, batch: int, device: torch.device) -> Tensor | None:
    """The condition as blocks take it.

    Args:
        config: the model's configuration.
        condition: labels or text, as in the module's docstring; None = the null condition for every sample.
        batch: number of samples.
        device: of the result.

    Returns:
        Labels (batch,) or embeddings (batch, L, text_dim); None for an unconditional model, which ignores conditions.

    Raises:
        FAEError: if labels are out of range, embeddings have another width, or the rows do not fit.
    """
    if not config.conditional:
        return None
    if condition is None:
        return null_condition(config, batch, device)
    if config.classes is not None:
        # Without dropout the null label has an embedding, but an untrained one.
        return class_labels(condition, batch, config.classes, null=config.label_dropout > 0).to(device)
    prepared = _text(config, condition)
    if len(prepared) != batch:
        raise FAEError(f"{len(prepared)} conditions do not fit {batch} latents")
    return prepared.to(device)


def check_data(config: STARFlowConfig, condition: Any, batch: int) -> None:
    """Raise FAEError for training labels that are not classes, such as the null label: `drop_condition` sets it."""
    if config.classes is not None and condition is not None:
        class_labels(condition, batch, config.classes)


def null_condition(config: STARFlowConfig, batch: int, device: torch.device, like: Tensor | None = None) -> Tensor:
    """The null condition of a conditional model.

    Args:
        config: the model's configuration.
        batch: number of samples.
        device: of the result.
        like: embeddings whose length and dtype null text takes.

    Returns:
        Labels (batch,) or embeddings (batch, L, text_dim).

    Raises:
        FAEError: for a model that was trained without it (label_dropout 0).
    """
    config.require_null()
    if config.classes is not None:
        return torch.full((batch,), config.classes, dtype=torch.long, device=device)
    assert config.text_dim is not None  # the model is conditional
    length = like.shape[1] if like is not None else max(config.text_tokens, 1)
    return torch.zeros(batch, length, config.text_dim, device=device, dtype=like.dtype if like is not None else None)


def drop_condition(config: STARFlowConfig, condition: Tensor | None, random: SlotRandom | None) -> Tensor | None:
    """Replace the condition of a share of `label_dropout` of the samples by the null condition.

    Args:
        config: the model's configuration.
        condition: what `prepare_condition` returned.
        random: source of the draws (stream "label_dropout"); None = torch's global generator.
    """
    if condition is None or not config.label_dropout:
        return condition
    batch, device = condition.shape[0], condition.device
    drawn = random.uniform((), "label_dropout", device) if random is not None else torch.rand(batch, device=device)
    null = null_condition(config, batch, device, condition)
    dropped = (drawn < config.label_dropout).view(-1, *[1] * (condition.ndim - 1))
    return torch.where(dropped, null, condition)


def _text(config: STARFlowConfig, condition: Any) -> Tensor:
    """Embeddings (B, L, text_dim), zero where they are masked."""
    embeddings, mask = condition if is_masked_text(condition) else (condition, None)
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        raise FAEError(f"expected text embeddings (B, L, {config.text_dim}), with a mask (B, L) or without")
    if embeddings.ndim != 3 or embeddings.shape[-1] != config.text_dim:
        raise FAEError(f"expected text embeddings of shape (B, L, {config.text_dim}), got {tuple(embeddings.shape)}")
    if mask is None:
        return embeddings
    batch, length, _ = embeddings.shape
    return without_padding(embeddings, token_mask(mask, (batch, length)).to(embeddings.device))
