"""The inception score as ADM's evaluator computes it: contiguous splits, no shuffling."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from fae_core.errors import FAEError


def inception_score(probs: ArrayLike, splits: int | None = None, *, split_size: int = 5000) -> float:
    """Mean over splits of exp(E[KL(p(y|x) || p(y))]), from 1 to the number of classes; higher is better.

    The rows must be in random order of class: each split estimates p(y) on its own, so class-ordered rows collapse the
    score.

    Args:
        probs: (N, classes), each row a softmax (ADM: over Inception's 1008 logits WITHOUT bias).
        splits: number of contiguous parts of (almost) equal size; None cuts parts of `split_size`.
        split_size: rows of a part where `splits` is None; the last part may be shorter and counts like the rest.

    Raises:
        FAEError: where rows are no probabilities, or cannot be cut into that many parts.
    """
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or not probs.size:
        raise FAEError(f"expected probabilities of shape (N, classes), got {probs.shape}")
    if not (np.isfinite(probs).all() and probs.min() >= 0 and np.abs(probs.sum(1) - 1).max() < 1e-3):
        raise FAEError("every row of the inception score's input must be probabilities that add up to 1")
    if splits is not None and not 1 <= splits <= len(probs):
        raise FAEError(f"{len(probs)} rows cannot be cut into {splits} splits")
    if split_size < 1:
        raise FAEError(f"a split has at least one row, not {split_size}")
    count = -(-len(probs) // split_size) if splits is None else splits
    edges = [min(i * split_size, len(probs)) if splits is None else i * len(probs) // splits for i in range(count + 1)]
    scores = []
    for start, stop in pairwise(edges):
        part = probs[start:stop]
        tiny = np.finfo(np.float64).tiny
        log_ratio = np.log(np.maximum(part, tiny)) - np.log(np.maximum(part.mean(0), tiny))
        scores.append(np.exp((part * log_ratio).sum(1).mean()))
    return float(np.mean(scores))
