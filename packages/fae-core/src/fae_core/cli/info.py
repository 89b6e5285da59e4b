"""`fae info`: what a preset or a folder is, without building weights, and what its training takes."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.options import Device
from fae_core.commands.output import document, say
from fae_core.config.limits import LARGEST_BATCH
from fae_core.folders import BUNDLE_PARTS, LATENT_SPEC, README, STORE_INDEX


def info(
    target: Annotated[
        str, typer.Argument(help="Name of a preset or bundle, or a model, run, bundle or latent-store folder.")
    ],
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", min=1, max=1_000_000, help="Also estimate what training takes on so many GPUs (presets only)."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=10**9, help="Global; default: the preset's own.")
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, max=10**15, help="In an epoch; default: ImageNet.")
    ] = 1_281_167,
    gpu_memory: Annotated[float, typer.Option("--gpu-memory", min=1, max=1e6, help="Of each GPU, in GB.")] = 80,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops", min=1e-3, max=1e9, help="Peak of a device; default for estimates: H100, dense bf16 (989)."
        ),
    ] = None,
    utilisation: Annotated[
        float,
        typer.Option("--utilisation", min=0.01, max=1, help="Share of the peak that training is assumed to reach."),
    ] = 0.4,
    rate: Annotated[
        float | None,
        typer.Option(
            "--samples-per-second", min=1e-9, max=1e12, help="Measured, of all GPUs together: replaces the assumption."
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time training steps on this device: replaces the assumption.")
    ] = False,
    measure_batch: Annotated[
        int | None,
        typer.Option(
            "--measure-batch",
            min=1,
            max=LARGEST_BATCH,
            help="Samples a timed step; default: a GPU's share, 1 on a CPU.",
        ),
    ] = None,
    measure_blocks: Annotated[
        int | None,
        typer.Option(
            "--measure-blocks", min=1, max=10_000, help="Time so many identical blocks only; default: all that fit."
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=10_000, help="Timed steps, after one to warm up.")
    ] = 3,
    device: Device = None,
) -> None:
    """Describe a preset or a folder: type, latent space, parameters (counted on the meta device).

    Of a preset also its settings of model, training and the stages that train it, with those that it leaves to their
    defaults, and what each `fae sample --sampling NAME` takes.

    Example: fae info lightningdit-xl --gpus 8
    """
    from fae_core.models.presets import preset_files

    facts = describe(target)
    document(facts)
    for name, value in facts.items():
        say(f"{name:<22}{value}")
    if target in preset_files() and not Path(target).exists():
        facts["settings"] = resolved_settings(target)
        say("\n" + as_yaml(facts["settings"]))
        if named := named_sampling(target):
            facts["sampling"] = named
            say("# fae sample --sampling NAME\n" + as_yaml({"sampling": named}))
    if gpus is None and not measure:
        return
    from fae_core.cost import table as training_cost
    from fae_core.errors import FAEError
    from fae_core.models.presets import load_preset

    if measure and rate:
        raise FAEError("--measure and --samples-per-second both give the speed; choose one")
    build = _builder(target)
    batch = batch_size or load_preset(target).get("training", {}).get("batch_size") or 256
    about = training_cost.Assumptions(gpus or 1, batch, samples, gpu_memory, tflops, utilisation, rate)
    timed = None
    if measure:
        options = {"measure_batch": measure_batch, "blocks": measure_blocks, "repeats": repeats}
        timed = training_cost.measure(build, device, -(-batch // about.gpus), **options)
    facts["training"] = training_cost.training_lines(build, about, timed)
    say("\n" + "\n".join(facts["training"]))
    if timed is not None:
        peak = tflops or (training_cost.H100_TFLOPS if timed.precision == "bf16" else None)
        facts["measured"] = training_cost.measured_lines(timed, samples, about.gpus, peak)
        say("\n" + "\n".join(facts["measured"]))


def describe(target: str) -> dict[str, Any]:
    """The facts that `fae info` prints.

    Args:
        target: Name of a preset or bundle, or a model, run, bundle or latent-store folder.

    Returns:
        Values by the names that are printed.

    Raises:
        FAEError: There is no such thing, or a file in it is damaged.
    """
    from fae_core.models.bundles import bundle_folders, is_bundle

    folder = Path(target)
    if not folder.is_dir() and target in bundle_folders():
        folder = bundle_folders()[target]
    if is_bundle(folder):
        return _describe_bundle(folder)
    if folder.is_dir():
        return _describe_folder(folder)
    return _describe_preset(target)


def resolved_settings(preset: str) -> dict[str, Any]:
    """The settings of a preset: model, training and stages with their defaults, other sections as they stand.

    Args:
        preset: Its name.

    Raises:
        UnknownName: There is no such preset.
    """
    from fae_core.config import parse_config
    from fae_core.models.presets import DESCRIPTION, load_preset
    from fae_core.training import TrainConfig

    found = load_preset(preset)
    sections = {name: value for name, value in found.items() if name not in DESCRIPTION}
    model_class = _model_class(preset)
    stages = {name: pkgutil.resolve_name(where) for name, where in getattr(model_class, "stage_configs", {}).items()}
    for name, config_class in {"model": model_class.config_class, "training": TrainConfig, **stages}.items():
        if name in sections:
            fields = dict(sections[name])
            own = {"training": fields.pop("training")} if name in stages and "training" in fields else {}
            sections[name] = own | parse_config(config_class, fields, f"preset {preset}").model_dump(mode="json")
    return sections


def named_sampling(preset: str) -> dict[str, Any]:
    """What each name of `fae sample --sampling` takes for a preset, all fields; empty for a model without such names.

    Args:
        preset: Its name.

    Raises:
        UnknownName: There is no such preset.
    """
    from fae_core.config import parse_config
    from fae_core.models.presets import load_preset

    model_class = _model_class(preset)
    names: dict[str, dict[str, Any]] = getattr(model_class, "named_sampling", {})
    if not names:
        return {}
    fields = load_preset(preset).get("model", {})
    own = parse_config(model_class.config_class, fields, f"preset {preset}").sampling
    return {
        name: parse_config(type(own), {**own.model_dump(), **options}, f"sampling {name}").model_dump(mode="json")
        for name, options in names.items()
    }


def as_yaml(settings: dict[str, Any]) -> str:
    """Settings as YAML that --config reads, without a newline at its end.

    Args:
        settings: Sections by name.
    """
    import yaml

    return yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100).rstrip()


def _describe_bundle(folder: Path) -> dict[str, Any]:
    from fae_core.models.bundles import bundle_part, read_bundle
    from fae_core.spec import LatentSpec

    record = read_bundle(folder)
    parts = {
        part: f"{record[part].get('type')}, {record[part].get('parameters', 0):,} parameters" for part in BUNDLE_PARTS
    }
    spec = LatentSpec.load(bundle_part(folder, "tokenizer"))
    weights = {"weights in": record.get("dtype"), "card": folder / README}
    return {"bundle": folder, "description": record.get("description"), **parts, **weights, **_describe_spec(spec)}


def _describe_preset(name: str) -> dict[str, Any]:
    import torch

    from fae_core.errors import FAEError, first_line
    from fae_core.models.presets import load_preset

    preset = load_preset(name)
    with torch.device("meta"):
        try:
            model = _builder(name)()
        except FAEError:
            raise
        except Exception as error:  # the preset's package may raise anything
            lack = "" if "spec" in preset else "; it has no section `spec`, the latent space to build it for"
            raise FAEError(
                f"preset {name} cannot be built: {type(error).__name__}: {first_line(error)}{lack}"
            ) from error
    facts = {"preset": name, "description": preset.get("description", ""), **_describe_model(model)}
    if "paper" in preset:
        facts["paper"] = f"{preset['paper'].get('printed')} ({preset['paper'].get('where')})"
    return facts


def _builder(preset: str) -> Callable[..., Any]:
    """A function that builds the model of a preset, given changed fields of its config."""
    return functools.partial(_model_class(preset).from_preset, preset)


def _model_class(preset: str) -> Any:
    """The class of a preset's model."""
    from fae_core.errors import UnknownName
    from fae_core.models.presets import load_preset
    from fae_core.plugins import load_plugins

    model_type = load_preset(preset).get("model_type")
    models = load_plugins("fae.models")
    if model_type not in models:
        raise UnknownName("model type", str(model_type), models)
    return models[model_type].load()


def _describe_folder(folder: Path) -> dict[str, Any]:
    from fae_core.latent_store import LatentStore
    from fae_core.models.folder import read_config
    from fae_core.models.sources import resolve_model_folder
    from fae_core.spec import LatentSpec

    if (folder / STORE_INDEX).is_file():
        store = LatentStore(folder)
        return {"latent store": folder, "samples": len(store), **_describe_spec(store.spec)}
    model_folder = resolve_model_folder(folder)
    stored = read_config(model_folder)
    facts = {
        "model": model_folder,
        "type": stored.get("model_type"),
        "written by": f"{stored.get('package')} {stored.get('version')}",
    }
    if (model_folder / LATENT_SPEC).is_file():
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
