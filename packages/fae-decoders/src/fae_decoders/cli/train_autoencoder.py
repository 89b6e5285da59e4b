"""`fae train autoencoder`: stage Ia."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import Survey
from fae_core.cli.training_options import TrainingOptions, training_command

Data = Annotated[str, typer.Option("--data", help='Image folder, .parquet, .npz, or "photographs".')]
Split = Annotated[str | None, typer.Option("--split", help="Part of the data, such as train.")]
Encoder = Annotated[
    str | None, typer.Option("--encoder", help="Encoder preset, or folder of an encoder or FAE; default: the preset's.")
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help='Of the backbone: "pretrained", "pip", "random" or a file; default: the preset\'s.'),
]
Features = Annotated[
    Path | None,
    typer.Option("--features", help="Features of the same images, encoded before with an identity adapter."),
]


@training_command("feature-decoder-demo", "feature-decoder")
def train_autoencoder(
    options: TrainingOptions,
    data: Data,
    encoder: Encoder = None,
    weights: Weights = None,
    features: Features = None,
    split: Split = None,
    survey: Survey = None,
) -> None:
    """Train the adapter and the feature decoder on features of a frozen backbone (stage Ia).

    Sections of --set and --config: model (the feature decoder), encoder, autoencoder (beta, cosine, data, ...),
    training.

    Example: fae train autoencoder --data IMAGES --out runs/autoencoder --set autoencoder.beta=0.003
    """
    from fae_core.cli.launch import relaunched

    options.check_folder()
    if relaunched(options.processes):
        return
    from fae_core.config import parse_config, require_fields
    from fae_core.images import readable_source
    from fae_core.models.build import seeded
    from fae_core.training import TrainConfig
    from fae_decoders.cli.stage import (
        build_encoder,
        known_features,
        recorded,
        stage_settings,
    )
    from fae_decoders.fae.feature_decoder import FeatureDecoder, FeatureDecoderConfig
    from fae_decoders.stages import AutoencoderConfig, AutoencoderTask
    from fae_decoders.stages.autoencoder import training_spec

    settings = stage_settings(
        "feature-decoder",
        ("autoencoder",),
        "autoencoder",
        options.preset_or("feature-decoder-demo"),
        options.config,
        options.overrides,
        options.training,
        encoder,
    )
    train_config = parse_config(TrainConfig, settings["training"], "training settings")
    stage = parse_config(AutoencoderConfig, settings["autoencoder"], "autoencoder settings")
    require_fields(FeatureDecoderConfig, settings["model"], "model settings")
    source = readable_source(data, split, survey)
    built = seeded(train_config.seed, lambda: build_encoder(settings["encoder"], weights))
    model = {**settings["model"], "feature_dim": built.backbone.dim}
    model_config = parse_config(FeatureDecoderConfig, model, "model settings")
    decoder = seeded(train_config.seed, lambda: FeatureDecoder(model_config, training_spec(built.spec)))
    options.train(
        AutoencoderTask(built, decoder, source, stage, known_features(features, built, source)),
        train_config,
        {
            "command": "fae train autoencoder",
            "data": data,
            "split": split,
            "images": len(source),
            **({"features": str(features)} if features else {}),
            "encoder": recorded(built.config),
            "model": recorded(model_config),
            "autoencoder": recorded(stage),
        },
        after=f"fae train pixel --stage noise --autoencoder {options.out} --data {data} --out PIXEL, "
        f"or fae encode --model {options.out} --data {data} --out LATENTS",
    )
