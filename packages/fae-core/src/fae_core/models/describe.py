"""What a preset, a bundle or a folder is, in facts by name: what `fae info` and `fae presets` print."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fae_core.commands.running import command_line
from fae_core.errors import FAEError, InvalidFile, UnknownName, first_line
from fae_core.files import read_json, read_yaml
from fae_core.files.ownership import kind_of
from fae_core.folders import (
    BUNDLE_PARTS,
    CACHE_INDEX,
    CHECKPOINT_STATE,
    LATENT_SPEC,
    MODEL_CONFIG,
    README,
    RECIPE_STEPS,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_MODEL,
    SAMPLES_RECORD,
    STORE_INDEX,
)
from fae_core.models.bundles import bundle_folders, bundle_part, is_bundle, read_bundle
from fae_core.models.presets import load_preset
from fae_core.models.sources import resolve_model_folder
from fae_core.models.stored import numbered
from fae_core.plugins import load_plugins


def describe(target: str | Path) -> dict[str, Any]:
    """What `fae info` prints of a preset, a bundle or a folder. No weights are built.

    Args:
        target: Name of a preset or bundle, or a model's folder, or one of any kind that FAE made.

    Returns:
        Values by the names that are printed.

    Raises:
        FAEError: There is no such thing, or a file in it is damaged.
    """
    folder = Path(target)
    if not folder.is_dir() and str(target) in bundle_folders():
        folder = bundle_folders()[str(target)]
    if is_bundle(folder):
        return _describe_bundle(folder)
    if folder.is_dir():
        return _describe_folder(folder)
    return _describe_preset(str(target))


def preset_class(preset: str) -> Any:
    """The class of a preset's model. Raises UnknownName where no installed package has it."""
    model_type = load_preset(preset).get("model_type")
    models = load_plugins("fae.models")
    if model_type not in models:
        raise UnknownName("model type", str(model_type), models)
    return models[model_type].load()


def preset_builder(preset: str) -> Callable[..., Any]:
    """A function that builds the model of a preset, given changed fields of its config."""
    return functools.partial(preset_class(preset).from_preset, preset)


def _describe_bundle(folder: Path) -> dict[str, Any]:
    from fae_core.spec import LatentSpec

    record = read_bundle(folder)
    parts: dict[str, Any] = {
        part: f"{record[part].get('type')}, {record[part].get('parameters', 0):,} parameters" for part in BUNDLE_PARTS
    }
    parts["parameters"] = sum(record[part].get("parameters", 0) for part in BUNDLE_PARTS)
    spec = LatentSpec.load(bundle_part(folder, "tokenizer"))
    weights = {"weights in": record.get("dtype"), "card": folder / README}
    return {"bundle": folder, "description": record.get("description"), **parts, **weights, **spec.facts()}


def _describe_preset(name: str) -> dict[str, Any]:
    from fae_core.config import parse_config
    from fae_core.models.configs import config_class_of
    from fae_core.spec import LatentSpec

    preset = load_preset(name)  # and its settings, before torch, which takes longer to load than all else here
    parse_config(config_class_of(preset["model_type"]), preset.get("model", {}), f"preset {name}")
    if "spec" in preset:
        LatentSpec.from_dict(preset["spec"], f"preset {name}")
    import torch

    from fae_core.models.shown import model_facts

    with torch.device("meta"):
        try:
            model = preset_builder(name)()
        except FAEError:
            raise
        except Exception as error:  # the preset's package may raise anything
            lack = "" if "spec" in preset else "; it has no section `spec`, the latent space to build it for"
            raise FAEError(
                f"preset {name} cannot be built: {type(error).__name__}: {first_line(error)}{lack}"
            ) from error
    facts = {"preset": name, "description": preset.get("description", ""), **model_facts(model)}
    if "paper" in preset:
        facts["paper"] = f"{preset['paper'].get('printed')} ({preset['paper'].get('where')})"
    return facts


def _describe_folder(folder: Path) -> dict[str, Any]:
    kind = kind_of(folder)
    if kind in ("latent store", None) and (folder / STORE_INDEX).is_file():
        from fae_core.latent_store import LatentStore

        store = LatentStore(folder)
        return {"latent store": folder, "samples": len(store), **store.spec.facts()}
    if kind not in _OTHERS or (folder / RUN_MODEL / MODEL_CONFIG).is_file():
        return _describe_model(resolve_model_folder(folder))
    try:
        return {kind: folder, **_OTHERS[kind](folder)}
    except (KeyError, TypeError, AttributeError):
        raise InvalidFile(f"{folder} is marked as {kind}, but its record is damaged") from None


def _describe_model(folder: Path) -> dict[str, Any]:
    from fae_core.spec import LatentSpec

    stored = read_json(folder / MODEL_CONFIG)
    facts = {
        "model": folder,
        "type": stored.get("model_type"),
        "written by": f"{stored.get('package')} {stored.get('version')}",
    }
    if (folder / LATENT_SPEC).is_file():
        facts.update(LatentSpec.load(folder).facts())
    return facts


def _run_without_model(folder: Path) -> dict[str, Any]:
    settings = read_yaml(folder / RUN_CONFIG)
    done, last = max(numbered(folder / RUN_CHECKPOINTS), default=0), settings["training"]["steps"]
    words = str(settings.get("command")).removeprefix("fae ")
    again = {"to go on": command_line(words, out=folder, resume=True)} if words.startswith("train ") else _UNFINISHED
    return {"step": f"{done} of {last}", **again}


def _checkpoint(folder: Path) -> dict[str, Any]:
    state = read_json(folder / CHECKPOINT_STATE, max_bytes=_LARGEST)
    return {"step": state["step"], "made by": state.get("command")}


def _samples(folder: Path) -> dict[str, Any]:
    record = read_json(folder / SAMPLES_RECORD, max_bytes=_LARGEST)
    facts = {name: record["job"].get(name) for name in ("count", "generator", "decoder", "seed")}
    return facts if "provenance" in record else {**facts, **_UNFINISHED}


def _recipe(folder: Path) -> dict[str, Any]:
    record = read_json(folder / RECIPE_STEPS, max_bytes=_LARGEST)
    done = [str(step.get("name")) for step in record["steps"] if isinstance(step, dict)]
    return {"title": record["title"], "steps done": ", ".join(done) or "none"}


def _text_cache(folder: Path) -> dict[str, Any]:
    index = read_json(folder / CACHE_INDEX)
    return {name: index.get(name) for name in ("encoder", "prompts", "tokens", "width")}


_LARGEST = 2**28  # bytes of a record
_UNFINISHED = {"to go on": "the command that began it, with --resume"}
# What is said of folders that are no models, by their kind.
_OTHERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "run": _run_without_model,
    "checkpoint": _checkpoint,
    "samples": _samples,
    "recipe": _recipe,
    "text cache": _text_cache,
    "latent store": lambda folder: _UNFINISHED,
    "output": lambda folder: {"holds": ", ".join(sorted(path.name for path in folder.glob("[!.]*")))},
}
