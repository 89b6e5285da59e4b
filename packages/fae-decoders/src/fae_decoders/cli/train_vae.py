"""`fae train vae`: a convolutional KL autoencoder from scratch, the baseline tokenizer."""

from __future__ import annotations

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
from fae_core.config.limits import LARGEST_SIDE
from fae_decoders.cli.train_autoencoder import Data, Split

DEFAULT_PRESET = "conv-vae-cifar10"


def train_vae(
    data: Data,
    out: Out,
    preset: Annotated[
        str | None, typer.Option("--preset", help=f"See `fae presets conv-vae`; {DEFAULT_PRESET} by default.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, max=LARGEST_SIDE, help="Pixels a side; as --set model.image_size=N."),
    ] = None,
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
    """Train a convolutional KL autoencoder on images: a tokenizer that `fae encode` and `fae sample` take as they take an FAE.

    Images of another size are resized. Sections of --set and --config: model, vae (beta, losses, alignment, data), training.

    Example: fae train vae --data IMAGES --preset conv-vae-cifar10 --out runs/vae
    """
    from fae_core.cli.launch import relaunched
    from fae_core.commands.running import is_first_process
    from fae_decoders.cli.stage import check_run_folder

    check_run_folder(out, resume=resume, overwrite=overwrite)
    if relaunched(processes):
        return
    from fae_core.config import parse_config
    from fae_core.images import readable_source
    from fae_core.models.build import seeded
    from fae_core.training import TrainConfig, train
    from fae_decoders.baselines.conv_vae import ConvVAE, ConvVAEConfig
    from fae_decoders.cli.stage import recorded, stage_settings
    from fae_decoders.stages import VAEConfig, VAETask

    settings = stage_settings(
        "conv-vae",
        ("vae",),
        "vae",
        preset or (None if config else DEFAULT_PRESET),
        config,
        [*([f"model.image_size={image_size}"] if image_size else []), *(overrides or [])],
        {"steps": steps, "batch_size": batch_size, "seed": seed},
    )
    train_config = parse_config(TrainConfig, settings["training"], "training settings")
    stage = parse_config(VAEConfig, settings["vae"], "vae settings")
    model = parse_config(ConvVAEConfig, settings["model"], "model settings")
    source = readable_source(data, split)
    task = seeded(train_config.seed, lambda: VAETask(ConvVAE(model), source, stage))
    train(
        task,
        train_config,
        out,
        settings={
            "command": "fae train vae",
            "data": data,
            "split": split,
            "images": len(source),
            "model": recorded(model),
            "vae": recorded(stage),
        },
        resume=resume,
        overwrite=overwrite,
        device=device,
    )
    if is_first_process():
        typer.echo(
            f"wrote {out}/model; next: fae encode --model {out} --data {data} --out LATENTS, "
            f"or fae reconstruct --model {out} --data {data} --out RECONSTRUCTION"
        )
