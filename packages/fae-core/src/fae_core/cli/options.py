"""Options that several commands share, so that one thing has one name, one range and one check everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.config.limits import LARGEST_BATCH, LARGEST_SEED, MOST_PROCESSES, SMALLEST_SEED
from fae_core.errors import InvalidFile


def _existing(device: str | None) -> str | None:
    """The device as given, once it is known to be there; torch is loaded to look for it only where there is a GPU."""
    from fae_core.machine import gpu_number, has_driver, no_gpu

    if device is not None and gpu_number(device) is not None:
        if not has_driver():
            raise no_gpu(device)
        from fae_core.processes import resolve_device

        resolve_device(device)
    return device


def images_there(data: str | None) -> str | None:
    """The place of images as given, once it is known that something is there. No image is looked at."""
    if data is not None:
        from fae_core.images.open import require_source

        require_source(data)
    return data


def model_there(source: str | None) -> str | None:
    """The place of a model as given, once it is known that there is one, here or on the hub."""
    if source is not None:
        from fae_core.models.sources import found_on_hub

        found_on_hub(source)
    return source


def generator_there(source: str | None) -> str | None:
    """As `model_there`, where it has to be a generator."""
    if source is not None:
        from fae_core.models.stored import stored_model

        stored_model("generator", source)
    return source


def tokenizer_there(source: str | None) -> str | None:
    """As `model_there`, where it has to be a tokenizer."""
    if source is not None:
        from fae_core.models.stored import stored_model

        stored_model("tokenizer", source)
    return source


def decoder_there(source: str | None) -> str | None:
    """As `model_there`, where it has to be a tokenizer that turns latents into images."""
    if source is not None:
        from fae_core.models.stored import require_pair, stored_model

        require_pair(None, stored_model("tokenizer", source))
    return source


def path_there(path: Path | list[Path] | None) -> Any:
    """The path of a file or folder, or several, as given, once it is known that something is there."""
    for one in path if isinstance(path, list) else [] if path is None else [path]:
        try:
            found = one.exists()
        except (OSError, ValueError):  # a name that is too long, or holds a zero byte
            found = False
        if not found:
            raise InvalidFile(f"{one} does not exist")
    return path


def encoder_there(source: str | None) -> str | None:
    """As `model_there`, where the name of an encoder's preset will do, too."""
    from fae_core.models.presets import load_preset
    from fae_core.models.sources import may_be_preset

    if source is not None and may_be_preset(source):
        load_preset(source, "fae-encoder")
        return source
    return tokenizer_there(source)


def _store_there(folder: Path | None) -> Path | None:
    """The folder of a latent store as given, once its index is known to be whole. No latents are looked at."""
    if folder is not None:
        from fae_core.latent_store.format import read_index

        read_index(folder)
    return folder


_PLACES: dict[str, Callable[[Any], Any]] = {
    "data": images_there,
    "latents": _store_there,
    "features": _store_there,
    "tokenizer": tokenizer_there,
    "decoder": decoder_there,
    "autoencoder": tokenizer_there,
    "init": model_there,
    "encoder": encoder_there,
    "reference": encoder_there,
}


def check_places(**places: Any) -> None:
    """Check the places that a training command is given, once its settings are known to be right.

    Args:
        places: By the names of the command's options; None for one that was not given.
    """
    for name, place in places.items():
        _PLACES[name](place)


def _setting(example: str, what: str = "setting") -> Any:
    """The option --set, with an example that the command takes."""
    return typer.Option("--set", metavar="KEY=VALUE", help=f"Override one {what}, e.g. {example}.")


# Places and names are checked before torch is loaded, which takes longer than all else: as options are read, or by
# `check_places`.
_SEED = typer.Option("--seed", min=SMALLEST_SEED, max=LARGEST_SEED, help="Fixes every random choice.")

Out = Annotated[Path, typer.Option("--out", help="Folder to write; must be new unless --overwrite or --resume.")]
NewOut = Annotated[Path, typer.Option("--out", help="Folder to write; must be new unless --overwrite.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue where an interrupted call stopped.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the resolved settings, what would be read and written, and the cost; make nothing."
    ),
]
Seed = Annotated[int, _SEED]
Device = Annotated[
    str | None,
    typer.Option(  # eager, as a place is wrong for one device as for another
        "--device", is_eager=True, callback=_existing, help="cpu, cuda or cuda:N; cuda where there is one."
    ),
]
Processes = Annotated[
    int,
    typer.Option("--processes", min=1, max=MOST_PROCESSES, help="Processes on this machine (torchrun for several)."),
]
BatchSize = Annotated[
    int,
    typer.Option("--batch-size", min=1, max=LARGEST_BATCH, help="Samples at a time; changes speed, not results."),
]
Config = Annotated[
    Path | None, typer.Option("--config", callback=path_there, help="YAML file with model and training sections.")
]
Set = Annotated[list[str] | None, _setting("training.steps=500")]
SetSampling = Annotated[list[str] | None, _setting("steps=8", "option of the generator's `sample`")]
SetEncoder = Annotated[list[str] | None, _setting("encoder.image_size=256", "setting of the preset")]
SetVariable = Annotated[list[str] | None, _setting("data=photographs", "of the recipe's variables")]
Data = Annotated[
    str, typer.Option("--data", callback=images_there, help='Image folder, .parquet, .npz, or "photographs".')
]
TrainData = Annotated[str, typer.Option("--data", help='Image folder, .parquet, .npz, or "photographs".')]
Generator = Annotated[
    str,
    typer.Option(
        "--generator",
        callback=generator_there,
        help="Run folder, checkpoint, model folder or hub id of a generator.",
    ),
]
Decoder = Annotated[
    str,
    typer.Option(
        "--decoder", callback=decoder_there, help="Run folder, model folder or hub id of a tokenizer that decodes."
    ),
]
Latents = Annotated[Path | None, typer.Option("--latents", help="Latent store, as `fae encode` writes it.")]
Split = Annotated[str | None, typer.Option("--split", help="Part of the data, such as train.")]
Survey = Annotated[
    Path | None,
    typer.Option(
        "--survey",
        callback=path_there,
        help="Report of `fae check` on the images: broken ones are left out from the start.",
    ),
]
Section = Annotated[
    str | None,
    typer.Option("--section", help="Part of the checkpoint's file to take; by default ema, then model."),
]
Variant = Annotated[
    str | None,
    typer.Option("--variant", help="Of a folder's weights, such as fp16; default: the plain ones, or the only ones."),
]
Spec = Annotated[
    Path | None,
    typer.Option("--spec", callback=path_there, help="Latent store, model folder or latent_spec.json to bind it to."),
]
LiveData = Annotated[
    str | None, typer.Option("--data", help="Instead of --latents: images, encoded in every step (with --tokenizer).")
]
LiveTokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", callback=model_there, help="What encodes --data: a run or model folder, or hub id."),
]
LiveFlip = Annotated[
    bool,
    typer.Option("--flip", help="Mirror half of the images of --data; of --latents, `fae encode --flip` does."),
]

Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        callback=model_there,
        help="Begin with the weights of this generator, which gives the model's settings, too, but for those of "
        "--config and --set model...: a run, model, bundle or hub id. --preset then gives those of training alone.",
    ),
]

# Of training; each overrides one setting of the section `training`.
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Updates; as --set training.steps=N.")]
TrainBatch = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, max=LARGEST_BATCH, help="Samples per update, over all processes."),
]
TrainSeed = Annotated[int | None, _SEED]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="NAME", help="Show the run in tensorboard, wandb or trackio, too; repeatable."),
]
