"""`fae train autoencoder`: stage Ia."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fae_core.cli.options import (
    Config,
    Device,
    Out,
    Overwrite,
    Processes,
    Resume,
    Set,
    Steps,
    TrainBatch,
    TrainSeed,
)

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


def train_autoencoder(
    data: Data,
    out: Out,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Feature decoder preset; feature-decoder-demo by default.")
    ] = None,
    encoder: Encoder = None,
    weights: Weights = None,
    features: Features = None,
    split: Split = None,
    config: Config = None,
    overrides: Set = None,
    steps: Steps = None,
    batch_size: TrainBatch = None,
    seed: TrainSeed = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    device: Device = None,
    processes: Processes = 1,
) -> None:
    """Train the adapter and the feature decoder on features of a frozen backbone (stage Ia).

    Sections of --set and --config: model (the feature decoder), encoder, autoencoder (beta, cosine, data, ...), training.

    Example: fae train autoencoder --data IMAGES --out runs/autoencoder --set autoencoder.beta=0.003
    """
    from fae_core.cli.launch import relaunched
    from fae_core.commands.running import is_first_process
    from fae_decoders.cli.stage import check_run_folder

    check_run_folder(out, resume=resume, overwrite=overwrite)
    if relaunched(processes):
        return
    from fae_core.config import parse_config, require_fields
    from fae_core.images import readable_source
    from fae_core.models.build import seeded
    from fae_core.training import TrainConfig, train
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
        preset or (None if config else "feature-decoder-demo"),
        config,
        overrides,
        {"steps": steps, "batch_size": batch_size, "seed": seed},
        encoder,
    )
    train_config = parse_config(TrainConfig, settings["training"], "training settings")
    stage = parse_config(AutoencoderConfig, settings["autoencoder"], "autoencoder settings")
    require_fields(FeatureDecoderConfig, settings["model"], "model settings")
    source = readable_source(data, split)
    built = seeded(train_config.seed, lambda: build_encoder(settings["encoder"], weights))
    model = {**settings["model"], "feature_dim": built.backbone.dim}
    model_config = parse_config(FeatureDecoderConfig, model, "model settings")
    decoder = seeded(train_config.seed, lambda: FeatureDecoder(model_config, training_spec(built.spec)))
    train(
        AutoencoderTask(built, decoder, source, stage, known_features(features, built, source)),
        train_config,
        out,
        settings={
            "command": "fae train autoencoder",
            "data": data,
            "split": split,
            "images": len(source),
            **({"features": str(features)} if features else {}),
            "encoder": recorded(built.config),
            "model": recorded(model_config),
            "autoencoder": recorded(stage),
        },
        resume=resume,
        overwrite=overwrite,
        device=device,
    )
    if is_first_process():
        typer.echo(
            f"wrote {out}/model; next: fae train pixel --stage noise --autoencoder {out} --data {data} --out PIXEL, "
            f"or fae encode --model {out} --data {data} --out LATENTS"
        )
