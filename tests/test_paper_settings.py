"""Presets and recipes have the settings that the paper prints, and the choices that were made where it prints nothing.

paper_settings.yaml has a row per statement. Settings are resolved as the commands resolve them: with all defaults, with
the stage's own section, and for sampling by name. Of a recipe every command of size paper is resolved.
"""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from paper_commands import STAGES, commands, generator_settings, leaves, tokenizer_settings, trained
from torch import nn

from fae_core.cli.settings import parse_overrides
from fae_core.files import read_yaml
from fae_core.models.presets import load_preset, preset_files
from fae_core.plugins import load_plugins
from fae_diffusion.samplers.config import NAMED, sampling_with

TABLE = read_yaml(Path(__file__).with_name("paper_settings.yaml"))
DIFFUSION = ("sit", "lightningdit", "mmdit")
# How a run is carried out, which does not change what it learns.
OPERATION = {
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "compile",
    "parallel",
    "gradient_checkpointing",
    "cache_gb",
}


def expanded(names: str | list[str]) -> list[str]:
    """Presets and steps by name, for names, patterns of RECIPE/STEP, and groups."""
    if isinstance(names, list):
        return [name for part in names for name in expanded(part)]
    if names in TABLE["groups"]:
        return expanded(TABLE["groups"][names])
    return [name for name in commands() if fnmatchcase(name, names)] if "/" in names else [names]


@functools.cache
def rows() -> dict[str, list[dict[str, Any]]]:
    """The rows of each preset and step."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in TABLE["rows"]:
        for name in dict.fromkeys(expanded(row["of"])):
            found.setdefault(name, []).append(row)
    return found


PRESETS = [name for name in rows() if "/" not in name]
STEPS = [name for name in rows() if "/" in name]


@functools.cache
def built(preset: str) -> nn.Module:
    with torch.device("meta"):
        return load_plugins("fae.models")[load_preset(preset)["model_type"]].load().from_preset(preset)


def resolve(preset: str) -> dict[str, Any]:
    """Everything that a row can name, of one preset."""
    content, model = load_preset(preset), built(preset)
    kind = content["model_type"]
    settings: dict[str, Any] = {"model": model.config.model_dump(mode="json"), "built": model}
    settings |= {name: content[name] for name in ("spec", "encoder", "parameters") if name in content}
    settings["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if "heads" in settings["model"] and settings["model"]["heads"]:
        settings["head_dim"] = settings["model"]["width"] // settings["model"]["heads"]
    if "training" in content and kind not in STAGES:
        settings |= generator_settings(kind, preset, [])
    for stage in STAGES.get(kind, {}):
        settings |= tokenizer_settings(kind, stage, preset, [])
        settings.setdefault("training", settings[stage]["training"])
    if kind in DIFFUSION:
        names = {name: type(model).named_sampling[name] for name in NAMED}
        of = model.config.sampling
        settings["sampling"] = {n: sampling_with(of, options).model_dump(mode="json") for n, options in names.items()}
    return settings


def resolve_step(name: str) -> dict[str, Any]:
    """Everything that a row can name, of one step of a recipe."""
    command = commands()[name]
    settings: dict[str, Any] = {"command": command.options, "variables": command.variables}
    return settings | (trained(command) if command.trains else {})


def value_at(settings: dict[str, Any], path: str) -> Any:
    """The value of a dotted path: keys of mappings, then attributes and indices of modules."""
    value: Any = settings
    for part in path.split("."):
        if isinstance(value, dict):
            value = value[part]
        else:
            value = value[int(part)] if part.isdigit() else getattr(value, part)
    if isinstance(value, nn.Module):
        return type(value).__name__
    return list(value) if isinstance(value, tuple) else value


def departures(name: str, settings: dict[str, Any]) -> list[str]:
    """What a preset or step has otherwise than its rows say."""
    return [
        f"{name}: {path} is {found!r}, and {row['at']} prints {row['prints']!r}: {wanted!r}"
        for row in rows()[name]
        for path, wanted in row["is"].items()
        if (found := value_at(settings, path)) != wanted
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_what_the_paper_prints_and_the_open_choices_as_stated(preset: str) -> None:
    assert departures(preset, resolve(preset)) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_recipe_has_what_the_paper_prints_and_the_open_choices_as_stated(step: str) -> None:
    assert departures(step, resolve_step(step)) == []


@pytest.mark.parametrize("step", [name for name, command in commands().items() if command.trains])
def test_a_recipe_trains_a_preset_of_the_table_and_what_it_changes_has_a_row(step: str) -> None:
    command, settings = commands()[step], resolve_step(step)
    preset = command.options["preset"]
    full = resolve(preset)
    own = {path for row in rows().get(step, []) for path in row["is"]}
    stated = {path for row in rows()[preset] for path in row["is"] if path.split(".")[0] in settings}
    stated |= {path for path in leaves(parse_overrides(command.overrides)) if path.split(".")[0] in settings}
    assert [p for p in sorted(stated - own) if value_at(settings, p) != value_at(full, p)] == []


def test_every_preset_of_the_paper_has_rows() -> None:
    stated = {name for name in preset_files() if "paper" in load_preset(name)}
    assert stated - set(PRESETS) == set()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_that_a_preset_of_the_paper_writes_has_a_row(preset: str) -> None:
    content = load_preset(preset)
    stages = STAGES.get(content["model_type"], {})
    written = {path for part in ("model", "training", "spec", *stages) for path in leaves(content.get(part, {}), part)}
    covered = {path for row in rows()[preset] for path in row["is"]}
    # Of a stage's resolved settings `training` is a part.
    covered |= {path.partition(".")[2] for path in covered if path.split(".")[0] in stages}
    missing = {path for path in written if path.split(".")[-1] not in OPERATION and path not in covered}
    assert missing == set()


def test_a_drifted_preset_is_found() -> None:
    settings = resolve("lightningdit-xl")
    settings["training"]["batch_size"] = 1024
    settings["sampling"]["paper-guided"]["steps"] = 50
    found = departures("lightningdit-xl", settings)
    assert [line.split(" is ")[0].split(": ")[1] for line in found] == [
        "training.batch_size",
        "sampling.paper-guided.steps",
    ]


def test_a_row_says_where_what_and_why() -> None:
    for row in TABLE["rows"]:
        status = row.get("status", "fixed")
        assert {"at", "prints", "of", "is"} <= row.keys() <= {"at", "prints", "of", "is", "status", "why"}, row
        assert status in ("fixed", "inferred", "open"), row
        assert ("why" in row) == (status != "fixed"), row
        assert row["prints"] != "-" or status != "fixed", row
        assert expanded(row["of"]), row
