"""Linear probes: the backbone's own head on rebuilt features (zero-shot), or one trained on features and latents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import DataError, FAEError
from fae_core.images import ImageSource, load_batch
from fae_core.images.spread import evenly_spread
from fae_core.protocols import encoder_of, read_size
from fae_eval import warnings as protocol
from fae_eval.data.files import labels_of, open_image_files
from fae_eval.results import Result, provenance
from fae_eval.studies.bars import Progress, advancing
from fae_eval.studies.head_classes import labels_for_head
from fae_eval.studies.linear_head import CLASS_TOKENS, LinearHead, dinov2_batch, dinov2_size
from fae_eval.studies.probe_plan import TEST_SHARE, open_probe_images, require_pooling, require_two_classes
from fae_eval.tokenizers import (
    device_of,
    features_of_latents,
    image_features,
    latent_tokens,
    load_image_tokenizer,
    name_of,
    own_scale,
    rebuilds_features,
)


@torch.no_grad()
def zero_shot_probe(
    tokenizer: Any,
    images: Any,
    *,
    pool: str | None = None,
    head: str | Path | None = None,
    cls: str = "original",
    limit: int | None = None,
    survey: str | Path | None = None,
    batch_size: int = 32,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Top-1 and top-5 of a classifier trained on the backbone, on its features and on features rebuilt from latents.

    Images that cannot be read are left out and named in a warning.

    The images' classes are matched with the head's by name where its names are known (see `labels_for_head`). Else they
    must be all of the head's classes in its order (one folder per class and a classes.json).

    With a head of DINOv2 images are prepared as DINOv2 does: shorter side 256, centre 224, bicubic. Such a head also
    reads a class token. From the original image (the default) it never passes through the latents; with it the paper's
    86.17 % is plausible (inferred). The mean of the patches lets nothing bypass the latents.

    Args:
        tokenizer: folder or hub id of a tokenizer, or the tokenizer.
        images: labelled images, anything that `open_images` takes.
        pool: how a transformer's own head pools tokens (see `Backbone.head`); None is the network's way, "avg" the mean
            of the patches where the class token is not part of the features.
        head: file of one of DINOv2's linear heads; None for the classifier inside the backbone.
        cls: class token of such a head, "original" or "mean".
        limit: most images, evenly spread.
        survey: a report of `fae check` on the images; broken ones are left out.
        batch_size: images of a batch.
        device: of what is loaded; cuda where there is one.
        progress: `fae_core.progress.progress`, or anything called like it.

    Raises:
        FAEError: where labels or head do not fit.
    """
    started = time.monotonic()
    require_pooling(pool, head)
    source = evenly_spread(open_image_files(images, survey), limit)
    labels = labels_of(source)
    model = load_image_tokenizer(tokenizer, device)
    linear = LinearHead(head) if head is not None else None
    classify = head_of(model, pool) if linear is None else None
    count = len(source)
    hits: dict[str, Tensor] = {}
    meant, unnamed = None, None
    skipped: list[str] = []
    size = dinov2_size(model) if linear is not None else None
    for batch, indices in _batches(source, batch_size, model, progress, "probing", skipped, dinov2=size):
        token = linear.token_for(cls, model, batch) if linear is not None else None
        spaces = {"original features": image_features(model, batch)}
        if rebuilds_features(model):
            spaces["rebuilt features"] = features_of_latents(model, model.encode(batch))
        for name, features in spaces.items():
            if linear is not None:
                logits = linear(own_scale(model, features), token)
            else:
                assert classify is not None
                logits = classify(features)
            if meant is None:
                meant, unnamed = labels_for_head(labels, source.classes, logits.shape[1])
            truth = torch.tensor([meant[i] for i in indices], device=logits.device)
            hits[name] = hits.get(name, torch.zeros(2, dtype=torch.long, device="cpu")) + _hits(logits, truth)
    count -= len(skipped)
    rows = [[name, count, *(found.double() / count).tolist()] for name, found in hits.items()]
    values = {f"{row[0]}: top-1": row[2] for row in rows}
    record = provenance(
        device=device_of(model),
        tokenizer=name_of(tokenizer),
        images=source.origin or str(images),
        head="the network's own" if head is None else str(head),
        pool=None if linear is not None else pool or "the network's own",
        cls=None if linear is None else cls,
        preparation="centre crop (box halving, then bicubic)"
        if size is None
        else f"shorter side {round(size * 256 / 224)}, centre {size}, bicubic (DINOv2's)",
        seconds=round(time.monotonic() - started, 1),
    )
    notes = [
        "A classifier of the backbone, not trained further. Images that it was trained on give no accuracy worth "
        "quoting."
    ]
    notes += [f"Class token: {CLASS_TOKENS[cls]}."] if linear is not None else []
    notes += [unnamed] if unnamed else []
    return Result(
        "probe",
        "Zero-shot probe",
        {"columns": ["", "images", "top-1", "top-5"], "rows": rows},
        [],
        notes,
        protocol.format_warnings(0, count, skipped),
        values,
        record,
    )


@torch.no_grad()
def trained_probe(
    tokenizer: Any,
    images: Any,
    *,
    test_images: Any = None,
    test_share: float = TEST_SHARE,
    weight_decay: float = 1e-3,
    seed: int = 0,
    limit: int | None = None,
    survey: str | Path | None = None,
    batch_size: int = 32,
    device: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Accuracy of logistic regressions on mean tokens: of features, of latents, and of features rebuilt from latents.

    Images that cannot be read are left out and named in a warning.

    Args:
        tokenizer: folder or hub id of a tokenizer, or the tokenizer.
        images: labelled images, anything that `open_images` takes.
        test_images: images to test on, their classes matched by name; None holds a random share of `images` out.
        test_share: that share.
        weight_decay: of the regression.
        seed: of the share.
        limit: most images of each set, evenly spread.
        survey: a report of `fae check` on `images`; broken ones are left out.
        batch_size: images of a batch.
        device: of what is loaded; cuda where there is one.
        progress: `fae_core.progress.progress`, or anything called like it.

    Raises:
        FAEError: where classes differ, images are too few, or features are not finite.
    """
    started = time.monotonic()
    chosen = open_probe_images(images, test_images, survey=survey, limit=limit, test_share=test_share)
    model = load_image_tokenizer(tokenizer, device)
    skipped: list[str] = []
    train_x, read = _pooled(model, chosen.source, batch_size, progress, "training images", skipped)
    train_y = torch.tensor(chosen.labels, device="cpu")[read]
    if chosen.test is not None:
        test_x, read = _pooled(model, chosen.test, batch_size, progress, "test images", skipped)
        test_y = torch.tensor(chosen.test_labels, device="cpu")[read]
    else:
        order = torch.randperm(len(train_y), generator=torch.Generator().manual_seed(seed), device="cpu")
        cut = min(chosen.held_out, len(train_y) - 1)
        test_x, train_x = ({name: x[rows] for name, x in train_x.items()} for rows in (order[:cut], order[cut:]))
        test_y, train_y = train_y[order[:cut]], train_y[order[cut:]]
    seen = set(train_y.tolist())
    require_two_classes(seen, chosen.source)  # of those that are left once some are held out
    unseen = sum(label not in seen for label in test_y.tolist())
    warnings = [f"{unseen} of {len(test_y)} test images are of classes without a training image"] if unseen else []
    warnings += protocol.format_warnings(0, len(train_y) + len(test_y), skipped)
    classes = int(max(train_y.max(), test_y.max())) + 1
    rows = []
    for name, x in train_x.items():
        weights = fit_logistic(x, train_y, classes, weight_decay=weight_decay)
        accuracy = [
            (apply_logistic(weights, side).argmax(1) == y).double().mean().item()
            for side, y in ((x, train_y), (test_x[name], test_y))
        ]
        rows.append([name, x.shape[1], *accuracy])
    record = provenance(
        device=device_of(model),
        seed=seed,
        tokenizer=name_of(tokenizer),
        images=chosen.source.origin or str(images),
        test_images=f"random {test_share:.0%}" if chosen.test is None else chosen.test.origin or str(test_images),
        counts={"train": len(train_y), "test": len(test_y), "classes": classes},
        weight_decay=weight_decay,
        seconds=round(time.monotonic() - started, 1),
    )
    columns = ["mean token of", "dimensions", "train accuracy", "test accuracy"]
    values = {f"{row[0]}: test accuracy": row[3] for row in rows}
    table = {"columns": columns, "rows": rows}
    return Result("probe", "Trained linear probe", table, [], [], warnings, values, record)


def fit_logistic(
    x: Tensor, y: Tensor, classes: int, *, weight_decay: float = 1e-3, rounds: int = 100
) -> tuple[Tensor, ...]:
    """Multinomial logistic regression of standardised features by L-BFGS, in float64.

    Args:
        x: features (N, D).
        y: class of each row, (N,).
        classes: how many there are.
        weight_decay: factor of half the squared weights in the loss.
        rounds: most iterations.

    Returns:
        Mean (D,), standard deviation (D,), weight (classes, D) and bias (classes,), for `apply_logistic`.

    Raises:
        FAEError: for fewer than two rows, and for numbers that are not finite.
    """
    x = x.double()
    if len(x) < 2 or not bool(x.isfinite().all()):
        raise FAEError(f"a probe needs finite features of at least two images, got {tuple(x.shape)}")
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    z = (x - mean) / std
    with torch.enable_grad():
        weight, bias = (x.new_zeros(shape).requires_grad_() for shape in ((classes, x.shape[1]), (classes,)))
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=rounds, history_size=10, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(z @ weight.T + bias, y) + weight_decay * weight.square().sum() / 2
            value.backward()
            return value

        optimizer.step(loss)
    return mean, std, weight.detach(), bias.detach()


def apply_logistic(fitted: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """Logits (N, classes) of features (N, D). fitted: what `fit_logistic` returned."""
    mean, std, weight, bias = fitted
    return (x.double() - mean) / std @ weight.T + bias


def head_of(model: Any, pool: str | None) -> Callable[[Tensor], Tensor]:
    """The backbone's own head: features (B, N, D) to logits (B, classes). Raises FAEError where it has none."""
    encoder = encoder_of(model)
    if hasattr(encoder, "head"):
        return lambda features: encoder.head(features, pool)
    backbone = getattr(encoder, "backbone", None)
    if backbone is None or not hasattr(backbone, "head"):
        raise FAEError(f"{type(model).__name__} has no backbone with a classifier of its own")
    return lambda features: backbone.head(own_scale(model, features), pool)


def _pooled(
    model: Any, source: ImageSource, batch_size: int, progress: Progress | None, what: str, skipped: list[str]
) -> tuple[dict[str, Tensor], list[int]]:
    """Mean tokens (N, D) of every space, and of which images they are; see `_batches`."""
    found: dict[str, list[Tensor]] = {}
    read: list[int] = []
    for batch, indices in _batches(source, batch_size, model, progress, what, skipped):
        read += indices
        z = model.encode(batch)
        spaces = {"features": image_features(model, batch), "latents": latent_tokens(z)}
        if rebuilds_features(model):
            spaces["rebuilt features"] = features_of_latents(model, z)
        for name, tokens in spaces.items():
            found.setdefault(name, []).append(tokens.float().mean(1).cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}, read


def _batches(
    source: ImageSource,
    batch_size: int,
    model: Any,
    progress: Progress | None,
    what: str,
    skipped: list[str],
    dinov2: int | None = None,
) -> Iterator[tuple[Tensor, Sequence[int]]]:
    """Images on the model's device, and their indices. dinov2: side of DINOv2's crops, None for the tokenizer's.

    Names of images that cannot be read are added to `skipped`. Raises DataError where none can.
    """

    def load(indices: Sequence[int]) -> Tensor:
        if dinov2 is None:
            return load_batch(source, indices, read_size(model))
        return dinov2_batch(source, indices, dinov2)

    count, before = len(source), len(skipped)
    with advancing(progress, count, what) as advance:
        for start in range(0, count, batch_size):
            indices: Sequence[int] = range(start, min(count, start + batch_size))
            size = len(indices)
            try:
                batch = load(indices)
            except DataError:  # the images are tried one by one only where one cannot be read
                indices = [index for index in indices if _can_be_read(source, index, skipped)]
                batch = load(indices) if indices else None
            if batch is not None:
                yield batch.to(device_of(model)), indices
            advance(size)
    if len(skipped) - before == count:
        raise DataError(f"none of the {count} images can be read; the first: {skipped[before]}")


def _can_be_read(source: ImageSource, index: int, skipped: list[str]) -> bool:
    """Whether an image can be read; its name is added to `skipped` where not."""
    try:
        source.read(index)
    except DataError:
        skipped.append(source.name(index))
        return False
    return True


def _hits(logits: Tensor, truth: Tensor) -> Tensor:
    if not bool(logits.isfinite().all()):
        raise FAEError("the head's logits are not finite")
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == truth[:, None]
    return torch.stack([best[:, 0].sum(), best.any(1).sum()]).cpu()
