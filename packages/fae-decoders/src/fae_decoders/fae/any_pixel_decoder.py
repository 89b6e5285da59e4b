"""The kinds of pixel decoders, and which one a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from fae_core.models.sources import HubOptions, resolve_model_folder
from fae_decoders.fae.pixel_decoder import PixelDecoder
from fae_decoders.fae.rae_decoder import RAEDecoder
from fae_decoders.fae.stored import pixel_decoder_type

AnyPixelDecoder = PixelDecoder | RAEDecoder
_KINDS = {kind.model_type: kind for kind in (PixelDecoder, RAEDecoder)}


def load_pixel_decoder(source: str | Path, **hub: Unpack[HubOptions]) -> AnyPixelDecoder:
    """The pixel decoder in `source`, in eval mode.

    Args:
        source: A model folder, a run folder, or "owner/name" on the hub.
        hub: revision, token, cache_dir, local_files_only, subfolder and variant, see `HubOptions`.

    Raises:
        InvalidFile: There is no model, or one of another kind.
    """
    folder = resolve_model_folder(source, parts=("",), beside=(), **hub)
    return _KINDS[pixel_decoder_type(folder)].from_pretrained(folder, variant=hub.get("variant"))
