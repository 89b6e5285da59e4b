"""A transformers image processor as size, mean, std and filter of a Preprocess, or the reason why that is not possible.

Sizes are read from the file. For colours every setting counts, also those that a file leaves to its class: the
result is compared with the processor's own output for a test image, so a setting that is not followed is found
whatever its name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fae_core.errors import InvalidFile
from fae_core.models.transformers_models import load_processor
from fae_encoder.backbones.config import BackboneConfig

_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_KNOWN = {"do_rescale", "do_normalize", "do_resize", "do_center_crop", "do_convert_rgb"}
_NO_CROP_FROM = 384  # ConvNeXt's processor squashes images of this size and larger


def processing(name: str, config: BackboneConfig, configuration: dict[str, Any]) -> dict[str, Any]:
    """What an image processor says about image_size, mean, std and interpolation.

    Args:
        name: the repository or folder.
        config: the backbone's configuration; values that it sets are not looked up.
        configuration: the network's own configuration, whose image_size is the fallback.

    Returns:
        Fields of BackboneConfig.

    Raises:
        InvalidFile: for a processor that does anything else; the message names it and what to pass instead.
    """
    stored, settings, processor = _load(name, config.revision)
    where = f"the image processor of hf/{name}"
    found: dict[str, Any] = {}
    if config.image_size is None:
        _require_no_crop(stored, where)
        found["image_size"] = _input_size(stored) or pair(configuration.get("image_size"))
    if config.interpolation is None:
        found["interpolation"] = _filter(settings, where)
    if config.mean is None or config.std is None:
        mean, std = _colours(settings, where)
        if mean is not None:
            _require_same_colours(processor, settings, mean, std, where)
        found.update({key: value for key, value in (("mean", mean), ("std", std)) if getattr(config, key) is None})
    return found


def _load(name: str, revision: str | None) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The settings in the file, these with the defaults of the processor's class, and the processor.

    The processor is None if transformers does not know its class; the settings are empty without a file.
    """
    from transformers import AutoImageProcessor, ImageProcessingMixin

    try:
        stored, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=revision)
    except OSError:
        return {}, {}, None
    try:
        with torch.device("cpu"):
            processor = load_processor(name, AutoImageProcessor, "image processor", revision=revision)
    except InvalidFile:  # a type that this version does not know: only the file's settings are known
        return stored, stored, None
    return stored, {**stored, **processor.to_dict()}, processor


def _colours(settings: dict[str, Any], where: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of images in [0, 1]; None if the settings have none."""
    flags = [key for key, value in settings.items() if key.startswith("do_") and value is True and key not in _KNOWN]
    # `do_pad` and similar settings are judged by their effect, if the processor can be run.
    if "do_flip_channel_order" in flags:
        raise InvalidFile(f"{where} gives BGR images (do_flip_channel_order), which is not followed; {_OVERRIDE}")
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if settings.get("do_normalize", True) is False:
        mean, std = [0.0] * 3, [1.0] * 3
    if mean is None or std is None:
        return None, None
    mean, std = ([value] * 3 if isinstance(value, (int, float)) else list(value) for value in (mean, std))
    rescaled = settings.get("do_rescale", True) is not False
    scale = 255 * (settings.get("rescale_factor", 1 / 255) if rescaled else 1)
    offset = 1.0 if rescaled and settings.get("rescale_offset") else 0.0
    if len(mean) != 3 or len(std) != 3 or not scale:
        raise InvalidFile(f"{where} is not for images of three colours; {_OVERRIDE}")
    return tuple((value + offset) / scale for value in mean), tuple(value / scale for value in std)


_OVERRIDE = "pass mean and std of the images in [0, 1] that the network expects"


def _require_same_colours(processor: Any, settings: dict[str, Any], mean: Any, std: Any, where: str) -> None:
    """Raise InvalidFile unless the processor, without resize and crop, gives the same pixels for a test image."""
    if processor is None:
        unknown = sorted(k for k, v in settings.items() if k.startswith("do_") and v is True and k not in _KNOWN)
        if unknown:
            raise InvalidFile(f"{where} has {unknown[0]}, which is not followed; {_OVERRIDE}")
        return
    side = 64
    picture = torch.randint(
        0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0), device="cpu"
    )
    geometry = {key: False for key in ("do_resize", "do_center_crop") if key in settings}
    try:
        with torch.device("cpu"):
            pixels = processor(images=picture.numpy(), return_tensors="pt", **geometry)["pixel_values"]
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise InvalidFile(f"{where} cannot be followed ({reason}); {_OVERRIDE}") from None
    mean, std = (torch.tensor(values, device="cpu").view(3, 1, 1) for values in (mean, std))
    ours = (picture.permute(2, 0, 1).float() / 255 - mean) / std
    if not isinstance(pixels, Tensor) or pixels.shape != (1, 3, side, side):
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise InvalidFile(f"{where} makes {shape} of a picture of {side}x{side}, which is not followed; {_OVERRIDE}")
    difference = ((pixels[0].float() - ours) * std).abs().max().item()
    if not difference < 2e-4:
        raise InvalidFile(
            f"{where} does more than rescale and normalise (its pixels differ by {difference:.3g}); {_OVERRIDE}"
        )


def _filter(settings: dict[str, Any], where: str) -> str:
    if settings.get("do_resize", True) is False or settings.get("resample") is None:
        return "bicubic"
    number = int(settings["resample"])
    if number not in _FILTERS:
        raise InvalidFile(f"{where} resizes with Pillow's filter {number}; pass interpolation=bicubic or bilinear")
    return _FILTERS[number]


def _require_no_crop(settings: dict[str, Any], where: str) -> None:
    """Raise InvalidFile if the processor would crop a square image: latents stand for whole images."""
    crop, size = _input_size(settings), pair(settings.get("size"))
    part = settings.get("crop_pct")
    cropped = settings.get("do_center_crop") is True
    if isinstance(part, (int, float)) and part < 1 and crop and (cropped or min(crop) < _NO_CROP_FROM):
        what = f"the middle {part:g} of an image (crop_pct)"
    elif cropped and crop and settings.get("do_resize", True) is False:
        what = f"the middle {crop[0]}x{crop[1]} pixels of an image, whatever its size"
    elif cropped and crop and size and (crop[0] < size[0] or crop[1] < size[1]):
        what = f"the middle {crop[0]}x{crop[1]} of {size[0]}x{size[1]} pixels"
    else:
        return
    raise InvalidFile(
        f"{where} keeps {what}, and latents stand for whole images; pass image_size ({crop[0]}) to have them resized "
        "whole"
    )


def _input_size(settings: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) that the processor crops or resizes to."""
    return (pair(settings.get("crop_size")) if settings.get("do_center_crop") else None) or pair(settings.get("size"))


def pair(size: Any) -> tuple[int, int] | None:
    """(height, width) of a square image after a resize, given in any of transformers' forms; None if not fixed."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, dict) and size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if isinstance(size, dict) and size.get("shortest_edge"):
        return size["shortest_edge"], size["shortest_edge"]
    return None
