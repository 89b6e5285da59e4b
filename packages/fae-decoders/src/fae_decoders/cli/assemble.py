"""`fae assemble`: a tokenizer from parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import NewOut, Overwrite, SetEncoder, check_places, model_there
from fae_core.commands.output import say
from fae_encoder.cli import BackboneWeights


def assemble(
    out: NewOut,
    pixel: Annotated[
        str, typer.Option("--pixel", callback=model_there, help="Run or folder of a pixel decoder (stage noise).")
    ],
    autoencoder: Annotated[
        str | None,
        typer.Option("--autoencoder", help="Run of `fae train autoencoder`: its encoder and feature decoder."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Instead: a preset with an identity adapter, whose features are the latents."),
    ] = None,
    weights: BackboneWeights = None,
    overrides: SetEncoder = None,
    statistics: Annotated[
        Path | None,
        typer.Option("--statistics", help="With --encoder: latent store of these features, to normalise them by."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a tokenizer of parts that were trained apart: without fine-tuning (stage II), or with features as latents.

    Section of --set: encoder (of the preset in --encoder).

    Example: fae assemble --autoencoder runs/autoencoder --pixel runs/pixel --out runs/tokenizer
    """
    from fae_core.commands.running import command_line
    from fae_core.errors import FAEError
    from fae_core.files import require_new_folder
    from fae_decoders.cli.stage import build_encoder, check_encoder
    from fae_decoders.fae.stored import require_direct, require_parts
    from fae_encoder.cli import encoder_fields

    if (autoencoder is None) == (encoder is None):
        raise FAEError("give either --autoencoder (a run of stage Ia) or --encoder (a preset with an identity adapter)")
    if encoder is None and (weights is not None or statistics is not None or overrides):
        raise FAEError("--weights, --set and --statistics belong to --encoder; an autoencoder has its own")
    fields = encoder_fields(overrides)
    check_places(autoencoder=autoencoder, latents=statistics)
    require_new_folder(out, overwrite=overwrite)
    if autoencoder is not None:
        require_parts(autoencoder, pixel)
    else:
        require_direct(check_encoder({"preset": encoder, **fields}, weights, statistics), pixel, statistics)
    from fae_decoders.fae.assemble import assemble as with_autoencoder
    from fae_decoders.fae.assemble import assemble_direct

    if autoencoder is not None:
        fae = with_autoencoder(autoencoder, pixel)
    else:
        from fae_core.models.build import seeded
        from fae_decoders.fae.any_pixel_decoder import load_pixel_decoder

        size = load_pixel_decoder(pixel).config.image_shape
        # The seed with which `fae encode` makes random weights by default.
        built = seeded(0, lambda: build_encoder({"preset": encoder, "image_size": size, **fields}, weights))
        fae = assemble_direct(built, pixel, statistics=statistics)
    fae.save_pretrained(out, overwrite=overwrite)
    shape = "x".join(map(str, fae.spec.shape))
    # Standardised features are normalised already: measuring them again would make other latents of them.
    own = None if fae.spec.is_normalized else "encoder"
    following = command_line("encode", model=out, data="IMAGES", out="LATENTS", statistics=own)
    say(f"wrote {out} (latents of {shape}); next: {following}")
