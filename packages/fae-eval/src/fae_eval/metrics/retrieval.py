"""Image-text agreement from embeddings: recall at k both ways, and the CLIP score."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError
from fae_eval.metrics.checks import finite_rows, same_width


def retrieval_recall(
    images: Tensor, texts: Tensor, image_of_text: Tensor | None = None, k: int = 1, *, block: int = 1024
) -> tuple[float, float]:
    """Recall at k from image to text and from text to image, in [0, 1].

    An image counts as found when any of its texts is among the k nearest. Equal similarities count as the mean over
    their random orders: embeddings that are all equal find k of N.

    Args:
        images: embeddings (N, d), of any length.
        texts: embeddings (M, d), of any length.
        image_of_text: (M,), the image that each text describes; None means one text each, in order.
        k: how many of the nearest are looked at.
        block: texts that are compared with all images in one step.

    Returns:
        Recall from image to text, and from text to image.

    Raises:
        FAEError: where shapes or owners do not fit, or embeddings are not finite or have no direction.
    """
    if image_of_text is None:
        if len(images) != len(texts):
            raise FAEError(f"{len(images)} images and {len(texts)} texts: say which image each text describes")
        image_of_text = torch.arange(len(texts), device=texts.device)
    images, texts = _directions("images", images), _directions("texts", texts)
    same_width(images, texts)
    owner = image_of_text.to(images.device)
    if owner.shape != (len(texts),) or owner.min() < 0 or owner.max() >= len(images) or k < 1:
        raise FAEError(f"every text describes one of the {len(images)} images, and k is at least 1, not {k}")
    similarity_of_pair = (texts * images[owner]).sum(1)
    image_best = torch.full((len(images),), -torch.inf, device=images.device)
    image_best.scatter_reduce_(0, owner, similarity_of_pair, "amax")
    zeros = torch.zeros(len(images), dtype=torch.long, device=images.device)
    image_beaten_by, image_tied, image_own = zeros.clone(), zeros.clone(), zeros.clone()
    text_found = 0.0
    slack = 1e-6  # so that a pair does not lose to itself by the rounding of two different sums
    for start in range(0, len(texts), block):
        rows = slice(start, start + block)
        table = texts[rows] @ images.T
        own = owner[rows, None] == torch.arange(len(images), device=images.device)
        pair = similarity_of_pair[rows, None]
        beaten, tied = (table > pair + slack), (table >= pair - slack)
        others = (tied & ~beaten & ~own).sum(1)
        text_found += float(_chance((beaten & ~own).sum(1), torch.ones_like(others), others, k).sum())
        beaten, tied = (table > image_best + slack), (table >= image_best - slack)
        image_beaten_by += (beaten & ~own).sum(0)
        image_tied += (tied & ~beaten & ~own).sum(0)
        image_own += (tied & own).sum(0)
    has_text = image_best.isfinite()
    image_found = float(_chance(image_beaten_by, image_own, image_tied, k)[has_text].sum())
    return image_found / int(has_text.sum()), text_found / len(texts)


def _chance(beaten_by: Tensor, own: Tensor, others: Tensor, k: int) -> Tensor:
    """Probability that one of `own` is among the first k, behind `beaten_by`, shuffled with `others`."""
    missed = torch.ones_like(beaten_by, dtype=torch.float64)
    for drawn in range(min(k, int((own + others).max()))):
        left = (others - drawn).clamp_min(0) / (own + others - drawn).clamp_min(1)
        missed = torch.where(drawn < k - beaten_by, missed * left, missed)
    return 1 - missed


def _directions(what: str, embeddings: Tensor) -> Tensor:
    """The embeddings, checked and scaled to length one."""
    embeddings = finite_rows(f"embeddings of {what}", embeddings.float())
    if not bool(embeddings.any(1).all()):
        raise FAEError(f"an embedding of {what} is all zeros and has no direction")
    return F.normalize(embeddings, dim=-1)


def clip_score(images: Tensor, texts: Tensor) -> float:
    """100 * mean of max(cosine, 0) over pairs of embeddings, (N, d) each, in the same order.

    Args:
        images: Embeddings of images, (N, d); their lengths do not matter.
        texts: Embeddings of their captions, (N, d).

    Raises:
        FAEError: where shapes differ, or embeddings are not finite or have no direction.
    """
    images, texts = _directions("images", images), _directions("texts", texts)
    if images.shape != texts.shape:
        raise FAEError(f"embeddings of shapes {tuple(images.shape)} and {tuple(texts.shape)} are not pairs")
    return 100 * (images * texts).sum(1).clamp_min(0).mean().item()
