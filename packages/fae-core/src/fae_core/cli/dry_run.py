"""What `fae train ... --dry-run` prints: settings as resolved, inputs, outputs, parameters, memory and hours.

The task is built on the meta device. No weights are read, no images decoded, nothing is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from fae_core.cli.info import as_yaml
from fae_core.commands.output import document, say
from fae_core.commands.running import is_first_process
from fae_core.cost.counted import BF16, FP32, count_pass
from fae_core.cost.table import H100_TFLOPS, UTILISATION
from fae_core.errors import FAEError
from fae_core.folders import RUN_CHECKPOINTS, RUN_CONFIG, RUN_EXPORTS, RUN_IDENTITY, RUN_MODEL, RUN_SAMPLES, kept_model
from fae_core.models.checkpoints import numbered
from fae_core.models.pretrained import PretrainedModel
from fae_core.redact import redact_values

if TYPE_CHECKING:
    from fae_core.cli.training_options import TrainingOptions
    from fae_core.training import Task, TrainConfig

_INPUTS = (
    "data",
    "split",
    "tokenizer",
    "features",
    "autoencoder",
    "init",
    "reference",
)  # what is read, among recorded settings
_GIGABYTE = 1e9


def tell(task: Task, config: TrainConfig, settings: dict[str, Any], options: TrainingOptions) -> None:
    """Print the plan of a run on the first process.

    Args:
        task: What would be trained, on the meta device.
        config: How.
        settings: What the run would record beside it.
        options: Of the command.
    """
    if is_first_process():
        planned = redact_values(plan(task, config, settings, options))
        document(planned)
        say(as_yaml(planned))
        say("dry run: nothing was made")


def plan(task: Task, config: TrainConfig, settings: dict[str, Any], options: TrainingOptions) -> dict[str, Any]:
    """The plan of a run, as YAML and JSON can hold it.

    Args:
        task: What would be trained, on the meta device; its models are changed.
        config: How.
        settings: What the run would record beside it.
        options: Of the command.
    """
    inputs = {name: settings[name] for name in _INPUTS if isinstance(settings.get(name), str)}
    taken_over = {f"optimizer of {p.name}": str(p.moments_from) for p in task.phases if p.moments_from is not None}
    named = {"preset": options.preset, "config": None if options.config is None else str(options.config)}
    resolved = {name: value for name, value in settings.items() if isinstance(value, dict) and name != RUN_IDENTITY}
    trained = {name: _count(module) for name, module in task.modules.items()}
    frozen = _frozen(task)
    kept = sum(trained[name] for name in task.ema_modules) if config.ema_decay is not None else 0
    state = 4 * FP32 * sum(trained.values()) + FP32 * kept  # weights, gradients, two moments; the average
    state += BF16 * sum(trained.values()) if config.precision == "bf16" else 0
    state = state / (options.processes if config.parallel == "fsdp" else 1) + FP32 * sum(frozen.values())
    activations, work, uncounted = _passes(task)
    share = config.batch_size / (options.processes * config.accumulation)
    activations *= share * (1 if config.precision == "bf16" else FP32 / BF16)
    gpu_hours = config.steps * config.batch_size * work / (H100_TFLOPS * 1e12 * UTILISATION) / 3600
    return {
        "command": settings["command"],
        "settings": {**resolved, "training": config.model_dump(mode="json")},
        "reads": {**inputs, "samples": len(task), **{k: v for k, v in named.items() if v is not None}, **taken_over},
        "writes": _written(task, config, options, FP32 * (3 * sum(trained.values()) + kept)),
        "parameters": {"trained": sum(trained.values()), **trained, "frozen": sum(frozen.values()), **frozen},
        "memory_gb": {
            "processes": options.processes,
            "state": _round(state / _GIGABYTE),
            "activations": _round(activations / _GIGABYTE),
            "of_each_process": _round((state + activations) / _GIGABYTE),
        },
        "time": {
            "steps": config.steps,
            "epochs": _round(config.steps * config.batch_size / max(1, len(task))),
            "gpu_hours": _round(gpu_hours),
            "hours": _round(gpu_hours / options.processes),
            "assumed": f"{UTILISATION:.0%} of {H100_TFLOPS:g} TFLOP/s (H100, dense bf16), one GPU a process; "
            "every network runs in every step; reading images and the optimiser take no time",
            **({"not_counted": uncounted} if uncounted else {}),
        },
    }


def _written(task: Task, config: TrainConfig, options: TrainingOptions, checkpoint: int) -> dict[str, Any]:
    """What the run folder would get, and from which step a resumed run goes on."""
    milestones = sorted(step for step in config.kept_steps(max(1, len(task))) if step <= config.steps)
    newest = min(config.keep_checkpoints, -(-config.steps // config.checkpoint_every))
    earlier = list(numbered(options.out / RUN_CHECKPOINTS)) if options.resume else []
    return {
        "folder": str(options.out),
        RUN_CONFIG: "settings, identity of the data, command",
        RUN_CHECKPOINTS: f"{newest} newest and {len(milestones)} kept, {checkpoint / _GIGABYTE:.3g} GB each",
        **({RUN_EXPORTS: [kept_model(step) for step in milestones]} if milestones else {}),
        **({RUN_SAMPLES: f"{config.steps // config.preview_every} previews"} if config.preview_every else {}),
        RUN_MODEL: "the trained model",
        **({"goes_on_from_step": max(earlier)} if earlier else {}),
    }


def _passes(task: Task) -> tuple[float, float, list[str]]:
    """Bytes of activations and FLOPs of one sample, and the networks that do not say how they run, or why not."""
    trained = {id(parameter) for module in task.modules.values() for parameter in module.parameters()}
    activations = work = 0.0
    counted: set[int] = set()
    reasons: dict[int, str] = {}
    for model in _runnable(task):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in trained)
        try:
            kept, forward, backward = count_pass(model)
        except FAEError as error:
            reasons[id(model)] = f" ({error})"
            continue
        activations, work = activations + kept, work + forward + backward
        counted |= {id(module) for module in model.modules()}
    uncounted = [
        name + next((reasons[id(part)] for part in network.modules() if id(part) in reasons), "")
        for name, network in {**task.modules, **_networks(task)}.items()
        if not _is_counted(network, counted)
    ]
    return activations, work, uncounted


def _is_counted(network: nn.Module, counted: set[int]) -> bool:
    """Whether all parts of a network that have parameters are among those that were counted."""
    parts = [part for part in network.modules() if next(part.parameters(recurse=False), None) is not None]
    return all(id(part) in counted for part in parts)


def _runnable(task: Task) -> list[PretrainedModel[Any]]:
    """The outermost models of a task that have a `dry_run`, each once."""
    found: dict[int, PretrainedModel[Any]] = {}

    def look(module: nn.Module) -> None:
        if isinstance(module, PretrainedModel) and type(module).dry_run is not PretrainedModel.dry_run:
            found[id(module)] = module
            return
        for child in module.children():
            look(child)

    for module in (*(value for value in vars(task).values() if isinstance(value, nn.Module)), *task.modules.values()):
        look(module)
    return list(found.values())


def _networks(task: Task) -> dict[str, nn.Module]:
    """The networks that a task holds beside `modules`, its own and those of its losses and data, by name."""
    found: dict[str, nn.Module] = {}
    seen = {id(module) for module in task.modules.values()}
    for name, value in vars(task).items():
        inner = {} if isinstance(value, nn.Module) else getattr(value, "__dict__", {})
        for label, module in ((name, value), *((f"{name}.{part}", module) for part, module in inner.items())):
            if isinstance(module, nn.Module) and id(module) not in seen:
                found[label] = module
                seen.add(id(module))
    return found


def _frozen(task: Task) -> dict[str, int]:
    """The parameters that are not trained, by network."""
    seen = {id(parameter) for module in task.modules.values() for parameter in module.parameters()}
    counts = {}
    for name, module in _networks(task).items():
        own = {id(parameter): parameter for parameter in module.parameters() if id(parameter) not in seen}
        seen |= own.keys()
        if own:
            counts[name] = sum(parameter.numel() for parameter in own.values())
    return counts


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _round(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
