"""Reading images from files, to tensors and back. Sources decode on demand and name the file that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core.images.accept import AnyImages as AnyImages
    from fae_core.images.accept import ImageTransform as ImageTransform
    from fae_core.images.accept import image_batch as image_batch
    from fae_core.images.batch import load_at_sizes as load_at_sizes
    from fae_core.images.batch import load_batch as load_batch
    from fae_core.images.batch import read_tensor as read_tensor
    from fae_core.images.check import require_images as require_images
    from fae_core.images.check import unchecked_images as unchecked_images
    from fae_core.images.decode import decode_image as decode_image
    from fae_core.images.decode import to_rgb as to_rgb
    from fae_core.images.gallery import show as show
    from fae_core.images.grid import draw_grid as draw_grid
    from fae_core.images.grid import save_grid as save_grid
    from fae_core.images.grid import save_image as save_image
    from fae_core.images.grid import to_pillow as to_pillow
    from fae_core.images.open import open_images as open_images
    from fae_core.images.quality import psnr as psnr
    from fae_core.images.readable import readable_images as readable_images
    from fae_core.images.source import ImageSource as ImageSource
    from fae_core.images.survey import open_surveyed as open_surveyed
    from fae_core.images.tolerant import TolerantImages as TolerantImages
    from fae_core.images.tolerant import readable_source as readable_source
    from fae_core.images.transform import center_crop as center_crop
    from fae_core.images.transform import crop_boxes as crop_boxes
    from fae_core.images.transform import crop_resize as crop_resize
    from fae_core.images.transform import jitter_colors as jitter_colors
    from fae_core.images.transform import to_tensor as to_tensor
    from fae_core.images.transform import to_uint8 as to_uint8

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
