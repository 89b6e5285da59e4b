"""What `--init` names, as its files describe it: the settings and classes of a generator to begin with."""

from __future__ import annotations

from typing import Any

from fae_core.cli.settings import parse_overrides
from fae_core.cli.training_options import TrainingOptions
from fae_core.config import merge
from fae_core.errors import DataError
from fae_core.models.sources import resolve_model_folder
from fae_core.models.stored import StoredModel, read_stored, stored_model


def initial_generator(source: str, options: TrainingOptions) -> StoredModel:
    """What the files of a generator to begin with say.

    Args:
        source: What `--init` names.
        options: Of the command.

    Raises:
        DataError: Nothing says how to train it, or another type of model is asked for.
        FAEError: As `stored_model`.
    """
    if options.preset is None and options.config is None:
        raise DataError("--init gives the model's settings; name a --preset, or a --config, for those of training")
    stored = stored_model("generator", source)
    if stored is None:  # on the hub
        folder = resolve_model_folder(source, part="generator", parts=("",), weights=False)
        stored = read_stored("generator", source, folder)
    if (asked := parse_overrides(options.overrides).get("model_type", stored.point.name)) != stored.point.name:
        raise DataError(
            f"--init {source} is a {stored.point.name}, not a {str(asked)[:40]}; leave --set model_type out"
        )
    return stored


def initial_settings(initial: StoredModel, options: TrainingOptions) -> dict[str, Any]:
    """Its model settings, under those that `--set` names. How many classes there are is for `same_labels` to say.

    Args:
        initial: The generator to begin with.
        options: Of the command.
    """
    settings = {name: value for name, value in initial.settings.items() if name != "classes"}
    return merge(settings, parse_overrides(options.overrides).get("model", {}))


def same_labels(initial: StoredModel, model: dict[str, Any], data: Any) -> bool:
    """Whether the labels of the data mean what they mean to a generator to begin with, as far as one can know.

    Where both name their classes, the names decide, else how many there are; labels without names are taken as they
    are, but by a generator of one class.

    Args:
        initial: The generator to begin with.
        model: Model settings; `classes` in them is what the user said.
        data: What has `classes` and `labels`: a store or images.
    """
    if initial.classes is None:  # it knows no classes
        return True
    if "classes" in model:
        return model["classes"] == initial.classes
    if data.classes is None:
        return (data.labels is None) == (initial.classes == 1)
    if initial.class_names is None:
        return len(data.classes) == initial.classes
    return tuple(data.classes) == initial.class_names
