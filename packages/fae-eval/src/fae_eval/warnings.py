"""Where a measurement departs from the published protocol: one sentence each, for the record's warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PUBLISHED_COUNT = 50_000
FLOOR_UNITS = "FDr is in units of"  # how the warning about the floor's count begins


def count_warnings(count: int, dim: int) -> list[str]:
    """Too few samples for a Frechet distance, whose upward bias grows as they get fewer.

    Args:
        count: samples.
        dim: dimensions of a feature.
    """
    if count <= dim:
        return [
            f"{count} samples for {dim} dimensions leave the covariance singular; the Frechet distance is far above "
            "its value for many samples, so compare it only with other sets of the same size (see the real-vs-real "
            "floor)"
        ]
    if count < PUBLISHED_COUNT:
        return [f"{count} samples; published values use {PUBLISHED_COUNT:,}, and fewer give a higher distance"]
    return []


def split_warnings(count: int, split_size: int) -> list[str]:
    """Too few samples in the inception score's only split, or in its last one, which counts like the others.

    Args:
        count: samples.
        split_size: samples of a split.
    """
    last = count % split_size
    if count < split_size:
        return [f"{count} samples; the inception score is lower with fewer than {split_size:,}"]
    if last:
        return [
            f"the inception score's last part has {last} of {split_size:,} samples, counts like the rest and lowers it"
        ]
    return []


def order_warnings(labels: Sequence[int] | None, probs: Tensor, split_size: int) -> list[str]:
    """Class-ordered samples, which collapse the inception score: each split estimates p(y) from its own rows.

    Args:
        labels: (N,) of the samples; None compares how often neighbours and strangers are classified alike.
        probs: (N, classes), the softmax of the classifier.
        split_size: samples of a split.
    """
    if len(probs) <= split_size:
        return []
    found = torch.tensor(labels, device="cpu") if labels is not None else probs.argmax(1)
    if len(found) != len(probs) or int(found.min()) == int(found.max()):
        return []
    shares = torch.bincount(found).double() / len(found)
    by_chance = float((shares**2).sum())
    alike = float((found[1:] == found[:-1]).double().mean())
    if alike <= by_chance + 0.5 * (1 - by_chance):
        return []
    return ["samples are ordered by class, which lowers the inception score; shuffle them first"]


def floor_warnings(floor: int, counts: Mapping[str, int]) -> list[str]:
    """Samples that are told in units of another number of real images.

    Args:
        floor: real images.
        counts: samples of each set, by its name.
    """
    others = [f"{name} {count}" for name, count in counts.items() if abs(count - floor) > 0.01 * floor]
    if not others:
        return []
    return [
        f"{FLOOR_UNITS} {floor} real images, and there are other numbers of samples ({', '.join(others)}): fewer "
        "images are further away, so give as many real ones as samples"
    ]


def overlap_warnings(shared: int, floor: int) -> list[str]:
    """A floor with the reference's own images, which is no distance of real images to others.

    Args:
        shared: how many of its images are the reference's.
        floor: its images.
    """
    if shared <= 0.01 * floor:  # data sets hold a few images twice
        return []
    which = "these" if shared == floor else f"{shared} of these {floor}"
    return [f"{which} are images of the reference; a floor needs others"]


def format_warnings(jpeg: int, count: int, skipped: Sequence[str]) -> list[str]:
    """JPEG samples, whose artefacts change the distance, and images that could not be read.

    Args:
        jpeg: how many samples are stored as JPEG.
        count: samples.
        skipped: names of those that could not be read.
    """
    warnings = []
    if jpeg:
        warnings.append(
            f"{jpeg} of {count} samples are stored as JPEG, whose artefacts change Frechet distances; use PNG"
        )
    if skipped:
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        warnings.append(f"{len(skipped)} unreadable images were left out: {', '.join(skipped[:3])}{more}")
    return warnings


def size_warnings(size: tuple[int, int], reference_size: tuple[int, int] | None) -> list[str]:
    """Samples and reference that reach the network through different resizes; sizes are (h, w) or not known."""
    if reference_size is None or size == reference_size:
        return []
    return [
        f"samples have {size[0]}x{size[1]} pixels and the reference {reference_size[0]}x{reference_size[1]}; "
        "they reach the network through different resizes, so the distance also measures sharpness"
    ]


def resize_warnings(by_pytorch_fid: bool) -> list[str]:
    """Statistics of pytorch-fid, whose Inception sees images resized in another way."""
    if by_pytorch_fid:
        return [
            "the reference has statistics without a spatial part, as pytorch-fid writes them (U-ViT's of COCO, too); "
            "pytorch-fid resizes images in another way than the Inception here, so its own distances differ from these"
        ]
    return []


def purpose_warnings(purpose: str, reference_has_statistics: bool) -> list[str]:
    """A generation reference for rFID, which compares reconstructions with the images that were reconstructed."""
    if purpose == "reconstruction" and reference_has_statistics:
        return ["the reference is a generation reference (it carries statistics); rFID needs the originals themselves"]
    return []
