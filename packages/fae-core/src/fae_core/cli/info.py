"""`fae info`: what a preset or a folder is, without building weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    target: Annotated[str, typer.Argument(help="A preset's name, or a model, run or latent-store folder.")],
) -> None:
    """Describe a preset or a folder: type, latent space, parameters (counted on the meta device).

    Example: fae info lightningdit-xl
    """
    for name, value in describe(target).items():
        typer.echo(f"{name:<22}{value}")


def describe(target: str) -> dict[str, Any]:
    """The facts that `fae info` prints, by name. Raises FAEError's subclasses for what does not exist."""
    folder = Path(target)
    if folder.is_dir():
        return _describe_folder(folder)
    return _describe_preset(target)


def _describe_preset(name: str) -> dict[str, Any]:
    import torch

    from fae_core.errors import UnknownName
    from fae_core.plugins import load_plugins
    from fae_core.presets import load_preset

    preset = load_preset(name)
    models = load_plugins("fae.models")
    if preset.get("model_type") not in models:
        raise UnknownName("model type", str(preset.get("model_type")), models)
    with torch.device("meta"):
        model = models[preset["model_type"]].load().from_preset(name)
    facts = {"preset": name, "description": preset.get("description", ""), **_describe_model(model)}
    if "paper" in preset:
        facts["paper"] = f"{preset['paper'].get('printed')} ({preset['paper'].get('where')})"
    return facts


def _describe_folder(folder: Path) -> dict[str, Any]:
    from fae_core.hub import read_config, resolve_model_folder
    from fae_core.latent_store import LatentStore
    from fae_core.spec import FILE_NAME, LatentSpec

    if (folder / "index.json").is_file():
        store = LatentStore(folder)
        return {"latent store": folder, "samples": len(store), **_describe_spec(store.spec)}
    model_folder = resolve_model_folder(folder)
    stored = read_config(model_folder)
    facts = {
        "model": model_folder,
        "type": stored.get("model_type"),
        "written by": f"{stored.get('package')} {stored.get('version')}",
    }
    if (model_folder / FILE_NAME).is_file():
        facts.update(_describe_spec(LatentSpec.load(model_folder)))
    return facts


def _describe_model(model: Any) -> dict[str, Any]:
    facts = {"type": model.model_type, "parameters": f"{sum(p.numel() for p in model.parameters()):,}"}
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if f"{trainable:,}" != facts["parameters"]:
        facts["trainable"] = f"{trainable:,}"
    return {**facts, **(_describe_spec(model.spec) if getattr(model, "spec", None) is not None else {})}


def _describe_spec(spec: Any) -> dict[str, Any]:
    return {
        "latents": f"{spec.channels} x {spec.height} x {spec.width}",
        "images": f"{spec.image_shape[0]} x {spec.image_shape[1]} pixels",
        "backbone": spec.backbone,
        "normalised": "per channel" if spec.is_normalized else "no statistics yet",
        "fingerprint": spec.fingerprint or "none",
    }
