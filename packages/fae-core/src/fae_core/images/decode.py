"""One image file to one RGB image, or one clear error.

- The EXIF orientation is applied; transparent pixels are composed with white; greyscale is repeated in three channels.
- Palettes and CMYK are converted by Pillow's formulas; colour profiles are ignored.
- Greyscale of 12 and 16 bits is rounded to 8; of 16-bit colours the upper 8 bits are taken.
- An alpha channel that is 0 everywhere is ignored where the format does not declare it as one (BMP, some TIFF).
- Of animations and files of several pages the first frame is read.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from fae_core.errors import DataError
from fae_core.images.budget import DECODING
from fae_core.images.formats import FORMATS, printable
from fae_core.images.png import without_texts

MAX_SIDE = 65_535
MAX_PIXELS = 2**27  # 134 million: 400 MB as RGB; decoding takes at most 16 bytes a pixel
MAX_BYTES = 2**30  # of a file: 2**27 pixels of 8 bytes
_BAND = 2**20  # pixels converted at a time
_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 322, 323
_BITS, _PHOTOMETRIC, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 262, 338, 339
_SIGNED = 2
_TRANSPOSED: dict[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(source: bytes | str | Path, name: str | None = None) -> Image.Image:
    """The RGB uint8 image in a file.

    Takes at most 16 bytes of memory for each pixel of the file, and waits where other threads decode so many pixels
    that it would be more than 2**27 in all.

    Args:
        source: the file's path, or its bytes.
        name: what errors call it.

    Raises:
        DataError: it is missing, truncated, no image, larger than 1 GiB, 65,535 pixels a side or 2**27 pixels, or has
            pixels without a defined range (floating point, signed or 32-bit integers).
    """
    if not isinstance(source, (bytes, str, Path)):
        raise DataError(f"an image is decoded from bytes or a path, not from {type(source).__name__}")
    name = name or (printable(source) if not isinstance(source, bytes) else "image")
    try:
        with DECODING.share(), _opened(source, name) as file, Image.open(without_texts(file), formats=FORMATS) as image:
            check_size(*image.size, name)
            _check_tiles(image, name)
            DECODING.take(image.width * image.height)
            rgb = _turned(to_rgb(_loaded(image), name), _orientation(image))
            rgb.info = {}  # the orientation is applied, and no other metadata belongs to the pixels
            return rgb
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name} does not exist") from None
    except Exception as error:  # decoders of damaged files raise almost anything
        raise DataError(f"cannot read image {name}: {_reason(error)}") from None


def upright_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """A Pillow image that somebody else opened as `decode_image` gives its file. The image itself is not changed.

    Args:
        image: of any mode, its file read or not.
        name: what errors call it.

    Raises:
        DataError: as `decode_image`.
    """
    check_size(*image.size, name)
    transparency = _scaled_transparency(image) if isinstance(image, ImageFile) and image.format == "PNG" else None
    try:
        image.load()
        if transparency is not None:
            image = image.copy()
            image.info["transparency"] = transparency
        return _turned(to_rgb(image, name), _orientation(image))
    except DataError:
        raise
    except Exception as error:  # decoders of damaged files raise almost anything
        raise DataError(f"cannot read image {name}: {_reason(error)}") from None


def _turned(image: Image.Image, orientation: int | None) -> Image.Image:
    """An image with its EXIF orientation applied."""
    turn = _TRANSPOSED.get(orientation)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """A Pillow image of any mode as RGB uint8, converted as the module's docstring says.

    Args:
        image: what to convert; it is returned itself where it is RGB already.
        name: what errors call it.

    Raises:
        DataError: its pixels have no defined range.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _by_bands(image, _grey(image, name))
    if image.mode == "F":
        raise DataError(f"cannot read image {name}: floating-point pixels have no defined range")
    opaque = not image.has_transparency_data or _has_idle_alpha(image)
    return _by_bands(image, lambda part: part.convert("RGB") if opaque else _on_white(part))


def read_bytes(path: str | Path) -> bytes:
    """The bytes of an image's file. Raises DataError where it is missing, too large or no regular file."""
    try:
        with _opened(path, printable(path)) as file:
            return file.read()
    except FileNotFoundError:
        raise DataError(f"{printable(path)} does not exist") from None
    except OSError as error:
        raise DataError(f"cannot read image {printable(path)}: {error.strerror}") from None


def check_size(width: int, height: int, name: str) -> None:
    """Raise DataError, naming the image, where it has no pixels, more than 65,535 a side or 2**27 in all."""
    if not width * height:
        raise DataError(f"image {name} has no pixels")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"image {name} has {width}x{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS} in all are read"
        )


def check_bytes(size: int, name: str) -> None:
    """Raise DataError, naming the image, where its file has more than 1 GiB."""
    if size > MAX_BYTES:
        raise DataError(f"image {name} has {size} bytes; at most {MAX_BYTES} are read")


def _opened(source: bytes | str | Path, name: str) -> IO[bytes]:
    """The file, open for reading. Raises DataError where it is too large or no regular file."""
    if isinstance(source, bytes):
        check_bytes(len(source), name)
        return io.BytesIO(source)
    facts = Path(source).stat()
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe could wait without end
        raise DataError(f"cannot read image {name}: it is no file")
    check_bytes(facts.st_size, name)
    return Path(source).open("rb")


def _loaded(image: ImageFile) -> Image.Image:
    """The image with its pixels, with as few copies of them in memory as possible."""
    if image.format == "PNG" and (transparency := _scaled_transparency(image)) is not None:
        image.info["transparency"] = transparency
    decoder = getattr(image, "_decoder", None)
    if image.format != "WEBP" or decoder is None:
        image.load()
        return image
    # Pillow keeps two canvases of 4 bytes a pixel as long as the decoder; they are freed before the image is made.
    frame = decoder.get_next()
    if frame is None:
        raise DataError("the first frame is damaged")
    mode, raw = ("RGB", "RGBX") if image.mode == "RGB" else (image.mode, image.mode)
    image._decoder = decoder = None  # pyright: ignore[reportAttributeAccessIssue]  # WebP images have one
    return Image.frombytes(mode, image.size, frame[0], "raw", raw)


def _scaled_transparency(image: ImageFile) -> int | tuple[int, ...] | None:
    """A PNG's transparent colour in 8 bits, as Pillow converts its pixels, where Pillow leaves it as it is stored."""
    transparent, layout = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if isinstance(transparent, int) and layout in ("L;2", "L;4"):
        return transparent * (85 if layout == "L;2" else 17)
    if isinstance(transparent, tuple) and layout == "RGB;16B":
        return tuple(value >> 8 for value in transparent)
    return None


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, where there is one."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata does not matter for the pixels
        return None


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert(image)`, some rows at a time, so that its intermediate results stay small."""
    rows = max(1, _BAND // image.width)
    if rows >= image.height:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(image.height, top + rows)))
        whole.paste(convert(part), (0, top))
    return whole


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent image over white, as RGB."""
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _has_idle_alpha(image: Image.Image) -> bool:
    """Whether the fourth channel may be padding and is 0 everywhere: viewers show such images as opaque."""
    if image.mode != "RGBA" or not (image.format == "BMP" or _tag(image, _EXTRA_SAMPLES, "missing") == "missing"):
        return False
    return image.getextrema()[-1] == (0, 0)


def _grey(image: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """What converts integers of more than 8 bits to RGB."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # of these Pillow scales the values to 0..65535
        raise _undefined(name)
    white = 4095 if _tag(image, _BITS) == 12 else 65_535
    inverted = _tag(image, _PHOTOMETRIC) == 0  # Pillow inverts WhiteIsZero up to 8 bits only
    transparent = image.info.get("transparency")

    def convert(part: Image.Image) -> Image.Image:
        values = np.asarray(part)
        if values.min() < 0 or values.max() > white:
            raise DataError(f"cannot read image {name}: pixels are outside 0..{white}")
        grey = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
        if inverted:
            grey = 255 - grey
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")

    return convert


def _tag(image: Image.Image, number: int, default: int | str | None = None) -> int | str | None:
    """The first value of a TIFF's tag; None for other formats."""
    tags: Mapping[int, Any] | None = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return None
    value: Any = tags.get(number, default)
    return next(iter(value), None) if isinstance(value, tuple) else value


def _check_tiles(image: Image.Image, name: str) -> None:
    """Raise DataError for a TIFF with signed pixels, or with tiles far larger than itself: each is unpacked whole."""
    width, length = _tag(image, _TILE_WIDTH), _tag(image, _TILE_LENGTH)
    if width and length and int(width) * int(length) > max(image.width * image.height, _BAND):
        raise DataError(f"image {name} has {image.width}x{image.height} pixels in tiles of {width}x{length}")
    if _tag(image, _SAMPLE_FORMAT) == _SIGNED:
        raise _undefined(name)


def _undefined(name: str) -> DataError:
    """The error for pixels without a defined range."""
    return DataError(
        f"cannot read image {name}: signed or 32-bit integers have no defined range (they may lie outside 0..65535); "
        "save it with 8 or 16 bits, unsigned"
    )


def _reason(error: Exception) -> str:
    """What a decoder's error says, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image in a known format ({', '.join(FORMATS)})"
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
