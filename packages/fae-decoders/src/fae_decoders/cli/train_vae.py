"""`fae train vae`: a convolutional KL autoencoder from scratch, the baseline tokenizer."""

from __future__ import annotations

from typing import Annotated

import typer

from fae_core.cli.options import Split, TrainData, check_places
from fae_core.cli.training_options import TrainingOptions, training_command, training_config
from fae_core.config.limits import LARGEST_SIDE

DEFAULT_PRESET = "conv-vae-cifar10"


@training_command(f"{DEFAULT_PRESET}, for small images", "conv-vae")
def train_vae(
    options: TrainingOptions,
    data: TrainData,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, max=LARGEST_SIDE, help="Pixels a side; as --set model.image_size=N."),
    ] = None,
    split: Split = None,
) -> None:
    """Train a convolutional KL autoencoder on images: a tokenizer that `fae encode` and `fae sample` take as they take
    an FAE.

    Images of another size are resized. Sections of --set and --config: model, vae (beta, losses, alignment, data),
    training.

    Example: fae train vae --data IMAGES --preset conv-vae-cifar10 --out runs/vae
    """
    options.check_folder()
    from fae_core.cli.defaults import image_size_at_hand, made_for
    from fae_core.commands.running import command_line
    from fae_core.config import parse_config
    from fae_core.models.build import seeded
    from fae_decoders.baselines.config import ConvVAEConfig
    from fae_decoders.cli.stage import recorded, stage_settings
    from fae_decoders.stages.config import VAEConfig

    settings = stage_settings(
        "conv-vae",
        ("vae",),
        "vae",
        options.preset_or(DEFAULT_PRESET),
        options.config,
        [*([f"model.image_size={image_size}"] if image_size else []), *(options.overrides or [])],
        options.training,
    )
    train_config = training_config(settings["training"])
    stage = parse_config(VAEConfig, settings["vae"], "vae settings")
    model = parse_config(ConvVAEConfig, settings["model"], "model settings")
    check_places(data=data)
    command = "fae train vae"
    options.require_started_with({"command": command}, training=train_config, vae=stage, model=model)
    if options.relaunched():
        return
    source = options.images(data, split)
    from fae_decoders.baselines.conv_vae import ConvVAE
    from fae_decoders.stages.vae import VAETask

    options.require_suited(DEFAULT_PRESET, made_for({"model": model.model_dump()}))
    if image_size is None:
        options.require_suited(DEFAULT_PRESET, image_size_at_hand(source))
    images = {"data": data, "split": split}
    with options.building():
        task = seeded(train_config.seed, lambda: VAETask(ConvVAE(model), source, stage))
    options.train(
        task,
        train_config,
        {
            "command": command,
            "data": data,
            "split": split,
            "images": len(source),
            "model": recorded(model),
            "vae": recorded(stage),
        },
        after=f"{command_line('encode', model=options.out, out='LATENTS', **images)}, "
        f"or {command_line('reconstruct', model=options.out, out='RECONSTRUCTION', **images)}",
    )
