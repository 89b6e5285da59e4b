"""`fae info`: what a preset or a folder is, without building weights, and what its training takes."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Annotated, Any

import typer

from fae_core.cli.options import Device
from fae_core.commands.output import document, say
from fae_core.config.limits import LARGEST_BATCH
from fae_core.display import value_text
from fae_core.models.describe import describe, preset_builder, preset_class


def info(
    target: Annotated[
        str, typer.Argument(help="Name of a preset or bundle, or a folder: model, run, latent store, samples, ...")
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
        bool, typer.Option("--measure", help="Time training steps on this device, as they run without a flag.")
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

    Of other folders that FAE made, such as samples or a run without a model: what they are, and how to go on.

    Of a preset also its settings of model, training and the stages that train it, with those that it leaves to their
    defaults, and what each `fae sample --sampling NAME` takes.

    Example: fae info lightningdit-xl --gpus 8
    """
    from fae_core.errors import FAEError
    from fae_core.models.presets import load_preset, preset_files

    is_preset = target in preset_files() and not Path(target).exists()
    settings = resolved_settings(target) if is_preset else None  # first: a fault in them is found without torch
    costs = gpus is not None or measure
    if costs:
        load_preset(target)
    if measure and rate:
        raise FAEError("--measure and --samples-per-second both give the speed; choose one")
    facts = describe(target)
    document(facts)
    for name, value in facts.items():
        say(f"{name:<22}{value_text(value)}")
    if settings is not None:
        facts["settings"] = settings
        say("\n" + as_yaml(settings))
        if named := named_sampling(target):
            facts["sampling"] = named
            say("# fae sample --sampling NAME\n" + as_yaml({"sampling": named}))
    if not costs:
        return
    from fae_core.cost import table as training_cost

    build = preset_builder(target)
    batch = batch_size or load_preset(target).get("training", {}).get("batch_size") or 256
    about = training_cost.Assumptions(gpus or 1, batch, samples, gpu_memory, tflops, utilisation, rate)
    timed = None
    if measure:
        compile = load_preset(target).get("training", {}).get("compile", False)
        options = {"measure_batch": measure_batch, "blocks": measure_blocks, "repeats": repeats, "compile": compile}
        timed = training_cost.measure(build, device, -(-batch // about.gpus), **options)
    facts["training"] = training_cost.training_lines(build, about, timed)
    say("\n" + "\n".join(facts["training"]))
    if timed is not None:
        peak = tflops or (training_cost.H100_TFLOPS if timed.precision == "bf16" else None)
        facts["measured"] = training_cost.measured_lines(timed, samples, about.gpus, peak)
        say("\n" + "\n".join(facts["measured"]))


def resolved_settings(preset: str) -> dict[str, Any]:
    """The settings of a preset: model, training and stages with their defaults, other sections as they stand.

    What training takes from its data, such as the number of classes, is left out unless the preset sets it.

    Args:
        preset: Its name.

    Raises:
        UnknownName: There is no such preset, or no installed package has its model.
        InvalidSettings: A setting is unknown or out of range.
    """
    from fae_core.config import parse_config
    from fae_core.models.configs import config_class_of
    from fae_core.models.presets import DESCRIPTION, load_preset
    from fae_core.training import TrainConfig

    found = load_preset(preset)
    sections = {name: value for name, value in found.items() if name not in DESCRIPTION}
    model = config_class_of(found["model_type"])
    stages = {name: pkgutil.resolve_name(where) for name, where in model.stage_configs.items()}
    for name, config_class in {"model": model, "training": TrainConfig, **stages}.items():
        if name in sections:
            fields = dict(sections[name])
            own = {"training": fields.pop("training")} if name in stages and "training" in fields else {}
            open_ = config_class.follows_data - fields.keys()
            resolved = parse_config(config_class, fields, f"preset {preset}").model_dump(mode="json", exclude=open_)
            sections[name] = own | resolved
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

    model_class = preset_class(preset)
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
