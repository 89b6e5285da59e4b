"""What a preset, a bundle or a folder is, in facts by name: what `fae info` and `fae presets` print."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError, UnknownName, first_line
from fae_core.folders import BUNDLE_PARTS, LATENT_SPEC, MODEL_CONFIG, README, STORE_INDEX
from fae_core.models.bundles import bundle_folders, bundle_part, is_bundle, read_bundle
from fae_core.models.presets import load_preset
from fae_core.models.sources import resolve_model_folder
from fae_core.plugins import load_plugins


def describe(target: str | Path) -> dict[str, Any]:
    """What `fae info` prints of a preset, a bundle or a folder. No weights are built.

    Args:
        target: Name of a preset or bundle, or a model, run, bundle or latent-store folder.

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
    from fae_core.files import read_json
    from fae_core.spec import LatentSpec

    if (folder / STORE_INDEX).is_file():
        from fae_core.latent_store import LatentStore

        store = LatentStore(folder)
        return {"latent store": folder, "samples": len(store), **store.spec.facts()}
    model_folder = resolve_model_folder(folder)
    stored = read_json(model_folder / MODEL_CONFIG)
    facts = {
        "model": model_folder,
        "type": stored.get("model_type"),
        "written by": f"{stored.get('package')} {stored.get('version')}",
    }
    if (model_folder / LATENT_SPEC).is_file():
        facts.update(LatentSpec.load(model_folder).facts())
    return facts
