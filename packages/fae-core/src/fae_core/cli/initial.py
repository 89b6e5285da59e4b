"""What `--init` names, as its files describe it: the settings and classes of a generator to begin with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fae_core.cli.settings import is_record, parse_overrides, resolve_settings
from fae_core.cli.training_options import TrainingOptions
from fae_core.config import merge
from fae_core.errors import DataError
from fae_core.files import read_yaml
from fae_core.models.sources import resolve_model_folder
from fae_core.models.stored import StoredModel, read_stored, stored_model


def stated_settings(options: TrainingOptions, sections: Collection[str]) -> dict[str, Any]:
    """What a user states by `--config` and `--set`; a preset's model is replaced by the generator to begin with.

    How many classes a run's own config.yaml has is no statement: they are those of its data.

    Args:
        options: Of the command.
        sections: As `resolve_settings` takes them.
    """
    stated = resolve_settings(None, options.config, None, sections=sections)
    if options.config is not None and is_record(read_yaml(options.config)):
        stated.get("model", {}).pop("classes", None)
    return merge(stated, parse_overrides(options.overrides))


def initial_generator(source: str, options: TrainingOptions, stated: Mapping[str, Any]) -> StoredModel:
    """What the files of a generator to begin with say.

    Args:
        source: What `--init` names.
        options: Of the command.
        stated: As `stated_settings` gives it.

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
    if (asked := stated.get("model_type", stored.point.name)) != stored.point.name:
        raise DataError(
            f"--init {source} is a {stored.point.name}, not a {str(asked)[:40]}; leave model_type out of --config and "
            "--set"
        )
    return stored


def initial_settings(initial: StoredModel, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Its model settings, under those that are stated. How many classes there are is for `same_labels` to say.

    Args:
        initial: The generator to begin with.
        stated: As `stated_settings` gives it.
    """
    settings = {name: value for name, value in initial.settings.items() if name != "classes"}
    return merge(settings, stated.get("model", {}))


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
