"""Reading images from files, to tensors and back. Sources decode on demand and name the file that cannot be read."""

from fae_core.images.batch import load_batch, read_tensor, readable_images
from fae_core.images.check import require_images, unchecked_images
from fae_core.images.decode import decode_image, to_rgb
from fae_core.images.grid import draw_grid, save_grid, save_image, to_pillow
from fae_core.images.open import open_images
from fae_core.images.quality import psnr
from fae_core.images.source import ImageSource
from fae_core.images.tolerant import TolerantImages, readable_source
from fae_core.images.transform import center_crop, crop_boxes, crop_resize, jitter_colors, to_tensor, to_uint8

__all__ = [
    "ImageSource",
    "TolerantImages",
    "center_crop",
    "crop_boxes",
    "crop_resize",
    "decode_image",
    "draw_grid",
    "jitter_colors",
    "load_batch",
    "open_images",
    "psnr",
    "read_tensor",
    "readable_images",
    "readable_source",
    "require_images",
    "save_grid",
    "save_image",
    "to_pillow",
    "to_rgb",
    "to_tensor",
    "to_uint8",
    "unchecked_images",
]
