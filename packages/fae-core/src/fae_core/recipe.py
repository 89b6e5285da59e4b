"""Recipes: a YAML list of `fae` commands that together are one experiment.

    title: ...
    variables: {data: photographs}
    steps:
      - {name: crops, run: "crops {data} --out {out}/data"}
      - {name: diffusion, run: "train diffusion --latents {out}/latents --out {out}/diffusion", resumable: true}

`{out}` is the folder of the whole experiment. Each step is recorded with its command and seconds in {out}/steps.json; a
recipe that was interrupted goes on with the first step that is not recorded there.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from fae_core.errors import FAEError, UnknownName
from fae_core.files import is_empty, read_json, read_yaml, require_new_folder, write_atomic
from fae_core.plugins import load_plugins
from fae_core.redact import redact, redact_values

STEPS_FILE = "steps.json"


@dataclass(frozen=True)
class Step:
    """One command. `resumable`: a second attempt is made with --resume, any other with --overwrite."""

    name: str
    run: str
    resumable: bool = False


@dataclass(frozen=True)
class Recipe:
    """A validated recipe with its variables filled in on demand."""

    title: str
    variables: dict[str, str]
    steps: tuple[Step, ...]

    def command(self, step: Step, out: Path) -> list[str]:
        """The arguments after `fae`. Values with blanks stay one argument."""
        values = {**self.variables, "out": str(out)}
        return [_filled(part, values, step) for part in _words(step)]

    def check_commands(self) -> None:
        """Raise FAEError, naming the packages to install, if a step's command is not there."""
        from fae_core.cli.main import providers

        missing = {}
        for step in self.steps:
            words = _words(step)
            if not {words[0], ".".join(words[:2])} & load_plugins("fae.commands").keys():
                missing[" ".join(words[:2])] = providers(words)
        if missing:
            wanted = sorted({package for package in missing.values() if package})
            raise FAEError(
                f"this recipe needs commands that are not installed ({', '.join(missing)}): pip install {' '.join(wanted)}"
            )


def load_recipe(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe; `overrides` replace its variables. Raises CheckpointError, FAEError or UnknownName, one line."""
    content = read_yaml(path)
    unknown = content.keys() - {"title", "description", "variables", "steps"}
    if unknown:
        raise UnknownName("key in a recipe", min(unknown), ["title", "description", "variables", "steps"])
    for key, kind in (("variables", dict), ("steps", list)):
        if not isinstance(content.get(key) or kind(), kind):
            raise FAEError(f"{path}: {key} must be a {'mapping' if kind is dict else 'list'}")
    variables = {name: str(value) for name, value in (content.get("variables") or {}).items()}
    for name, value in (overrides or {}).items():
        if name not in variables:
            raise UnknownName("variable of the recipe", name, variables)
        variables[name] = str(value)
    steps = tuple(_step(entry, path) for entry in content.get("steps") or [])
    if not steps:
        raise FAEError(f"{path} has no steps")
    names = [step.name for step in steps]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FAEError(f"{path} has two steps named {twice!r}; --resume could not tell them apart")
    return Recipe(str(content.get("title", path.stem)), variables, steps)


def run_recipe(recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False) -> list[dict[str, Any]]:
    """Run the steps that are not done yet, in this process, and return the record of all. Raises what a step raises."""
    from fae_core.cli.main import invoke

    recipe.check_commands()
    record_path = out / STEPS_FILE
    done: list[dict[str, Any]] = []
    if resume and record_path.is_file():
        done = _recorded(record_path)
    else:
        require_new_folder(out, overwrite=overwrite, resumable=record_path.is_file())
        if out.is_dir() and not is_empty(out):
            if not record_path.is_file():
                raise FAEError(f"{out} was not made by a recipe; --overwrite replaces recipe folders only")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        _record(record_path, recipe, done)
    finished = {entry["name"] for entry in done}
    for number, step in enumerate(recipe.steps, 1):
        if step.name in finished:
            continue
        arguments = recipe.command(step, out)
        command = f"fae {redact(shlex.join(arguments))}"
        announce(f"[{number}/{len(recipe.steps)}] {command}")
        again = ["--resume" if step.resumable else "--overwrite"] if resume else []
        started = time.monotonic()
        invoke([*arguments, *again])
        done.append({"name": step.name, "command": command, "seconds": round(time.monotonic() - started, 1)})
        _record(record_path, recipe, done)
    return done


def announce(text: str) -> None:
    """A line for the person who watches."""
    import sys

    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _record(path: Path, recipe: Recipe, done: list[dict[str, Any]]) -> None:
    record = {"title": recipe.title, "variables": redact_values(recipe.variables), "steps": done}
    write_atomic(path, json.dumps(record, indent=1).encode())


def _recorded(path: Path) -> list[dict[str, Any]]:
    """The finished steps in steps.json; raises FAEError where it is not a recipe's."""
    done = read_json(path).get("steps")
    if not isinstance(done, list) or not all(isinstance(entry, dict) and "name" in entry for entry in done):
        raise FAEError(f"{path} is damaged: it does not list the finished steps; --overwrite begins anew")
    return done


def _words(step: Step) -> list[str]:
    """A step's command, cut as a shell would; raises FAEError where quotes do not close or nothing is left."""
    try:
        words = shlex.split(step.run)
    except ValueError as error:
        raise FAEError(f"step {step.name}: {str(error).lower()} in {step.run[:60]!r}") from None
    if not words:
        raise FAEError(f"step {step.name} has no command")
    return words


def _filled(part: str, values: dict[str, str], step: Step) -> str:
    """A word with `{name}` replaced; raises FAEError for any other name, and for formats, which can ask for gigabytes."""
    try:
        fields = list(Formatter().parse(part))
    except ValueError as error:
        raise FAEError(f"step {step.name}: {error} in {part[:60]!r}; {{{{ and }}}} stand for braces") from None
    filled = []
    for text, name, form, conversion in fields:
        filled.append(text)
        if name is None:
            continue
        if name not in values or form or conversion:
            raise FAEError(f"step {step.name}: {name!r} is not a variable of the recipe")
        filled.append(values[name])
    return "".join(filled)


def _step(entry: Any, path: Path) -> Step:
    if not isinstance(entry, dict) or not {"name", "run"} <= entry.keys() <= {"name", "run", "resumable"}:
        raise FAEError(
            f"{path}: a step is a mapping with name, run and, where it can go on after an interruption, resumable: true"
        )
    return Step(str(entry["name"]), str(entry["run"]), bool(entry.get("resumable", False)))
