"""`fae train pixel`: stages Ib and II."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fae_core.cli.options import Split, TrainData, check_places
from fae_core.cli.training_options import TrainingOptions, training_command, training_config
from fae_decoders.cli.train_autoencoder import Encoder
from fae_encoder.cli import BackboneWeights, Features

if TYPE_CHECKING:
    from pathlib import Path

    from fae_core.images import ImageSource
    from fae_decoders.stages import PixelFinetuneTask, PixelNoiseTask


DEFAULT_PRESET = "pixel-decoder-demo"


class Stage(StrEnum):
    """The pixel decoder's two stages."""

    NOISE = "noise"
    FINETUNE = "finetune"


@training_command(
    f"that of --init in stage finetune, else {DEFAULT_PRESET}, for encoders of its size alone",
    "pixel-decoder",
)
def train_pixel(
    options: TrainingOptions,
    data: TrainData,
    stage: Annotated[
        Stage,
        typer.Option(
            "--stage", help="noise: on frozen features with noise (Ib); finetune: on reconstructed ones (II)."
        ),
    ] = Stage.NOISE,
    autoencoder: Annotated[
        str | None,
        typer.Option(
            "--autoencoder",
            help="Run of stage Ia. noise: whose features; finetune: also whose latents.",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Run or folder of a pixel decoder to start from; finetune needs one.",
        ),
    ] = None,
    encoder: Encoder = None,
    weights: BackboneWeights = None,
    features: Features = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="noise: preset or folder of the encoder that noise.sigma is for; scales it by the features' norm.",
        ),
    ] = None,
    split: Split = None,
) -> None:
    """Train the pixel decoder: first on noisy frozen features, then on features that went through the latent.

    Stage noise needs no autoencoder; its decoder serves every latent size of the backbone. Stage finetune writes the
    whole FAE; without --preset and --config it takes the recipe of the run in --init (its preset or file, --batch-size
    and --set, without the length), and it goes on with that run's discriminator, whose starting steps then count as
    passed. How long the stages are, and whether the schedule starts again, is open in the paper: each has a schedule of
    its own over training.steps. Sections of --set and --config:
    model (the pixel decoder), encoder, noise or finetune (losses, data, ...), training.

    Example: fae train pixel --stage finetune --autoencoder runs/autoencoder --init runs/pixel --data IMAGES --out
    runs/fae
    """
    options.check_folder()
    from fae_core.cli.defaults import image_size_at_hand
    from fae_core.cli.settings import parse_overrides
    from fae_core.commands.running import command_line
    from fae_core.config import parse_config, require_fields
    from fae_core.errors import FAEError
    from fae_core.models.build import seeded
    from fae_decoders.cli.stage import (
        check_encoder,
        comparable_encoder,
        encoder_at_hand,
        named_features,
        recorded,
        stage_settings,
        without,
    )
    from fae_decoders.cli.stage_two import Recipe, kept_discriminator, recipe_for_stage_two, recipe_of, tell
    from fae_decoders.fae.config import PixelDecoderConfig
    from fae_decoders.fae.stored import require_parts, require_sizes, stored_features, stored_pixel_decoder
    from fae_decoders.stages.config import NOT_MEASURED, PixelFinetuneConfig, PixelNoiseConfig

    if autoencoder is not None and encoder is not None:
        raise FAEError("--autoencoder and --encoder both say whose features to paint from; give one of them")
    if stage is Stage.FINETUNE and (encoder is not None or weights is not None):
        raise FAEError("--encoder and --weights are for stage noise; stage finetune takes the encoder of --autoencoder")
    if stage is Stage.FINETUNE and reference is not None:
        raise FAEError("--reference is for stage noise; stage finetune adds no noise to features")
    if init is not None and "model" in parse_overrides(options.overrides):
        raise FAEError("the pixel decoder is the one of --init, as it is; leave --set model... out")
    runs = None if autoencoder is None or init is None else (autoencoder, init)
    if stage is Stage.NOISE:
        runs = None
    elif runs is None:
        raise FAEError("stage finetune needs --autoencoder (a run of stage Ia) and --init (a run of stage noise)")
    check_places(autoencoder=autoencoder, init=init)
    recipe = Recipe(options.preset_or(DEFAULT_PRESET), options.config)
    if runs is not None and options.preset is None and options.config is None:
        recipe = recipe_of(runs[1], DEFAULT_PRESET)
        tell(recipe, runs[1])
    settings = stage_settings(
        "pixel-decoder",
        ("noise", "finetune"),
        stage.value,
        recipe.preset,
        recipe.config,
        [*recipe.without(options.training), *(options.overrides or [])],
        options.training,
        _folder(autoencoder) or encoder,
    )
    train_config = training_config(settings["training"])
    own = PixelNoiseConfig if stage is Stage.NOISE else PixelFinetuneConfig
    later = ("feature_dim", "grid", "image_size")
    require_fields(PixelDecoderConfig, settings["model"], "model settings", later=later)
    require_fields(own, settings[stage.value], f"{stage.value} settings")
    if stage is Stage.NOISE:
        if reference is not None:  # the rule goes over a preset's absolute sigma; a number that is set is not replaced
            given = settings["noise"].get("reference_rms")
            settings["noise"] = {
                **settings["noise"],
                "relative": True,
                "reference_rms": NOT_MEASURED if given is None else given,
            }
        noise = parse_config(PixelNoiseConfig, settings["noise"], "noise settings")
        noise.require_reference(reference is not None)
        if (named := named_features(settings["encoder"])) is not None:
            noise.require_unit(*named)
    encoder_config = check_encoder(settings["encoder"], weights, features)
    name = f"fae train pixel --stage {stage.value}"
    options.require_started_with(
        {"command": name},
        training=train_config,
        encoder=comparable_encoder(encoder_config),
        # What is measured at the start is in the record in its place.
        **{stage.value: (own, {key: value for key, value in settings[stage.value].items() if value != NOT_MEASURED})},
        **({} if init is not None else {"model": (PixelDecoderConfig, without(settings["model"], later))}),
    )
    known = None if autoencoder is None else stored_features(autoencoder)
    by_default = recipe.preset == DEFAULT_PRESET and recipe.config is None
    if runs is not None:
        require_parts(*runs)
    elif init is not None:
        require_sizes(stored_pixel_decoder(init), known)
    if by_default and known is not None:
        options.require_suited(DEFAULT_PRESET, {"features": known})
    check_places(data=data, reference=reference)
    if options.relaunched():
        return
    source = options.images(data, split, features)
    from fae_core.models.identity import model_checksum

    discriminator = None if runs is None else kept_discriminator(runs[1], settings["finetune"], options)
    if by_default:
        options.require_suited(DEFAULT_PRESET, encoder_at_hand(settings["encoder"], weights))
    if by_default and stage is Stage.NOISE and autoencoder is None and encoder is None and init is None:
        options.require_suited(DEFAULT_PRESET, image_size_at_hand(source))

    # Encoder, decoder and discriminator: every fresh weight comes from the seed.
    def build() -> PixelNoiseTask | PixelFinetuneTask:
        if runs is None:
            return _noise_task(source, settings, init, weights, features, reference)
        return _finetune_task(source, settings, *runs, features, discriminator)

    with options.building():
        task = seeded(train_config.seed, build)
    start = (
        {}
        if init is None or options.dry_run
        else {"init": model_checksum(task.modules["pixel_decoder"].state_dict(), None)}
    )
    images = {"data": data, "split": split}
    following = recipe_for_stage_two(recipe.preset, recipe.config, options.overrides, options.batch_size)
    parts = {"autoencoder": autoencoder or "AUTOENCODER", "init": options.out, "features": features}
    after = (
        command_line("train pixel", stage="finetune", **parts, **images, **following.options, out="FAE")
        if stage is Stage.NOISE
        else f"{command_line('reconstruct', model=options.out, **images, out='RECONSTRUCTION')}, "
        f"or {command_line('encode', model=options.out, **images, features=features, out='LATENTS')}"
    )
    options.train(
        task,
        train_config,
        {
            "command": name,
            "data": data,
            "split": split,
            "images": len(source),
            **({"features": str(features)} if features else {}),
            "autoencoder": autoencoder,
            "init": init,
            **({"reference": reference} if reference else {}),
            "identity": start,
            "encoder": recorded(task.encoder.config),
            "model": recorded(task.modules["pixel_decoder"].config),
            stage.value: recorded(task.config),
        },
        after,
    )


def _noise_task(
    source: ImageSource,
    settings: dict[str, Any],
    init: str | None,
    weights: str | None,
    features: Path | None,
    reference: str | None,
) -> PixelNoiseTask:
    from fae_core.config import parse_config
    from fae_decoders.cli.stage import build_encoder, known_features
    from fae_decoders.fae.any_pixel_decoder import load_pixel_decoder
    from fae_decoders.fae.config import PixelDecoderConfig
    from fae_decoders.fae.pixel_decoder import PixelDecoder
    from fae_decoders.stages import PixelNoiseTask
    from fae_decoders.stages.config import PixelNoiseConfig

    stage = parse_config(PixelNoiseConfig, settings["noise"], "noise settings")
    built = build_encoder(settings["encoder"], weights)
    known = known_features(features, built, source)
    if init is not None:
        decoder = load_pixel_decoder(init)
    else:
        shapes = {"feature_dim": built.backbone.dim, "grid": built.backbone.grid, "image_size": built.spec.image_size}
        decoder = PixelDecoder(parse_config(PixelDecoderConfig, {**settings["model"], **shapes}, "model settings"))
    measured = None if reference is None else build_encoder({"preset": reference}, None)
    return PixelNoiseTask(built, decoder, source, stage, known, measured)


def _finetune_task(
    source: ImageSource,
    settings: dict[str, Any],
    autoencoder: str,
    init: str,
    features: Path | None,
    discriminator: Path | None,
) -> PixelFinetuneTask:
    from fae_core.config import parse_config
    from fae_decoders.cli.stage import known_features
    from fae_decoders.fae.any_pixel_decoder import load_pixel_decoder
    from fae_decoders.fae.fae import FAE
    from fae_decoders.stages import PixelFinetuneTask
    from fae_decoders.stages.config import PixelFinetuneConfig

    stage = parse_config(PixelFinetuneConfig, settings["finetune"], "finetune settings")
    fae = FAE.from_pretrained(autoencoder)
    known = known_features(features, fae.encoder, source)
    return PixelFinetuneTask(fae, load_pixel_decoder(init), source, stage, known, discriminator)


def _folder(autoencoder: str | None) -> str | None:
    """The model folder of a run, which is what an encoder is read from. Raises InvalidFile where there is none."""
    from fae_core.models.sources import resolve_model_folder

    return None if autoencoder is None else str(resolve_model_folder(autoencoder, part="tokenizer"))
