"""A tokenizer as the `vae` of a diffusers pipeline (extra `diffusers`).

diffusers has one scale and one shift for all channels, a LatentSpec has one for each. So the spec's normalisation
happens in here: the latents outside are normalised, scaling_factor is 1 and shift_factor 0. A pipeline whose denoiser
was trained on normalised latents, as all generators of FAE are, then needs no other statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast, overload

import torch
from torch import Tensor

from fae_core.errors import FAEError, MissingPackage
from fae_core.images.check import require_image_batch, require_range
from fae_core.models.load import load_tokenizer
from fae_core.models.sources import HubOptions
from fae_core.protocols import Decoder, PosteriorTokenizer, Tokenizer, can_decode
from fae_decoders.tiling import tiled

try:
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput
    from diffusers.models.modeling_utils import ModelMixin
except ImportError:
    raise MissingPackage("a tokenizer for diffusers pipelines", "fae-decoders[diffusers]") from None


class WholeTokenizer(PosteriorTokenizer, Decoder, Protocol):
    """What can be wrapped: a tokenizer with `posterior` and `decode` and a folder of its own."""

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Any:
        """Write the folder."""
        ...


class DiffusersVAE(ModelMixin, ConfigMixin):
    """encode(x).latent_dist and decode(z).sample as AutoencoderKL has them.

    Images are (B, 3, H, W) in [-1, 1], latents normalised.

    `save_pretrained` writes the tokenizer's own folder, which `from_pretrained` and a pipeline's loader read again.
    `config` has scaling_factor, shift_factor, latent_channels, sample_size and, as pipelines derive their stride from
    its length, block_out_channels.

    Slicing (`enable_slicing`) takes one image of a batch at a time. Tiling (`enable_tiling`) takes images and latents
    larger than the tokenizer's in overlapping tiles of its own size; without it larger images are resized, and larger
    latents refused. A tokenizer that attends to the whole image sees one tile at a time, so that tiles may differ.

    Args:
        tokenizer: An FAE, a ConvVAE, or any other that has spec, posterior and decode.

    Raises:
        FAEError: The tokenizer has no posterior or cannot decode, or its stride is no power of two.
    """

    config_name = "diffusers.json"  # config.json is the tokenizer's own
    if TYPE_CHECKING:  # diffusers' has its entries as attributes, too

        @property
        def config(self) -> Any: ...

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        has = {"posterior": isinstance(tokenizer, PosteriorTokenizer), "decode": can_decode(tokenizer)}
        if not all(has.values()):
            lacks = " and ".join(name for name, there in has.items() if not there)
            raise FAEError(
                f"a pipeline's vae has a distribution of latents (`posterior`) and paints images (`decode`); this "
                f"{type(tokenizer).__name__} has no {lacks}"
            )
        self.tokenizer = cast("WholeTokenizer", tokenizer)
        self.use_slicing = self.use_tiling = False
        spec = tokenizer.spec
        self.register_to_config(
            in_channels=3,
            out_channels=3,
            latent_channels=spec.channels,
            sample_size=spec.image_size,
            block_out_channels=(spec.channels,) * (_halvings(spec.image_shape, (spec.height, spec.width)) + 1),
            scaling_factor=1.0,
            shift_factor=0.0,
            latents_mean=None,
            latents_std=None,
            force_upcast=False,
            fingerprint=spec.fingerprint,
        )

    @overload
    def encode(self, x: Tensor, return_dict: Literal[True] = True) -> AutoencoderKLOutput: ...

    @overload
    def encode(self, x: Tensor, return_dict: Literal[False]) -> tuple[DiagonalGaussianDistribution]: ...

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of normalised latents (B, C, h, w).

        Args:
            x: Images (B, 3, H, W) in [-1, 1].
            return_dict: As AutoencoderKL has it.

        Raises:
            FAEError: Images of another range or shape.
        """
        require_image_batch(x)
        require_range(x, low=-1.0)
        image = self.tokenizer.spec.image_shape
        if self._is_large(x, image):
            stride = self._stride
            if any(side % stride for side in x.shape[2:]):
                raise FAEError(f"tiled images have sides of a multiple of {stride} pixels, not {tuple(x.shape[2:])}")
            moments = self._in_slices(lambda part: tiled(self._moments, part, self._grid, stride, 1), x)
        else:
            moments = self._in_slices(self._moments, x)
        latents = DiagonalGaussianDistribution(moments.to(self.dtype))
        return AutoencoderKLOutput(latent_dist=latents) if return_dict else (latents,)

    @overload
    def decode(
        self, z: Tensor, return_dict: Literal[True] = True, generator: torch.Generator | None = None
    ) -> DecoderOutput: ...

    @overload
    def decode(
        self, z: Tensor, return_dict: Literal[False], generator: torch.Generator | None = None
    ) -> tuple[Tensor]: ...

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Images (B, 3, H, W) in [-1, 1].

        Args:
            z: Normalised latents (B, C, h, w).
            return_dict: As AutoencoderKL has it.
            generator: Accepted as by AutoencoderKL; nothing is drawn.
        """
        if self._is_large(z, self._grid):
            images = self._in_slices(lambda part: tiled(self._decode, part, self._grid, 1, self._stride), z)
        else:
            images = self._in_slices(self._decode, z)
        return DecoderOutput(sample=images) if return_dict else (images,)

    def forward(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """decode(encode(sample).latent_dist.mode())."""
        z = self.encode(sample, return_dict=False)[0].mode()
        return self.decode(z) if return_dict else self.decode(z, return_dict=False)

    def enable_slicing(self) -> None:
        """Take one image of a batch at a time, which needs less memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Take whole batches again."""
        self.use_slicing = False

    def enable_tiling(self) -> None:
        """Take images and latents larger than the tokenizer's in tiles."""
        self.use_tiling = True

    def disable_tiling(self) -> None:
        """Resize larger images, and refuse larger latents, again."""
        self.use_tiling = False

    @property
    def _grid(self) -> tuple[int, int]:
        return self.tokenizer.spec.height, self.tokenizer.spec.width

    @property
    def _stride(self) -> int:
        return self.tokenizer.spec.image_shape[0] // self.tokenizer.spec.height

    def _is_large(self, x: Tensor, own: tuple[int, int]) -> bool:
        """Whether x is to be taken in tiles: no side is smaller than the tokenizer's, and one is larger."""
        sides = tuple(x.shape[2:])
        return (
            self.use_tiling
            and sides != own
            and len(sides) == 2
            and all(a >= b for a, b in zip(sides, own, strict=True))
        )

    def _in_slices(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([run(one) for one in x.split(1)]) if self.use_slicing and x.shape[0] > 1 else run(x)

    def _moments(self, x: Tensor) -> Tensor:
        """Mean and log-variance of normalised latents, one after the other, (B, 2 C, h, w)."""
        posterior, spec = self.tokenizer.posterior((x.float() + 1) / 2), self.tokenizer.spec
        scale = spec.statistics(posterior.mean.device)[1]
        return torch.cat([spec.normalize(posterior.mean), posterior.logvar - 2 * scale.log()], dim=1)

    def _decode(self, z: Tensor) -> Tensor:
        return (2 * self.tokenizer.decode(z) - 1).to(z.dtype)

    # The tokenizer's own folder: few of diffusers' options have a meaning for it.
    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | Path, **options: Any
    ) -> None:
        """Write the tokenizer's folder.

        Args:
            save_directory: Is replaced if it is a tokenizer's folder.
            options: Of diffusers' models; ignored. Weights are always safetensors.
        """
        self.tokenizer.save_pretrained(save_directory, overwrite=True)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        source: str | Path,
        torch_dtype: torch.dtype | None = None,
        *,
        device_map: Any = None,
        **options: Any,
    ) -> Self:
        """The tokenizer in `source`, wrapped.

        Args:
            source: A model folder, a run folder, or "owner/name" on the hub.
            torch_dtype: What to cast the weights to.
            device_map: A device, or {"": device}.
            options: Of `HubOptions` (revision, token, cache_dir, local_files_only, subfolder, variant), and those of
                diffusers' own models that change how weights are read, as a pipeline's loader passes them.

        Raises:
            FAEError: An option would change what is loaded, such as a quantization_config.
            InvalidFile: There is no tokenizer.
        """
        hub = {name: options.pop(name) for name in HubOptions.__annotations__ if name in options}
        for name, value in options.items():
            without_effect = (None, True) if name == "use_safetensors" else (None, False)
            if name not in _HOW and value not in without_effect:
                raise FAEError(f"a tokenizer of FAE is loaded without {name} ({value!r}); leave it out")
        if isinstance(device_map, dict) and device_map.keys() == {""}:
            device_map = device_map[""]
        if device_map in ("auto", "balanced", "balanced_low_0", "sequential") or isinstance(device_map, dict):
            raise FAEError(f"a tokenizer is on one device; give device_map='cuda' or leave it out, not {device_map!r}")
        given = {name: value for name, value in hub.items() if value is not None}
        vae = cls(load_tokenizer(source, **given)).eval()
        wanted = {k: v for k, v in (("device", device_map), ("dtype", torch_dtype)) if v is not None}
        if wanted:  # diffusers warns of every dtype, also of none
            vae.to(**wanted)  # pyright: ignore[reportArgumentType] (diffusers' decorated signature)
        return vae


_HOW = ("low_cpu_mem_usage", "disable_mmap")  # options that change how weights are read, and not which


def _halvings(image: tuple[int, int], grid: tuple[int, int]) -> int:
    """How often the image is halved to reach the grid."""
    stride = image[0] // grid[0]
    same = all(side == stride * cells for side, cells in zip(image, grid, strict=True))
    if not same or stride & (stride - 1):
        raise FAEError(f"pipelines need a power of two between {image} pixels and a latent of {grid}")
    return stride.bit_length() - 1
