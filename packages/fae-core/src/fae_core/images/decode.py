"""One image file to one RGB image, or one clear error.

What becomes of the unusual ones: the EXIF orientation is applied; transparency is laid on white; greyscale is repeated into
three channels; palettes and CMYK are converted by Pillow's formulas (colour profiles are ignored); 16-bit greyscale is
rounded to 8 bits; of animations and multi-page files the first frame is read.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fae_core.errors import DataError

# Formats that Pillow decodes itself: no external program (as for EPS) ever sees a file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_SIDE = 65_535
MAX_PIXELS = 2**27  # 134 million: 400 MB as RGB

# The size is checked here, before anything is decoded, and refused with one line.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_image(source: bytes | str | Path, name: str | None = None) -> Image.Image:
    """The RGB uint8 image in a file, or in the bytes of one. `name` is what errors call it.

    Raises DataError where it is missing, truncated, no image, larger than 65,535 pixels a side or 2**27 pixels, or has
    pixels without a defined range (floating point, 32-bit integers).
    """
    name = name or (str(source) if not isinstance(source, bytes) else "image")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            _check_size(image, name)
            image.load()
            return to_rgb(ImageOps.exif_transpose(image), name)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name} does not exist") from None
    except Exception as error:  # decoders of damaged files raise almost anything
        raise DataError(f"cannot read image {name}: {_reason(error)}") from None


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Any Pillow image as RGB uint8; see the module's first lines. Raises DataError where its pixels have no defined range."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_integers(image, name)
    if image.mode == "F":
        raise DataError(f"cannot read image {name}: floating-point pixels have no defined range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise DataError(f"cannot read image {name}: pixels are outside 0..65535")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"image {name} has {width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(FORMATS)})"
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
