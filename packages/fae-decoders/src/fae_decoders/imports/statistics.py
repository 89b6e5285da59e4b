"""Statistics of latents in the files of other projects, as a LatentSpec has them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fae_core.errors import InvalidFile
from fae_core.models.foreign import read_state_dict

RAE_EPS = 1e-5  # beside the variance (RAE's own code) or the standard deviation (diffusers)


def read_statistics(path: str | Path, shape: tuple[int, int, int]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation from LightningDiT's latents_stats.pt (mean, std) or RAE's stat.pt (mean, var).

    Args:
        path: The file, which is never unpickled.
        shape: (C, h, w) of the latents.

    Returns:
        C numbers each, or C * h * w where they differ by position.

    Raises:
        InvalidFile: There are none, or they do not fit the latents.
    """
    state = read_state_dict(path)
    if "std" in state and "mean" in state:
        return as_statistics(state["mean"], state["std"], shape, str(path))
    if "var" in state or "mean" in state:  # RAE takes 0 or 1 for what is absent
        mean, var = (state.get(n, torch.tensor([v], device="cpu")) for n, v in (("mean", 0.0), ("var", 1.0)))
        return as_statistics(mean, (var.double() + RAE_EPS).sqrt(), shape, str(path))
    raise InvalidFile(f"{path} holds no statistics: neither mean and std nor mean and var")


def as_statistics(
    mean: Tensor, std: Tensor, shape: tuple[int, int, int], where: str
) -> tuple[list[float], list[float]]:
    """Tensors that normalise latents (B, C, h, w) by broadcasting, as the numbers of a LatentSpec.

    Args:
        mean: Of any shape that torch broadcasts to (1, C, h, w); C numbers alone are taken per channel.
        std: Likewise.
        shape: (C, h, w).
        where: Names them in errors.

    Returns:
        C numbers each, or C * h * w where they differ by position.

    Raises:
        InvalidFile: They do not broadcast.
    """
    full = []
    for values in (mean, std):
        values = values.float()
        if values.ndim == 1 and len(values) == shape[0]:
            values = values[:, None, None]
        try:
            full.append(values.broadcast_to(1, *shape)[0])
        except RuntimeError:
            sizes = "x".join(map(str, shape))
            raise InvalidFile(f"{where}: statistics of {tuple(values.shape)} are not for latents of {sizes}") from None
    if all(torch.equal(values, values[:, :1, :1].expand_as(values)) for values in full):
        full = [values[:, 0, 0] for values in full]
    mean_numbers, std_numbers = (values.flatten().tolist() for values in full)
    return mean_numbers, std_numbers
