"""LatentSpec: what a latent space is, so that encoders, generators and decoders can be swapped and never mixed up.

Code that makes latents publishes a spec with them. Code that reads latents keeps the spec it was made for and calls
`require` on the spec it is given. Arrays are (..., C, h, w).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.dataclasses import dataclass

from fae_core.display import html_table
from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch, field_reasons
from fae_core.files import read_json, write_json
from fae_core.folders import LATENT_SPEC
from fae_core.redact import redact

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

FORMAT_VERSION = 1
_MAX_BYTES = 32 * 2**20  # two numbers for each of 768 x 32 x 32 places take 13 MB
_SHOWN = 48  # letters of a name that a repr shows
_FP32_MAX, _FP32_TINY = 3.4e38, 1.2e-38


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class LatentSpec:
    """An immutable description of a latent space.

    Args:
        channels: C of a latent (C, h, w).
        height: h of a latent.
        width: w of a latent.
        image_size: Pixels of the images that a latent stands for, one number or (height, width).
        backbone: The frozen encoder, as `create_backbone` names it.
        mean: For `normalize`: C numbers, one per channel, or C * h * w numbers, one per channel and position in the
            order (C, h, w), as RAE's latents have them; None means 0 for each channel. An array of numbers of its own
            order, such as (h, w, C), is refused.
        std: The standard deviations, as many as `mean`; None means 1 for each channel.
        fingerprint: Hash of the weights (backbone, feature normalisation, adapter) that produce the latents.
        adapter: The network between the backbone and the latent.
        format_version: Of latent_spec.json.

    Raises:
        ValueError: pydantic's, where a field is out of range or the statistics do not match the channels.
    """

    channels: int
    height: int
    width: int
    image_size: int | tuple[int, int]
    backbone: str
    # `_as_floats` puts C numbers in the place of None.
    mean: tuple[float, ...] = Field(default=None, validate_default=True)  # pyright: ignore[reportAssignmentType]
    std: tuple[float, ...] = Field(default=None, validate_default=True)  # pyright: ignore[reportAssignmentType]
    fingerprint: str = ""
    adapter: str = ""
    format_version: int = FORMAT_VERSION
    if TYPE_CHECKING:  # what is accepted, which is more than what is kept

        def __init__(
            self,
            channels: int,
            height: int,
            width: int,
            image_size: int | Sequence[int],
            backbone: str,
            mean: Sequence[float] | np.ndarray | Tensor | None = None,
            std: Sequence[float] | np.ndarray | Tensor | None = None,
            fingerprint: str = "",
            adapter: str = "",
            format_version: int = FORMAT_VERSION,
        ) -> None: ...

    @field_validator("channels", "height", "width")
    @classmethod
    def _positive(cls, value: int) -> int:
        if not 0 < value <= 65536:
            raise ValueError("must be between 1 and 65536")
        return value

    @field_validator("image_size")
    @classmethod
    def _image_size(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        sides = (value, value) if isinstance(value, int) else value
        if not all(0 < side <= 65536 for side in sides):
            raise ValueError("must be between 1 and 65536 pixels")
        return sides[0] if sides[0] == sides[1] else sides

    @field_validator("backbone", "adapter")
    @classmethod
    def _without_secrets(cls, value: str) -> str:
        return redact(value)  # here and not on writing, so that a spec equals itself when it is read back

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _as_floats(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return (0.0 if info.field_name == "mean" else 1.0,) * info.data.get("channels", 0)
        if hasattr(value, "tolist"):
            _require_order(tuple(value.shape), info.data)
            value = value.reshape(-1).tolist()
        if isinstance(value, str):
            value = _numbers(value)
        if not isinstance(value, Sequence):
            return value
        try:  # many numbers are kept as they are used and stored, in single precision
            return tuple(value) if len(value) == info.data.get("channels") else tuple(array("f", value))
        except (TypeError, OverflowError):
            return tuple(value)

    @field_validator("format_version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != FORMAT_VERSION:
            raise ValueError(f"format {value} is not known to this version of fae-core (it reads {FORMAT_VERSION})")
        return value

    @model_validator(mode="after")
    def _statistics(self) -> LatentSpec:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (self.channels, self.channels * self.height * self.width):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values, std {len(self.std)}")
        # Within fp32, in which they are used: a smaller std would be 0 there, a larger mean infinite.
        if not all(abs(v) <= _FP32_MAX for v in (*self.mean, *self.std)) or min(self.std) < _FP32_TINY:
            raise ValueError("mean must be finite and std finite and positive, in single precision")
        if self.is_positional and "torch" in sys.modules:
            _ = self._positional  # made now: torch.compile cannot trace how
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        return self.channels, self.height, self.width

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def is_normalized(self) -> bool:
        """Whether statistics other than 0 and 1 are set."""
        return any(m != 0.0 for m in self.mean) or any(s != 1.0 for s in self.std)

    @property
    def is_positional(self) -> bool:
        """Whether there are statistics for each position, not only for each channel."""
        return len(self.mean) != self.channels

    def statistics(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """mean and std as fp32 tensors on a device, the CPU by default: (C, 1, 1), or (C, h, w) for each position.

        Args:
            device: Where to put them; None: the CPU.
        """
        mean, std = self._statistics_on(device)
        return mean.clone(), std.clone()

    @functools.cached_property
    def _positional(self) -> tuple[Tensor, Tensor]:
        """Statistics of each position, (C, h, w) each; kept, because making them takes longer than using them."""
        from concurrent.futures import ThreadPoolExecutor

        import torch

        def make() -> tuple[Tensor, Tensor]:
            mean, std = torch.tensor((self.mean, self.std), dtype=torch.float32, device="cpu").view(2, *self.shape)
            return mean, std

        # In a thread of its own no mode of the caller is active: under torch.export's they would be fake tensors, under
        # inference_mode such as no backward pass may use.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(make).result()

    def normalize(self, z: Tensor) -> Tensor:
        """(z - mean) / std of latents (..., C, h, w), computed in fp32, returned in z's dtype.

        Raises FAEError where z has another number of channels, or other sides than statistics of each position.

        Args:
            z: Raw latents (..., C, h, w), of any floating type.
        """
        import torch

        return self.normalize_(z.to(torch.float32, copy=True)).to(z.dtype)

    def normalize_(self, z: Tensor) -> Tensor:
        """`normalize` in place; raises as it does.

        Args:
            z: Raw latents (..., C, h, w), fp32.
        """
        mean, std = self._statistics_for(z)
        return z.sub_(mean).div_(std)

    def denormalize(self, z: Tensor) -> Tensor:
        """z * std + mean, the inverse of `normalize`; raises as it does.

        Args:
            z: Normalised latents (..., C, h, w), of any floating type.
        """
        mean, std = self._statistics_for(z)
        return (z.float() * std + mean).to(z.dtype)

    def with_statistics(self, mean: Any, std: Any) -> LatentSpec:
        """The same space with other statistics.

        Args:
            mean: C or C * h * w numbers, as a sequence, array or tensor.
            std: As many positive numbers, likewise.

        Raises:
            FAEError: Where these are not as many finite numbers.
        """
        try:
            return dataclasses.replace(self, mean=mean, std=std)
        except ValidationError as error:
            raise FAEError(
                f"latents cannot be normalised by these statistics: {field_reasons(error.errors(), type(self))}"
            ) from None

    def require(self, other: LatentSpec, *, ignore: Sequence[str] = (), context: str = "") -> None:
        """Raise unless another spec describes the same space.

        Args:
            other: The spec to compare.
            ignore: Names of fields that may differ.
            context: What the error message says the spec belongs to.

        Raises:
            LatentSpecMismatch: Names every field that differs.
        """
        fields = {
            field.name: (getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ignore and getattr(self, field.name) != getattr(other, field.name)
        }
        if fields:
            raise LatentSpecMismatch(fields, context)

    def check(self, z: Tensor) -> None:
        """Raise FAEError unless z is a batch of this spec's latents, (B, C, h, w).

        Args:
            z: What should be latents (B, C, h, w), normalised or raw.
        """
        if z.ndim != 4 or tuple(z.shape[1:]) != self.shape:
            raise FAEError(f"expected latents of shape (B, {', '.join(map(str, self.shape))}), got {tuple(z.shape)}")

    def __repr__(self) -> str:
        facts = [
            self.backbone[:_SHOWN],
            self.adapter[:_SHOWN],
            "normalised" if self.is_normalized else "not normalised",
        ]
        facts.append(self.fingerprint[:12] or "no fingerprint")
        sizes = "{}x{}x{} of images of {}x{}".format(*self.shape, *self.image_shape)
        return f"LatentSpec({', '.join(filter(None, (sizes, *facts)))})"

    def _repr_html_(self) -> str:
        return html_table("LatentSpec", self.facts())

    def facts(self) -> dict[str, Any]:
        """What the space is, by name, in words: as `fae info` prints it."""
        return {
            "latents": f"{self.channels} x {self.height} x {self.width}",
            "images": f"{self.image_shape[0]} x {self.image_shape[1]} pixels",
            "backbone": self.backbone,
            "normalised": _how(self),
            "fingerprint": self.fingerprint or "none",
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as latent_spec.json holds them; statistics of each position as text, see `_text`."""
        fields = dataclasses.asdict(self)
        return {**fields, "mean": _text(self.mean), "std": _text(self.std)} if self.is_positional else fields

    def summary(self) -> dict[str, Any]:
        """The fields for a record that is read often: as `to_dict`, but statistics of each position as a hash."""
        fields = self.to_dict()
        for name in ("mean", "std") if self.is_positional else ():
            fields[name] = f"sha256:{hashlib.sha256(fields[name].encode()).hexdigest()}"
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any], where: str = "latent spec") -> LatentSpec:
        """The spec of stored fields.

        Args:
            fields: As `to_dict` gives them.
            where: What the error message calls their source.

        Raises:
            InvalidFile: Where a field is missing, unknown or out of range.
        """
        try:
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as error:
            raise InvalidFile(f"{where}: {field_reasons(error.errors(), cls)}") from None

    def save(self, folder: str | Path) -> Path:
        """Write latent_spec.json into `folder` and return its path.

        Args:
            folder: Where to write; it is made.
        """
        path = Path(folder) / LATENT_SPEC
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_dict())
        return path

    @classmethod
    def load(cls, folder: str | Path) -> LatentSpec:
        """Read latent_spec.json from `folder` (or the file itself); raises InvalidFile as `from_dict` does.

        Args:
            folder: A folder that holds the file, or the file.
        """
        path = Path(folder)
        path = path / LATENT_SPEC if path.is_dir() else path
        return cls.from_dict(read_json(path, max_bytes=_MAX_BYTES), where=str(path))

    def _statistics_for(self, z: Tensor) -> tuple[Tensor, Tensor]:
        sides = (self.height, self.width) if self.is_positional else tuple(z.shape[-2:])
        if z.ndim < 3 or tuple(z.shape[-3:]) != (self.channels, *sides):
            wanted = ", ".join(map(str, sides)) if self.is_positional else "h, w"
            raise FAEError(f"expected latents of shape (..., {self.channels}, {wanted}), got {tuple(z.shape)}")
        return self._statistics_on(z.device)

    def _statistics_on(self, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
        """As `statistics`, but perhaps the tensors that are kept, which must not be written to."""
        import torch

        if self.is_positional:
            mean, std = self._positional
            return mean.to(device or "cpu"), std.to(device or "cpu")
        mean, std = torch.tensor((self.mean, self.std), dtype=torch.float32, device=device or "cpu")[:, :, None, None]
        return mean, std


def _require_order(shape: tuple[int, ...], sizes: dict[str, Any]) -> None:
    """Raise ValueError for an array whose shape says that its numbers are in another order than (C, h, w).

    Args:
        shape: Of the statistics.
        sizes: Fields of the spec: channels, height and width, where these are valid.
    """
    channels, *sides = (sizes.get(name, 0) for name in ("channels", "height", "width"))

    def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(size for size in shape if size != 1)

    if len(shape) > 1 and without_ones(shape) not in (without_ones((channels,)), without_ones((channels, *sides))):
        raise ValueError(f"an array of shape {shape} does not say the numbers of (C, h, w) = {(channels, *sides)}")


def _text(numbers: Sequence[float]) -> str:
    """Many numbers as the hexadecimal digits of their little-endian single precision: a tenth of the time to write."""
    packed = array("f", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes().hex()


def _numbers(text: str) -> tuple[float, ...]:
    """What `_text` wrote. Raises ValueError for other text."""
    try:
        packed = array("f", bytes.fromhex(text))
    except ValueError:
        raise ValueError("must be numbers, or their hexadecimal digits in single precision") from None
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)


def _how(spec: LatentSpec) -> str:
    """How its latents are normalised, in words."""
    if not spec.is_normalized:
        return "no statistics yet"
    return "per channel and position" if spec.is_positional else "per channel"
