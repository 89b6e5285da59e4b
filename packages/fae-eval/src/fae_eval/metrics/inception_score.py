"""The inception score as ADM's evaluator computes it: contiguous splits, no shuffling."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fae_core.errors import FAEError


def inception_score(probs: ArrayLike, splits: int | None = None, *, split_size: int = 5000) -> float:
    """Mean over splits of exp(E[KL(p(y|x) || p(y))]); 1 .. number of classes, higher is better.

    probs: (N, classes), each row a softmax (ADM: over Inception's 1008 logits WITHOUT bias).
    splits: cut into that many contiguous parts; default: parts of `split_size`, the last one shorter.
    The rows must be in random order of class: each split estimates p(y) on its own, so class-ordered rows collapse the score.
    """
    probs = np.asarray(probs, np.float64)
    if probs.ndim != 2 or not len(probs):
        raise FAEError(f"expected probabilities of shape (N, classes), got {probs.shape}")
    size = split_size if splits is None else -(-len(probs) // splits)
    if size < 1:
        raise FAEError(f"{splits or split_size} is not a number of splits")
    scores = []
    for start in range(0, len(probs), size):
        part = probs[start : start + size]
        tiny = np.finfo(np.float64).tiny
        log_ratio = np.log(np.maximum(part, tiny)) - np.log(np.maximum(part.mean(0), tiny))
        scores.append(np.exp((part * log_ratio).sum(1).mean()))
    return float(np.mean(scores))
