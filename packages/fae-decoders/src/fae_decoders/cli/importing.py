"""`fae import autoencoder-kl` and `fae import rae`: other projects' tokenizers and decoders."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Device, Out, Overwrite, images_there, path_there
from fae_core.commands.output import say
from fae_core.config.limits import LARGEST_SIDE


class PixelScale(StrEnum):
    """The scale of a backbone's images, which is that of the output of RAE's decoders."""

    IMAGENET = "imagenet"
    HALF = "half"


def import_autoencoder_kl(
    source: Annotated[str, typer.Argument(help="diffusers folder (or a pipeline's, with vae/ in it) or hub name.")],
    out: Out,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, max=LARGEST_SIDE, help="Pixels a side; default: the model's sample_size."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Of the weights, such as fp16; default: the plain file, or the only one."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", callback=images_there, help="Images over which to measure the latents' statistics."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="At most so many of them, evenly spread.")] = 10_000,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Turn diffusers' AutoencoderKL into a tokenizer folder.

    Without --data latents are normalised by its scaling_factor and shift_factor.

    Example: fae import autoencoder-kl stabilityai/sd-vae-ft-mse --image-size 256 --out models/sd-vae
    """
    from fae_core.commands.running import command_line
    from fae_core.files import require_new_folder
    from fae_core.models.sources import require_source

    require_new_folder(out, overwrite=overwrite)
    require_source(source)
    from fae_core.processes import resolve_device
    from fae_decoders.imports.autoencoder_kl import load_autoencoder_kl

    vae = load_autoencoder_kl(source, image_size=image_size, variant=variant)
    if data is not None:
        from fae_core.images import readable_source
        from fae_decoders.stages.config import DataConfig
        from fae_decoders.stages.images import ImageData
        from fae_decoders.stages.vae import measure_statistics

        device = resolve_device(device)
        images = ImageData(readable_source(data, None), vae.read_size, DataConfig(statistics_images=count))
        measure_statistics(vae.to(device), images, device)
        vae.cpu()
    vae.save_pretrained(
        out, overwrite=overwrite, card=f"Imported from diffusers' AutoencoderKL (`{Path(source).name}`)."
    )
    parameters = sum(p.numel() for p in vae.parameters())
    whose = "their statistics over the data" if data is not None else "its own scaling"
    say(
        f"wrote {out} ({parameters:,} parameters), latents {'x'.join(map(str, vae.spec.shape))} normalised by {whose}; "
        f"next: {command_line('encode', model=out, data=data or 'IMAGES', out='LATENTS')}"
    )


def import_rae(
    checkpoint: Annotated[
        Path,
        typer.Argument(callback=path_there, help="The original's model.pt of a decoder, or a whole RAE's checkpoint."),
    ],
    out: Out,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", callback=path_there, help="The original's config.json; the released widths need none."
        ),
    ] = None,
    pixels: Annotated[
        PixelScale, typer.Option("--pixels", help="imagenet: for DINOv2 and MAE; half (mean and std 0.5): for SigLIP2.")
    ] = PixelScale.IMAGENET,
    section: Annotated[
        str | None, typer.Option("--section", help="Part of the checkpoint to take; by default ema, then model.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn one of RAE's decoders into a pixel decoder.

    It is for features of the same backbone without its last norm's scale and shift.

    Example: fae import rae model.pt --out models/rae-dinov2-b
    """
    from fae_core.cli.defaults import Made, preset_words
    from fae_core.commands.running import command_line
    from fae_core.files import read_json, require_new_folder

    require_new_folder(out, overwrite=overwrite)
    from fae_core.models.foreign import SECTIONS, read_state_dict
    from fae_decoders.imports.official_rae import decoder_from_official

    state = read_state_dict(checkpoint, section=section, sections=("ema", *SECTIONS))
    half = (0.5, 0.5, 0.5) if pixels is PixelScale.HALF else None
    stored = read_json(config) if config is not None else None
    decoder = decoder_from_official(state, stored, pixel_mean=half, pixel_std=half)
    decoder.save_pretrained(
        out, overwrite=overwrite, card=f"Imported from one of RAE's decoders (`{checkpoint.name}`)."
    )
    parameters = sum(p.numel() for p in decoder.parameters())
    at_hand: Made = {
        "features": (decoder.config.feature_dim, *decoder.config.grid),
        "images": decoder.config.image_shape,
    }
    preset, remark = preset_words("pixel-decoder", at_hand)
    parts = {"autoencoder": "AUTOENCODER", "init": out, "data": "IMAGES", "preset": preset}
    following = command_line("train pixel", stage="finetune", **parts, out="FAE")
    say(f"wrote {out} ({parameters:,} parameters); next: {following}{remark}")
