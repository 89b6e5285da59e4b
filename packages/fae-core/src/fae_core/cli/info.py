"""`fae info`: what a preset or a folder is, without building weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    target: Annotated[
        str, typer.Argument(help="Name of a preset or bundle, or a model, run, bundle or latent-store folder.")
    ],
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="Also estimate what training takes on so many GPUs (presets only)."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Global; default: the preset's own.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="In an epoch; default: ImageNet.")] = 1_281_167,
    gpu_memory: Annotated[float, typer.Option("--gpu-memory", min=1, help="Of each GPU, in GB.")] = 80,
    tflops: Annotated[float, typer.Option("--tflops", min=1, help="Peak of a GPU; default: H100, dense bf16.")] = 989,
    utilisation: Annotated[
        float,
        typer.Option("--utilisation", min=0.01, max=1, help="Share of the peak that training is assumed to reach."),
    ] = 0.4,
    rate: Annotated[
        float | None,
        typer.Option("--samples-per-second", min=0, help="Measured, of all GPUs together: replaces the assumption."),
    ] = None,
) -> None:
    """Describe a preset or a folder: type, latent space, parameters (counted on the meta device).

    Example: fae info lightningdit-xl --gpus 8
    """
    for name, value in describe(target).items():
        typer.echo(f"{name:<22}{value}")
    if gpus is not None:
        lines = _training_lines(target, gpus, batch_size, samples, gpu_memory, tflops, utilisation, rate)
        typer.echo("\n" + "\n".join(lines))


def _training_lines(
    preset: str,
    gpus: int,
    batch_size: int | None,
    samples: int,
    gpu_memory: float,
    tflops: float,
    utilisation: float,
    rate: float | None,
) -> list[str]:
    """What training takes, as a table and the assumptions under it."""
    from fae_core.cost import estimate, measure_cost, with_measured_rate
    from fae_core.presets import load_preset

    settings = load_preset(preset)
    batch = batch_size or settings.get("training", {}).get("batch_size") or 256
    build = _builder(preset)
    cost = measure_cost(build)
    lines = [
        f"a sample: {cost.forward_flops / 1e9:,.1f} GFLOPs forward, {cost.backward_flops / 1e9:,.1f} backward; "
        f"{cost.activations / 1e6:,.0f} MB kept for backward"
        + (f", {cost.checkpointed / 1e6:,.0f} MB with gradient checkpointing" if cost.checkpointed is not None else ""),
        f"training on {gpus} GPUs of {gpu_memory:g} GB, {batch} samples a step, epochs of {samples:,}:",
        f"{'':<22}{'state':>8}{'+ activations':>15}{'= GB a GPU':>12}{'fits':>6}{'most a GPU':>12}{'GPU-hours an epoch':>20}",
    ]
    for parallel in ("ddp", "fsdp") if gpus > 1 else ("ddp",):
        for checkpointing in (False, True) if cost.checkpointed is not None else (False,):
            found = estimate(
                cost,
                gpus=gpus,
                batch_size=batch,
                samples=samples,
                parallel=parallel,
                gradient_checkpointing=checkpointing,
                gpu_memory=gpu_memory,
                flops_per_second=tflops * 1e12 * utilisation,
            )
            if rate:
                found = with_measured_rate(found, samples, gpus, rate)
            name = f"{parallel}{', checkpointing' if checkpointing else ''}"
            fits = "yes" if found.total <= gpu_memory else "no"
            lines.append(
                f"{name:<22}{found.state:>8.1f}{found.activations:>15.1f}{found.total:>12.1f}{fits:>6}"
                f"{found.largest_batch:>12,}{found.gpu_hours_per_epoch:>20.1f}"
            )
    time = (
        f"{rate:g} samples a second as measured"
        if rate
        else f"{utilisation:.0%} of {tflops:g} TFLOP/s (an assumption; --samples-per-second takes a measured rate)"
    )
    lines.append(f"assumed: weights, AdamW and average in fp32, activations in bf16, no fragmentation; time: {time}")
    return lines


def describe(target: str) -> dict[str, Any]:
    """The facts that `fae info` prints, by name. Raises FAEError's subclasses for what does not exist."""
    from fae_core.bundle.lookup import bundle_folders, is_bundle

    folder = Path(target)
    if not folder.is_dir() and target in bundle_folders():
        folder = bundle_folders()[target]
    if is_bundle(folder):
        return _describe_bundle(folder)
    if folder.is_dir():
        return _describe_folder(folder)
    return _describe_preset(target)


def _describe_bundle(folder: Path) -> dict[str, Any]:
    from fae_core.bundle.lookup import PARTS, bundle_part, read_bundle
    from fae_core.spec import LatentSpec

    record = read_bundle(folder)
    parts = {part: f"{record[part].get('type')}, {record[part].get('parameters', 0):,} parameters" for part in PARTS}
    spec = LatentSpec.load(bundle_part(folder, "tokenizer"))
    weights = {"weights in": record.get("dtype"), "card": folder / "README.md"}
    return {"bundle": folder, "description": record.get("description"), **parts, **weights, **_describe_spec(spec)}


def _describe_preset(name: str) -> dict[str, Any]:
    import torch

    from fae_core.presets import load_preset

    preset = load_preset(name)
    with torch.device("meta"):
        model = _builder(name)()
    facts = {"preset": name, "description": preset.get("description", ""), **_describe_model(model)}
    if "paper" in preset:
        facts["paper"] = f"{preset['paper'].get('printed')} ({preset['paper'].get('where')})"
    return facts


def _builder(preset: str) -> Callable[..., Any]:
    """What makes the model of a preset, given fields of its config that are to differ."""
    from fae_core.errors import UnknownName
    from fae_core.plugins import load_plugins
    from fae_core.presets import load_preset

    model_type = load_preset(preset).get("model_type")
    models = load_plugins("fae.models")
    if model_type not in models:
        raise UnknownName("model type", str(model_type), models)
    return functools.partial(models[model_type].load().from_preset, preset)


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
