"""`fae train autoencoder`: stage Ia."""

from __future__ import annotations

from typing import Annotated

import typer

from fae_core.cli.options import Split, TrainData, check_places
from fae_core.cli.training_options import TrainingOptions, training_command, training_config
from fae_encoder.cli import BackboneWeights, Features

Encoder = Annotated[
    str | None, typer.Option("--encoder", help="Encoder preset, or folder of an encoder or FAE; default: the preset's.")
]


DEFAULT_PRESET = "feature-decoder-demo"


@training_command(f"{DEFAULT_PRESET}, for encoders of its size alone", "feature-decoder")
def train_autoencoder(
    options: TrainingOptions,
    data: TrainData,
    encoder: Encoder = None,
    weights: BackboneWeights = None,
    features: Features = None,
    split: Split = None,
) -> None:
    """Train the adapter and the feature decoder on features of a frozen backbone (stage Ia).

    Sections of --set and --config: model (the feature decoder), encoder, autoencoder (beta, cosine, data, ...),
    training.

    Example: fae train autoencoder --data IMAGES --out runs/autoencoder --set autoencoder.beta=0.003
    """
    options.check_folder()
    from fae_core.cli.defaults import image_size_at_hand, preset_words
    from fae_core.commands.running import command_line
    from fae_core.config import parse_config, require_fields
    from fae_core.models.build import seeded
    from fae_decoders.cli.stage import (
        build_encoder,
        check_encoder,
        comparable_encoder,
        encoder_at_hand,
        known_features,
        recorded,
        stage_settings,
        without,
    )
    from fae_decoders.fae.config import FeatureDecoderConfig
    from fae_decoders.stages.config import AutoencoderConfig

    settings = stage_settings(
        "feature-decoder",
        ("autoencoder",),
        "autoencoder",
        options.preset_or(DEFAULT_PRESET),
        options.config,
        options.overrides,
        options.training,
        encoder,
    )
    train_config = training_config(settings["training"])
    stage = parse_config(AutoencoderConfig, settings["autoencoder"], "autoencoder settings")
    require_fields(FeatureDecoderConfig, settings["model"], "model settings", later=("feature_dim",))
    encoder_config = check_encoder(settings["encoder"], weights, features)
    check_places(data=data)
    command = "fae train autoencoder"
    options.require_started_with(
        {"command": command},
        training=train_config,
        autoencoder=stage,
        encoder=comparable_encoder(encoder_config),
        model=(FeatureDecoderConfig, without(settings["model"], ["feature_dim"])),
    )
    if options.relaunched():
        return
    source = options.images(data, split, features)
    from fae_decoders.fae.feature_decoder import FeatureDecoder
    from fae_decoders.stages.autoencoder import AutoencoderTask, training_spec

    at_hand = encoder_at_hand(settings["encoder"], weights)
    options.require_suited(DEFAULT_PRESET, at_hand)
    if encoder is None:
        options.require_suited(DEFAULT_PRESET, image_size_at_hand(source))
    with options.building():
        built = seeded(train_config.seed, lambda: build_encoder(settings["encoder"], weights))
        model = {**settings["model"], "feature_dim": built.backbone.dim}
        model_config = parse_config(FeatureDecoderConfig, model, "model settings")
        decoder = seeded(train_config.seed, lambda: FeatureDecoder(model_config, training_spec(built.spec)))
        task = AutoencoderTask(built, decoder, source, stage, known_features(features, built, source))
    images = {"data": data, "split": split, "features": features}
    preset, remark = preset_words("pixel-decoder", at_hand)
    pixel = command_line("train pixel", stage="noise", autoencoder=options.out, preset=preset, out="PIXEL", **images)
    options.train(
        task,
        train_config,
        {
            "command": command,
            "data": data,
            "split": split,
            "images": len(source),
            **({"features": str(features)} if features else {}),
            "encoder": recorded(built.config),
            "model": recorded(model_config),
            "autoencoder": recorded(stage),
        },
        after=f"{pixel}{remark}, or {command_line('encode', model=options.out, out='LATENTS', **images)}",
    )
