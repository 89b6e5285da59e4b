"""`fae import autoencoder-kl` and `fae import rae`: other projects' tokenizers and decoders."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.options import Device, NewOut, Overwrite, Section, Variant, images_there, path_there
from fae_core.commands.output import say
from fae_core.config.limits import LARGEST_SIDE
from fae_core.errors import FAEError, InvalidFile

_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def _checkpoint_there(source: str) -> str:
    """The place of a checkpoint as given, once it is known that it is there, or that the hub may have it."""
    if not Path(source).is_file():
        from fae_core.models.sources import require_source

        if Path(source).suffix in _FILES:
            raise InvalidFile(f"{source} does not exist")
        require_source(source)
    if Path(source).is_dir():
        from fae_decoders.imports.places import diffusers_folder

        diffusers_folder(Path(source), source)
    return source


class PixelScale(StrEnum):
    """The scale of a backbone's images, which is that of the output of RAE's decoders."""

    IMAGENET = "imagenet"
    HALF = "half"


def import_autoencoder_kl(
    source: Annotated[
        str,
        typer.Argument(
            callback=_checkpoint_there,
            help="File in LDM's layout, or diffusers folder (or a pipeline's, with vae/ in it) or hub name.",
        ),
    ],
    out: NewOut,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=1,
            max=LARGEST_SIDE,
            help="Pixels a side; default: diffusers' sample_size, or LDM's 256.",
        ),
    ] = None,
    variant: Variant = None,
    section: Section = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            "--statistics", callback=path_there, help="LightningDiT's latents_stats.pt, to normalise latents by."
        ),
    ] = None,
    scaling: Annotated[
        float | None,
        typer.Option("--scaling", help="Multiplies normalised latents, such as SD-VAE's 0.18215 in LDM's layout."),
    ] = None,
    shift: Annotated[
        float | None, typer.Option("--shift", help="Subtracted from latents before, such as SD3's 0.0609.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", callback=images_there, help="Images over which to measure the latents' statistics."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="At most so many of them, evenly spread.")] = 10_000,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Turn a KL autoencoder (VA-VAE, SD-VAE, ...) in LDM's layout or diffusers' into a tokenizer folder.

    Latents are normalised by --statistics, --shift and --scaling, or by their own statistics over --data. What is not
    given is diffusers' scaling_factor and shift_factor; LDM's files have no scale.

    Example: fae import autoencoder-kl stabilityai/sd-vae-ft-mse --image-size 256 --out models/sd-vae
    """
    from fae_core.commands.running import command_line
    from fae_core.files import require_new_folder

    scale: dict[str, Any] = {"statistics": statistics, "scaling": scaling, "shift": shift}
    if data is not None and any(value is not None for value in scale.values()):
        raise FAEError("--data measures the latents' statistics; leave --statistics, --scaling and --shift out")
    require_new_folder(out, overwrite=overwrite)
    from fae_core.processes import resolve_device
    from fae_decoders.imports.autoencoder_kl import load_autoencoder_kl

    vae = load_autoencoder_kl(source, image_size=image_size, variant=variant, section=section, **scale)
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
        out, overwrite=overwrite, card=f"Imported from the weights of a KL autoencoder (`{Path(source).name}`)."
    )
    parameters = sum(p.numel() for p in vae.parameters())
    whose = next(
        words
        for given, words in (
            (data, "normalised by their statistics over the data"),
            (statistics, f"normalised by {statistics}"),
            (scaling, "normalised by the given scaling"),
            (shift, "normalised by the given shift"),
            (vae.spec.is_normalized or None, "normalised by its own scaling"),
            (True, "not normalised: give --statistics, --scaling or --data for generators that expect it"),
        )
        if given is not None
    )
    say(
        f"wrote {out} ({parameters:,} parameters), latents {'x'.join(map(str, vae.spec.shape))} {whose}; "
        f"next: {command_line('encode', model=out, data=data or 'IMAGES', out='LATENTS')}"
    )


def import_rae(
    source: Annotated[
        str,
        typer.Argument(
            callback=_checkpoint_there,
            help="RAE's model.pt of a decoder, a whole RAE's checkpoint, or a folder or hub name of diffusers' "
            "AutoencoderRAE.",
        ),
    ],
    out: NewOut,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Of a decoder's file: the transformers folder or hub name of its encoder."),
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            "--statistics",
            callback=path_there,
            help="RAE's stat.pt, by which its generators' latents are normalised.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", callback=path_there, help="Of a file: the original's config.json; the released need none."
        ),
    ] = None,
    pixels: Annotated[
        PixelScale | None,
        typer.Option(
            "--pixels",
            help="Scale of the images: imagenet, for DINOv2 and MAE, or half (mean and std 0.5), for SigLIP2; default: "
            "the encoder's own, or imagenet for a decoder alone.",
        ),
    ] = None,
    section: Section = None,
    variant: Variant = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a RAE into a tokenizer, or its decoder alone, without --encoder, into a pixel decoder.

    A decoder is for features of its backbone without the last norm's scale and shift.

    Example: fae import rae model.pt --encoder facebook/dinov2-with-registers-base --statistics stat.pt --out models/rae
    """
    from fae_core.cli.defaults import Made, preset_words
    from fae_core.commands.running import command_line
    from fae_core.files import require_new_folder

    require_new_folder(out, overwrite=overwrite)
    from fae_decoders.fae.rae_decoder import RAEDecoder
    from fae_decoders.imports.official_rae import load_rae
    from fae_decoders.imports.rae_encoder import HALF, IMAGENET

    colours = None if pixels is None else {PixelScale.HALF: HALF, PixelScale.IMAGENET: IMAGENET}[pixels]
    model = load_rae(
        source,
        config=config,
        encoder=encoder,
        statistics=statistics,
        colours=colours,
        section=section,
        variant=variant,
    )
    model.save_pretrained(out, overwrite=overwrite, card=f"Imported from a RAE (`{Path(source).name}`).")
    wrote = f"wrote {out} ({sum(p.numel() for p in model.parameters()):,} parameters"
    if not isinstance(model, RAEDecoder):
        known = "normalised by its statistics" if model.spec.is_normalized else "not normalised: give --statistics"
        following = command_line("encode", model=out, data="IMAGES", out="LATENTS")
        say(f"{wrote}), latents {'x'.join(map(str, model.spec.shape))} {known}; next: {following}")
        return
    at_hand: Made = {
        "features": (model.config.feature_dim, *model.config.grid),
        "images": model.config.image_shape,
    }
    preset, remark = preset_words("pixel-decoder", at_hand)
    parts = {"autoencoder": "AUTOENCODER", "init": out, "data": "IMAGES", "preset": preset}
    following = command_line("train pixel", stage="finetune", **parts, out="FAE")
    say(f"{wrote}); next: {following}{remark}")
