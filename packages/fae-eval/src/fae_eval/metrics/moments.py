"""Mean and covariance of a stream of features, exactly the same whatever the batch size, order or number of processes.

Floating-point sums depend on their order; integer sums do not. Features are rounded to multiples of 2^-18 and split as

    x = (low + high * 2^23) * 2^-18        |low| <= 2^22, both integers; high is zero wherever |x| < 16

A float64 matrix product of such integers over at most 512 rows stays within 2^53 and is therefore exact in any order of
summation, on any device. Blocks are added in int64. Merging is integer addition, so it is associative and commutative.
The rounding is at most 1.9e-6 per feature. For N samples of d features of spread s it moves a Frechet distance by about
1e-6 * s * sqrt(d / N).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fae_core.errors import FAEError, InvalidFile
from fae_core.files import disk_errors, write_atomic

FRACTION_BITS = 18
_LOW_BITS = 23
_ROWS = 512  # 512 * (2^22)^2 = 2^53
_LARGEST = 2.0**24  # so that high, too, stays below 2^19 + 1
_FULL = 2**62  # the largest sum of squares that is certain not to overflow with the next block
_FORMAT = "fae-moments-1"


class Moments:
    """Count, sum and second moments of features (N, d), as exact integers.

    `add` rows as they come; `merge` what other processes counted; then read `mean`, `covariance`, `digest`.

    Args:
        dim: d.
        device: where the sums are kept; the CPU by default.
    """

    def __init__(self, dim: int, device: torch.device | str | None = None) -> None:
        self.dim = dim
        self.count = 0
        self.device = torch.device(device or "cpu")
        self._low = torch.zeros(dim, dtype=torch.int64, device=self.device)
        self._high = torch.zeros_like(self._low)
        self._low_low = torch.zeros(dim, dim, dtype=torch.int64, device=self.device)
        # Only features beyond +-16 need these two; most extractors never give one.
        self._high_low: Tensor | None = None
        self._high_high: Tensor | None = None

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features (N, d).

        Args:
            features: Finite, of any float type.
        """
        return cls(features.shape[1], features.device).add(features)

    def add(self, features: Tensor) -> Moments:
        """Add rows (B, d) of any float type.

        Args:
            features: (B, d), one row for each image.

        Raises:
            FAEError: where the width differs, or a number is not finite or beyond 1.6e7.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise FAEError(f"expected features of shape (B, {self.dim}), got {tuple(features.shape)}")
        for rows in features.detach().to(self.device).split(_ROWS):
            self._add_block(rows.double())
        return self

    def _add_block(self, rows: Tensor) -> None:
        if not bool((rows.abs() < _LARGEST).all()):
            raise FAEError(f"features must be finite and below {_LARGEST:.1g} in magnitude")
        fixed = (rows * 2.0**FRACTION_BITS).round()
        high = (fixed * 2.0**-_LOW_BITS).round()
        low = fixed - high * 2.0**_LOW_BITS
        self.count += rows.shape[0]
        self._low += low.sum(0).long()
        self._low_low += (low.T @ low).long()
        _require_room(self._low_low.diagonal().double())
        if bool(high.any()):
            high_low, high_high = self._high_products()
            self._high += high.sum(0).long()
            high_low.add_((high.T @ low).long())
            high_high.add_((high.T @ high).long())

    def _high_products(self) -> tuple[Tensor, Tensor]:
        """The two sums of products with high parts, made where there are none yet."""
        if self._high_low is None or self._high_high is None:
            self._high_low, self._high_high = torch.zeros_like(self._low_low), torch.zeros_like(self._low_low)
        return self._high_low, self._high_high

    def merge(self, other: Moments) -> Moments:
        """Add what `other` counted. Raises FAEError where the dimensions differ, or the sums would overflow.

        Args:
            other: Moments of other rows, of the same dimension; it stays as it is.
        """
        if other.dim != self.dim:
            raise FAEError(f"moments of {other.dim} dimensions cannot be merged into {self.dim}")
        _require_room(self._low_low.diagonal().cpu().double() + other._low_low.diagonal().cpu().double())
        self.count += other.count
        for name, tensor in other.tensors().items():
            if name in ("high_low", "high_high"):
                self._high_products()
            getattr(self, f"_{name}").add_(tensor.to(self.device))
        return self

    def all_reduce(self) -> Moments:
        """Merge over all processes of torch.distributed's default group; without one, nothing happens."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return self
        flags = torch.tensor([self.count, int(self._high_low is not None)], device=self.device)
        dist.all_reduce(flags)
        if flags[1] > 0:
            self._high_products()
        squares = self._low_low.diagonal().double().contiguous()
        dist.all_reduce(squares)
        _require_room(squares)
        for tensor in self.tensors().values():
            dist.all_reduce(tensor)
        self.count = int(flags[0])
        return self

    @property
    def mean(self) -> Tensor:
        """The mean, (d,) float64."""
        self._require(1)
        return (self._low.double() + self._high.double() * 2.0**_LOW_BITS) * (2.0**-FRACTION_BITS / self.count)

    @property
    def covariance(self) -> Tensor:
        """The covariance, (d, d) float64, divided by N - 1."""
        self._require(2)
        # Centre on whole numbers first, so that a large mean loses no digits: int64 wraps, and the result fits again.
        if self._high_low is None or self._high_high is None:
            centre = torch.div(self._low, self.count, rounding_mode="floor")
            cross = torch.outer(centre, self._low)
            second = (self._low_low - cross - cross.T + self.count * torch.outer(centre, centre)).double()
            total = (self._low - self.count * centre).double()
        else:
            step = 2.0**_LOW_BITS
            cross = self._high_low.double()
            second = self._low_low.double() + (cross + cross.T) * step + self._high_high.double() * step**2
            total = self._low.double() + self._high.double() * step
        scatter = second - torch.outer(total, total) / self.count
        return scatter * (2.0 ** (-2 * FRACTION_BITS) / (self.count - 1))

    @property
    def digest(self) -> str:
        """A hash of the exact content: equal digests mean equal statistics, bit for bit."""
        sha = hashlib.sha256(f"{_FORMAT} {self.dim} {self.count}".encode())
        for name, tensor in self.tensors().items():
            sha.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with the integers and their digest.

        Args:
            path: The file; its folder is made.
        """
        path = Path(path)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(tensors, self.metadata()))
        return path

    def metadata(self) -> dict[str, str]:
        """Format, count and digest, as strings."""
        return {"format": _FORMAT, "count": str(self.count), "digest": self.digest}

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Moments that `save` wrote. Raises InvalidFile where the file is absent, of another kind, or damaged.

        Args:
            path: The file.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise InvalidFile(f"{path} cannot be read as moments: {error}") from None
        return cls.from_tensors(tensors, metadata, str(path))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], metadata: dict[str, str], where: str) -> Moments:
        """Moments from their tensors and metadata, as `tensors` and `metadata` gave them.

        Args:
            tensors: the integers, by name.
            metadata: format, count and digest.
            where: what an error calls their source.

        Raises:
            InvalidFile: where a part is missing or of another kind, or the digest differs.
        """
        dim = len(tensors.get("low", ()))
        shapes = {"low": (dim,), "high": (dim,)} | dict.fromkeys(("low_low", "high_low", "high_high"), (dim, dim))
        wrong = [n for n, t in tensors.items() if tuple(t.shape) != shapes.get(n) or t.dtype != torch.int64]
        complete = {"low", "high", "low_low"} <= tensors.keys()
        if metadata.get("format") != _FORMAT or wrong or not complete or not metadata.get("count", "").isdigit():
            raise InvalidFile(f"{where} is not a {_FORMAT} file")
        moments = cls(dim)
        moments.count = int(metadata["count"])
        for name, tensor in tensors.items():
            setattr(moments, f"_{name}", tensor)
        if moments.digest != metadata.get("digest"):
            raise InvalidFile(f"{where} is damaged: its content does not match its digest")
        return moments

    def tensors(self) -> dict[str, Tensor]:
        """The integers, by name; what `save` stores and `from_tensors` takes."""
        tensors = {"low": self._low, "high": self._high, "low_low": self._low_low}
        if self._high_low is not None and self._high_high is not None:
            tensors |= {"high_low": self._high_low, "high_high": self._high_high}
        return tensors

    def _require(self, least: int) -> None:
        if self.count < least:
            raise FAEError(f"{self.count} samples are too few: at least {least} are needed")


def _require_room(squares: Tensor) -> None:
    """Raise FAEError where int64 could overflow: the sums of squares bound every other sum (Cauchy-Schwarz)."""
    if bool((squares > _FULL).any()):
        raise FAEError("too many samples of too large features: the exact sums would overflow")
