"""Write docs/results/paper.md: for each recipe of the paper its command, settings, GPU-hours and the paper's numbers.

python tools/checks/paper_results.py            # writes the page
python tools/checks/paper_results.py --check    # exit status 1 where the page is out of date

Settings are those that the commands resolve, hours those of `fae info PRESET --gpus 8`, numbers those of
paper_numbers.yaml.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from paper_commands import RECIPES, STAGES, Command, at, commands, leaves, trained

from fae_core.cli.settings import parse_overrides
from fae_core.cost.counted import Cost, measure_cost, recomputes
from fae_core.cost.table import H100_TFLOPS
from fae_core.files import read_yaml
from fae_core.models.presets import load_preset
from fae_core.plugins import load_plugins
from fae_core.recipes.recipe import load_recipe
from fae_diffusion.samplers.config import sampling_with

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "paper.md"
NUMBERS = Path(__file__).with_name("paper_numbers.yaml")
UTILISATION = 0.4  # of the peak, as `fae info` assumes
FIRST = ["tokenizer", "tokenizer-registers", "tokenizer-siglip2-256", "tokenizer-siglip2-384"]
HEAD = f"""# The paper's results, for whoever has the GPUs

A recipe for each result of the paper, at the paper's size. **None was run at this size**: the last column is empty
until somebody does. In CI all run at size smoke, which differs in widths, depths, steps, batch and data and in nothing
else. `python tools/checks/paper_results.py` writes this page from the recipes and presets. What the paper leaves open
is said in each recipe and preset, and in [paper-to-code.md](../paper-to-code.md).

GPU-hours are those of training, from the FLOPs that `fae info PRESET --gpus 8` counts, at {UTILISATION:.0%} of an
H100's {H100_TFLOPS:g} TFLOP/s, which is assumed; all of these presets have `training.compile`. Frozen encoders and
decoders in front of what is trained are counted; LPIPS, the discriminator, text encoders, sampling and evaluation are
not. In eager mode an H200 reached 20 to 47 % of what it does in a matrix product ([scaling.md](../scaling.md)).

"""
# What is told of the settings of a training command, beside steps, batch and optimiser.
TOLD = {
    "autoencoder": ("autoencoder.beta",),
    "noise": ("noise.sigma", "noise.reference_rms"),
    "finetune": ("finetune.latent",),
    "sit": ("model.transport.shift",),
    "lightningdit": ("model.transport.shift",),
    "mmdit": ("model.transport.shift", "model.patch_size", "model.text_encoder.name"),
    "starflow": ("model.patch_size", "model.noise_std"),
}
_MARK = "<!-- not run: weeks of GPUs; tests/test_paper_recipes.py runs the recipe at size smoke -->"


def main(check: bool) -> int:
    page = render()
    if not check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != page:
        print(f"{PAGE.relative_to(ROOT)} is out of date; run tools/checks/paper_results.py", file=sys.stderr)
        return 1
    return 0


def render(hours: Callable[[Command], float] | None = None) -> str:
    """The page.

    Args:
        hours: Of a command; None: `gpu_hours`.
    """
    hours = hours or gpu_hours
    names = sorted((path.stem for path in RECIPES.glob("*.yaml")), key=lambda name: (name not in FIRST, name))
    total = {name: sum(map(hours, _steps(name))) for name in names}
    titles = {name: load_recipe(RECIPES / f"{name}.yaml").title for name in names}
    overview = [[f"[{name}](#{name})", titles[name], hours_text(total[name])] for name in names]
    sections = [section(name, titles[name], hours) for name in names]
    return "\n".join([HEAD + _table(["recipe", "", "GPU-hours"], overview), *sections])


def section(name: str, title: str, hours: Callable[[Command], float]) -> str:
    """The part of the page about one recipe."""
    path = RECIPES / f"{name}.yaml"
    command = path.read_text("utf-8").partition("\n")[0].removeprefix("# ")
    parts = [f"## {name}\n\n[{title}](../../recipes/paper/{path.name})\n\n{_MARK}\n```bash\n{command}\n```\n"]
    if training := [[c.step, settings_text(c), hours_text(hours(c))] for c in _steps(name) if c.trains]:
        parts.append(_table(["trains", "settings", "GPU-hours"], training))
    if sampling := dict.fromkeys(filter(None, map(sampling_text, _steps(name)))):
        parts.append("".join(f"- {line}\n" for line in sampling))
    for table in read_yaml(NUMBERS).get(name, []):
        rows = [[label, _joined(table["columns"], numbers), ""] for label, numbers in table["rows"].items()]
        parts.append(_table([table["at"], "the paper", "measured"], rows))
    return "\n".join(parts)


def settings_text(command: Command) -> str:
    """What matters of a training command's resolved settings."""
    settings = trained(command)
    training = settings["training"]
    rate = f"{training['learning_rate']:g} {training['schedule']}"
    if training["warmup_steps"]:
        rate += f" after {training['warmup_steps']:,.0f} steps of warm-up"
    own = [path for path in leaves(parse_overrides(command.overrides)) if path.startswith("encoder")]
    found = {path: at(settings, path) for path in (*TOLD[command.stage], *own)}
    encoder = f" on `{settings['encoder']['preset']}`" if "encoder" in command.options else ""
    return (
        f"`{command.options['preset']}`{encoder}: {training['steps']:,} steps of {training['batch_size']:,}, AdamW "
        f"{training['betas']}, {rate}; {', '.join(f'{k} {v}' for k, v in found.items() if v is not None)}"
    )


def sampling_text(command: Command) -> str | None:
    """How a command samples; None where it names no way of sampling."""
    options = command.options
    if "sampling" not in options:
        return None
    model_class, config = _generator(command)
    of = sampling_with(config.sampling, model_class.named_sampling[options["sampling"]])
    if "guidance-search" in command.words:
        guided = f"one scale on t in [{options['interval']}], up to {options['high']} in steps of {options['step']}"
    elif not of.guidance.is_on:
        guided = "no guidance"
    elif of.guidance.parts:
        guided = "guidance " + ", ".join(
            f"{scale:g} on t in [{low:g}, {high:g}]" for high, low, scale in of.guidance.parts
        )
    else:
        low, high = of.guidance.interval
        guided = f"guidance {of.guidance.scale:g} on t in [{low:g}, {high:g}]"
    count = int(options["count"])
    return f"`--sampling {options['sampling']}`: {of.method}, {of.steps} steps, {guided}; {count:,} samples"


def _generator(command: Command) -> tuple[Any, Any]:
    """Class and settings of the model that a command samples from, which a run of some recipe trained."""
    run = command.options["generator"].split("/exports/")[0].removesuffix("/model")
    recipe, _, step = run.removeprefix("runs/").replace("out/", f"{command.recipe}/", 1).rpartition("/")
    found = commands()[f"{recipe}/{step}"]
    model_class = _model_class(found.options["preset"])
    return model_class, model_class.config_class(**trained(found)["model"])


def gpu_hours(command: Command) -> float:
    """GPU-hours of a training command: what it trains, and the frozen models in front of it; 0 of any other command.

    A generator costs what its preset costs: latents of other sizes give it as many tokens in these recipes.
    """
    if not command.trains:
        return 0.0
    settings, own = trained(command), _cost(command.options["preset"])
    work = own.work(_recomputes(command.options["preset"]))
    if command.kind in STAGES:
        encoder = _cost(settings["encoder"]["preset"])
        work += encoder.work() if command.stage == "autoencoder" else encoder.forward_flops
    if command.stage == "finetune":
        work += _cost(command.variables.get("feature_decoder", "feature-decoder-1536")).forward_flops
    samples = settings["training"]["steps"] * settings["training"]["batch_size"]
    return samples * work / (H100_TFLOPS * 1e12 * UTILISATION) / 3600


@functools.cache
def _cost(preset: str) -> Cost:
    return measure_cost(functools.partial(_model_class(preset).from_preset, preset))


@functools.cache
def _recomputes(preset: str) -> bool:
    with torch.device("meta"):
        return recomputes(_model_class(preset).from_preset(preset))


def _model_class(preset: str) -> Any:
    return load_plugins("fae.models")[load_preset(preset)["model_type"]].load()


def _steps(recipe: str) -> list[Command]:
    return [command for command in commands().values() if command.recipe == recipe]


def hours_text(hours: float) -> str:
    """Two significant digits; nothing for no hours."""
    return f"{float(f'{hours:.2g}'):,.0f}" if hours else ""


def _joined(columns: list[str], numbers: list[str]) -> str:
    pairs = zip(columns, numbers, strict=True)
    return ", ".join(f"{column} {number}" for column, number in pairs if number != "\N{EN DASH}")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |") for cells in lines)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
