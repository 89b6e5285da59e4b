"""`fae train pixel`: stages Ib and II."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fae_core.cli.options import Survey
from fae_core.cli.training_options import TrainingOptions, training_command
from fae_decoders.cli.train_autoencoder import Data, Encoder, Features, Split, Weights

if TYPE_CHECKING:
    from pathlib import Path

    from fae_core.images import ImageSource
    from fae_decoders.stages import PixelFinetuneTask, PixelNoiseTask


DEFAULT_PRESET = "pixel-decoder-demo"


class Stage(StrEnum):
    """The pixel decoder's two stages."""

    NOISE = "noise"
    FINETUNE = "finetune"


@training_command(f"that of --init in stage finetune, else {DEFAULT_PRESET},", "pixel-decoder")
def train_pixel(
    options: TrainingOptions,
    data: Data,
    stage: Annotated[
        Stage,
        typer.Option(
            "--stage", help="noise: on frozen features with noise (Ib); finetune: on reconstructed ones (II)."
        ),
    ] = Stage.NOISE,
    autoencoder: Annotated[
        str | None,
        typer.Option("--autoencoder", help="Run of stage Ia. noise: whose features; finetune: also whose latents."),
    ] = None,
    init: Annotated[
        str | None, typer.Option("--init", help="Run or folder of a pixel decoder to start from; finetune needs one.")
    ] = None,
    encoder: Encoder = None,
    weights: Weights = None,
    features: Features = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="noise: preset or folder of the encoder that noise.sigma is for; scales it by the features' norm.",
        ),
    ] = None,
    split: Split = None,
    survey: Survey = None,
) -> None:
    """Train the pixel decoder: first on noisy frozen features, then on features that went through the latent.

    Stage noise needs no autoencoder; its decoder serves every latent size of the backbone. Stage finetune writes the
    whole FAE; without --preset and --config it takes the preset of the run in --init. Sections of --set and --config:
    model (the pixel decoder), encoder, noise or finetune (losses, data, ...), training.

    Example: fae train pixel --stage finetune --autoencoder runs/autoencoder --init runs/pixel --data IMAGES --out
    runs/fae
    """
    from fae_core.cli.launch import relaunched

    options.check_folder()
    if relaunched(options.processes):
        return
    from fae_core.cli.settings import parse_overrides
    from fae_core.config import parse_config, require_fields
    from fae_core.errors import FAEError
    from fae_core.images import readable_source
    from fae_core.models.build import seeded
    from fae_core.models.identity import model_checksum
    from fae_core.training import TrainConfig
    from fae_decoders.cli.stage import named_features, recorded, stage_settings
    from fae_decoders.fae.pixel_decoder import PixelDecoderConfig
    from fae_decoders.stages import PixelFinetuneConfig, PixelNoiseConfig
    from fae_decoders.stages.pixel_noise import NOT_MEASURED

    if autoencoder is not None and encoder is not None:
        raise FAEError("--autoencoder and --encoder both say whose features to paint from; give one of them")
    if stage is Stage.FINETUNE and (encoder is not None or weights is not None):
        raise FAEError("--encoder and --weights are for stage noise; stage finetune takes the encoder of --autoencoder")
    if stage is Stage.FINETUNE and reference is not None:
        raise FAEError("--reference is for stage noise; stage finetune adds no noise to features")
    if init is not None and "model" in parse_overrides(options.overrides):
        raise FAEError("the pixel decoder is the one of --init, as it is; leave --set model... out")
    preset, config = options.preset_or(DEFAULT_PRESET), options.config
    if stage is Stage.FINETUNE and init is not None and options.preset is None and options.config is None:
        preset, config = _settings_of(init)
    settings = stage_settings(
        "pixel-decoder",
        ("noise", "finetune"),
        stage.value,
        preset,
        config,
        options.overrides,
        options.training,
        _folder(autoencoder) or encoder,
    )
    train_config = parse_config(TrainConfig, settings["training"], "training settings")
    own = PixelNoiseConfig if stage is Stage.NOISE else PixelFinetuneConfig
    for section, config_class in (("model", PixelDecoderConfig), (stage.value, own)):
        require_fields(config_class, settings[section], f"{section} settings")
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
    source = readable_source(data, split, survey)

    # Encoder, decoder and discriminator: every fresh weight comes from the seed.
    def build() -> PixelNoiseTask | PixelFinetuneTask:
        if stage is Stage.NOISE:
            return _noise_task(source, settings, init, weights, features, reference)
        return _finetune_task(source, settings, autoencoder, init, features)

    task = seeded(train_config.seed, build)
    start = {} if init is None else {"init": model_checksum(task.modules["pixel_decoder"].state_dict(), None)}
    after = (
        f"fae train pixel --stage finetune --autoencoder {autoencoder or 'AUTOENCODER'} --init {options.out} "
        f"--data {data} --out FAE"
        if stage is Stage.NOISE
        else f"fae reconstruct --model {options.out} --data {data} --out RECONSTRUCTION"
    )
    options.train(
        task,
        train_config,
        {
            "command": f"fae train pixel --stage {stage.value}",
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
    from fae_decoders.fae.pixel_decoder import PixelDecoder, PixelDecoderConfig
    from fae_decoders.stages import PixelNoiseConfig, PixelNoiseTask

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
    autoencoder: str | None,
    init: str | None,
    features: Path | None,
) -> PixelFinetuneTask:
    from fae_core.config import parse_config
    from fae_core.errors import FAEError
    from fae_decoders.cli.stage import known_features
    from fae_decoders.fae.any_pixel_decoder import load_pixel_decoder
    from fae_decoders.fae.fae import FAE
    from fae_decoders.stages import PixelFinetuneConfig, PixelFinetuneTask

    if autoencoder is None or init is None:
        raise FAEError("stage finetune needs --autoencoder (a run of stage Ia) and --init (a run of stage noise)")
    stage = parse_config(PixelFinetuneConfig, settings["finetune"], "finetune settings")
    fae = FAE.from_pretrained(autoencoder)
    known = known_features(features, fae.encoder, source)
    return PixelFinetuneTask(fae, load_pixel_decoder(init), source, stage, known)


def _folder(autoencoder: str | None) -> str | None:
    """The model folder of a run, which is what an encoder is read from. Raises InvalidFile where there is none."""
    from fae_core.models.sources import resolve_model_folder

    return None if autoencoder is None else str(resolve_model_folder(autoencoder, part="tokenizer"))


def _settings_of(init: str) -> tuple[str | None, Path | None]:
    """The preset and the file of settings of the run that made a decoder. Raises FAEError where it names none.

    The default preset is small: it must not be taken for a decoder that was trained with another.
    """
    from pathlib import Path

    from fae_core.commands.running import recorded_options
    from fae_core.errors import FAEError, InvalidFile
    from fae_core.folders import RUN_CONFIG

    run = next((folder for folder in (Path(init), Path(init).parent) if (folder / RUN_CONFIG).is_file()), None)
    try:
        recorded = None if run is None else recorded_options(run)
    except InvalidFile:
        recorded = None
    if recorded is None:
        raise FAEError(
            f"{init} does not say which settings it was trained with: give stage finetune a --preset "
            "(`fae presets pixel-decoder`) or a --config"
        )
    preset, config = recorded.get("--preset"), recorded.get("--config")
    return preset or (None if config else DEFAULT_PRESET), None if config is None else Path(config)
