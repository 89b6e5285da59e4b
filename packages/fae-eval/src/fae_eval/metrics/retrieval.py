"""Image-text agreement from embeddings: recall at k both ways, and the CLIP score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError


def retrieval_recall(
    images: Tensor, texts: Tensor, image_of_text: Tensor | None = None, k: int = 1, *, block: int = 1024
) -> tuple[float, float]:
    """(image to text, text to image) recall at k, in [0, 1].

    images: (N, d), texts: (M, d) embeddings of any length. image_of_text: (M,) the image that each text describes; default one
    text each, in order. Image to text counts as found when any of its texts is among the k nearest. Ties count in its favour.
    """
    if image_of_text is None:
        if len(images) != len(texts):
            raise FAEError(f"{len(images)} images and {len(texts)} texts: say which image each text describes")
        image_of_text = torch.arange(len(texts))
    owner = image_of_text.to(images.device)
    images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    text_found, image_best = 0, torch.full((len(images),), -torch.inf, device=images.device)
    similarity_of_pair = (texts * images[owner]).sum(1)
    image_best.scatter_reduce_(0, owner, similarity_of_pair, "amax")
    image_beaten_by = torch.zeros(len(images), dtype=torch.long, device=images.device)
    slack = 1e-6  # a pair must not lose to itself by the rounding of two different sums
    for start in range(0, len(texts), block):
        rows = slice(start, start + block)
        table = texts[rows] @ images.T
        text_found += int(((table > similarity_of_pair[rows, None] + slack).sum(1) < k).sum())
        image_beaten_by += (table > image_best[None] + slack).sum(0)
    has_text = image_best.isfinite()
    image_found = int(((image_beaten_by < k) & has_text).sum())
    return image_found / max(1, int(has_text.sum())), text_found / len(texts)


def clip_score(images: Tensor, texts: Tensor) -> float:
    """100 * mean of max(cosine, 0) over pairs. images, texts: (N, d) embeddings in the same order."""
    cosine = F.cosine_similarity(images.float(), texts.float(), dim=-1)
    return 100 * cosine.clamp_min(0).mean().item()
