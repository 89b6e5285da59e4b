"""Images against texts: the CLIP score of samples and their prompts, and retrieval of captions and images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fae_core.errors import FAEError
from fae_core.images.spread import evenly_spread
from fae_core.processes import resolve_device
from fae_eval.data.captions import PairedCaptions, Prompts, paired_captions, prompts_of
from fae_eval.data.files import open_image_files
from fae_eval.data.samples import open_samples
from fae_eval.extractors.two_towers import TwoTowers
from fae_eval.metrics import clip_score, retrieval_recall
from fae_eval.results import Result, provenance
from fae_eval.studies.bars import Progress, advancing
from fae_eval.tokenizers import (
    features_of_latents,
    image_embedding,
    image_features,
    load_image_tokenizer,
    name_of,
    rebuilds_features,
)

RECALL_AT = (1, 5, 10)


def evaluate_clip_score(
    samples: Any,
    model: str | TwoTowers,
    *,
    prompts: str | Path | Sequence[str] | Prompts | None = None,
    decoder: Any = None,
    survey: str | Path | None = None,
    batch_size: int = 32,
    device: str | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """100 * mean of max(cosine, 0) between each image and its prompt; no words are put before the prompt.

    Args:
        samples: anything `open_samples` takes.
        model: name or folder of a CLIP or SigLIP model, or the model; only scores of one model compare.
        prompts: one per image, in order, or a file of them; None reads them from a folder of `fae sample --prompts`;
            or what `prompts_of` gives.
        decoder: where a tokenizer is, or a tokenizer, that decodes samples that are latents.
        survey: a report of `fae check` on the samples, all of which must be readable.
        batch_size: images of a batch.
        device: of what is loaded; cuda where there is one.
        title: heading of the record.
        progress: `fae_core.progress.progress`, or anything called like it.

    Raises:
        FAEError: where prompts and images do not fit together.
    """
    started = time.monotonic()
    tokenizer = None if decoder is None else load_image_tokenizer(decoder, device, needs_decode=True)
    opened = open_samples(samples, decoder=tokenizer, survey=survey)
    texts, told_by = prompts if isinstance(prompts, Prompts) else prompts_of(opened.origin, len(opened), prompts)
    towers = model if isinstance(model, TwoTowers) else TwoTowers(model, device=resolve_device(device))
    parts = []
    with advancing(progress, len(opened), "embedding images") as advance:
        for images in opened.batches(batch_size):
            parts.append(towers.embed_images(list(images)))
            advance(len(images))
    images = torch.cat(parts)
    if opened.skipped or len(images) != len(texts):
        raise FAEError(f"{len(texts)} prompts for {len(images)} images that can be read: every prompt needs its image")
    score = clip_score(images, towers.embed_texts(texts))
    record = provenance(
        device=towers.device,
        model=towers.facts,
        samples={"source": opened.origin, "count": len(images)},
        prompts=told_by,
        convention="100 * mean of max(cosine, 0) over pairs, no prefix",
        seconds=round(time.monotonic() - started, 1),
    )
    name = "CLIP score" if not towers.is_siglip else "SigLIP score"
    table = {"columns": ["", "images", name], "rows": [[Path(opened.origin).name, len(images), score]]}
    notes = [f"Measured with {towers.name}: scores of different models do not compare."]
    return Result("text", title or "Samples against their prompts", table, [], notes, [], {name: score}, record)


@torch.no_grad()
def evaluate_retrieval(
    images: Any,
    captions: str | Path | PairedCaptions,
    model: str | TwoTowers,
    *,
    tokenizer: Any = None,
    limit: int | None = None,
    survey: str | Path | None = None,
    batch_size: int = 32,
    device: str | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Recall at 1, 5 and 10 from image to text and from text to image.

    With an FAE on the same model's image encoder, further rows show the embeddings that the encoder's own head makes of
    its features, and of the features rebuilt from latents (paper, section 5.4).

    Args:
        images: anything `open_images` takes.
        captions: file that says which text belongs to which image, see `paired_captions`; or what it gives.
        model: name or folder of a CLIP or SigLIP model, or the model.
        tokenizer: such an FAE, or its folder or hub id.
        limit: most images, evenly spread.
        survey: a report of `fae check` on the images; broken ones are left out.
        batch_size: images of a batch.
        device: of what is loaded; cuda where there is one.
        title: heading of the record.
        progress: `fae_core.progress.progress`, or anything called like it.

    Raises:
        FAEError: where captions fit no image, or the spaces differ.
    """
    started = time.monotonic()
    source = evenly_spread(open_image_files(images, survey), limit)
    paired = captions if isinstance(captions, PairedCaptions) else paired_captions(source, Path(captions))
    indices, texts, owner, described_by = paired
    towers = model if isinstance(model, TwoTowers) else TwoTowers(model, device=resolve_device(device))
    fae = load_image_tokenizer(tokenizer, device) if tokenizer is not None else None
    found: dict[str, list[Tensor]] = {}
    with advancing(progress, len(indices), "embedding images") as advance:
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            batch = [np.array(source.read(i).convert("RGB"), np.uint8) for i in chosen]
            found.setdefault("the model itself", []).append(towers.embed_images(batch))
            for name, vectors in _through(fae, towers, batch).items():
                found.setdefault(name, []).append(vectors.cpu())
            advance(len(chosen))
    written = towers.embed_texts(texts)
    whose = torch.tensor(owner, device="cpu")
    columns = ["images as", "images", "texts"]
    columns += [f"{way} R@{k}" for way in ("image to text", "text to image") for k in RECALL_AT]
    rows, values = [], {}
    for name, parts in found.items():
        vectors = torch.cat(parts)
        if vectors.shape[1] != written.shape[1]:
            raise FAEError(
                f"{name} have {vectors.shape[1]} dimensions and texts {written.shape[1]}: the tokenizer must use "
                f"the image encoder of {towers.name}"
            )
        both = [retrieval_recall(vectors, written, whose, k) for k in RECALL_AT]
        numbers = [pair[way] for way in (0, 1) for pair in both]
        rows.append([name, len(indices), len(texts), *numbers])
        values |= {f"{name}: {column}": number for column, number in zip(columns[3:], numbers, strict=True)}
    record = provenance(
        device=towers.device,
        model=towers.facts,
        tokenizer=None if tokenizer is None else name_of(tokenizer),
        images={"source": source.origin or str(images), "count": len(indices)},
        captions={"source": described_by, "count": len(texts)},
        seconds=round(time.monotonic() - started, 1),
    )
    table = {"columns": columns, "rows": rows}
    return Result("text", title or "Image-text retrieval", table, values=values, provenance=record)


def _through(fae: Any, towers: TwoTowers, batch: list[np.ndarray]) -> dict[str, Tensor]:
    """Image embeddings that the tokenizer's encoder makes of original and of rebuilt features."""
    if fae is None:
        return {}
    images = towers.pixels(batch)
    found = {"original features": image_embedding(fae, image_features(fae, images))}
    if rebuilds_features(fae):
        found["rebuilt features"] = image_embedding(fae, features_of_latents(fae, fae.encode(images)))
    return found
