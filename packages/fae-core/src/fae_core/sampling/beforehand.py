"""What is asked of a generator and a decoder, checked by their files before torch is imported and weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError
from fae_core.files import read_json
from fae_core.folders import SAMPLES_RECORD
from fae_core.images.classes import chosen_classes
from fae_core.models.sample_options import check_early, without_speed
from fae_core.models.stored import StoredModel, require_pair, stored_model
from fae_core.redact import redact_values

DRAWN = ("equal", "random")  # labels that are no list of classes


def check_drawing(
    generator: str | Path,
    decoder: str | Path,
    *,
    labels: str = "equal",
    prompts: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> StoredModel | None:
    """Check what samples are asked for. What only loading tells, as of a hub repository, is not checked.

    Args:
        generator: Where it is: a folder, a run, a checkpoint, a bundle or a repository.
        decoder: The same of the tokenizer.
        labels: As `draw_labels` takes them.
        prompts: Texts; labels choose among these then.
        options: Of the generator's `sample`.

    Returns:
        The generator as its files describe it; None for a hub repository.

    Raises:
        LatentSpecMismatch: They are for different latents.
        InvalidSettings: The generator has no such option, or a value is wrong.
        FAEError: There is no such model or class, or the tokenizer cannot decode.
    """
    drawn = stored_model("generator", generator)
    require_pair(drawn, stored_model("tokenizer", decoder))
    if drawn is not None:
        check_early(drawn.point.name, options or {}, drawn)
        _check_prompts(drawn.source, getattr(drawn.config, "takes_prompts", None), bool(prompts))
    names, count = (None, len(prompts)) if prompts else _classes(drawn)
    if labels not in DRAWN and count is not None:
        chosen_classes(labels, names, count)
    return drawn


def _check_prompts(source: str, taken: bool | None, given: bool) -> None:
    """Raise FAEError where a generator is given prompts that it does not take, or needs; `taken` None: not known."""
    if taken is False and given:
        raise FAEError(f"{source} does not draw what a text says; leave --prompts out")
    if taken and not given:
        raise FAEError(f"{source} draws what a text says; give --prompts, a file with one prompt per line")


def job_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides images beside the models, as samples.json holds it: without secrets.

    Args:
        settings: count, labels, guidance, seed, options and prompts, by name.
    """
    return json.loads(json.dumps(redact_values(dict(settings))))


def require_same_job(out: Path, settings: Mapping[str, Any], generator: Any) -> None:
    """Check that a folder of samples was begun with the same settings; one that is not begun is none to compare.

    Options that only change how fast samples are drawn may differ.

    Args:
        out: The folder.
        settings: As `job_settings` gives them, or a part of them.
        generator: A Generator or its model_type, as `without_speed` takes it.

    Raises:
        InvalidFile: Its samples.json is damaged.
        FAEError: It was begun with others.
    """
    if not (out / SAMPLES_RECORD).is_file():
        return
    before = read_json(out / SAMPLES_RECORD).get("job")
    if isinstance(before, dict):
        then, now = (without_speed(one, generator) for one in (before, settings))
        if all(then.get(name) == value for name, value in now.items()):
            return
    raise FAEError(f"{out} was started with other settings; use a new --out")


def all_names(names: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """The names of `count` classes by label, numbers where fewer have names; None where none has."""
    return None if names is None else (*names, *map(str, range(len(names), count)))


def _classes(drawn: StoredModel | None) -> tuple[tuple[str, ...] | None, int | None]:
    """The names of a generator's classes and how many there are; None for what is not known."""
    if drawn is None or drawn.classes is None:
        return None, None
    return all_names(drawn.class_names, drawn.classes), drawn.classes
