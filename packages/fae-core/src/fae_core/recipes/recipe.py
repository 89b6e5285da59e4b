"""Running a recipe: which of its steps are due, one after another or several at once, and the record of those done.

Each step is recorded with its command and seconds in {out}/steps.json. {out} stays as the recipe has it, and what else
the command reads is an absolute path, so that the folder may be moved, alone or with its data, and named from anywhere.
With resume a recipe
runs the steps that are not recorded there, those recorded with another command, and after any that ran the later ones
that may read what has changed: those that are not resumable, and those that read its results. A resumable one gets
--resume, with which its command compares what it was begun on with what there is now. All these lose their record
before the first of them runs, so that what an interruption, a failure or `only` leaves undone is done by the next call.
A resumable step that was recorded with another command is refused: its result stays.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fae_core.commands.running import command_to_go_on, with_absolute_inputs
from fae_core.errors import FAEError, Interrupted, UnknownName
from fae_core.files import (
    begun_folder,
    hold,
    read_json,
    recover_folder,
    remove_leftovers,
    require_new_folder,
    write_json,
)
from fae_core.folders import RECIPE_LOGS, RECIPE_STEPS
from fae_core.progress import hidden
from fae_core.recipes.jobs import Job, needs, run_jobs
from fae_core.recipes.read import Recipe as Recipe
from fae_core.recipes.read import Step as Step
from fae_core.recipes.read import declared_variables as declared_variables
from fae_core.recipes.read import load_recipe as load_recipe
from fae_core.recipes.step import run_step
from fae_core.redact import redact

_OUT = Path("{out}")  # the experiment's folder in recorded commands


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    jobs: int = 1,
    only: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run the steps that are not finished yet.

    Args:
        recipe: The recipe to run.
        out: Folder of the experiment.
        resume: Continue in a folder that has finished steps.
        overwrite: Replace the folder.
        jobs: Most steps at a time; 1 runs them in this process, in order.
        only: Names of steps, or patterns such as "latents-*"; these steps and what they need are run. Empty: all.

    Returns:
        The record of all steps: name, command and seconds.

    Raises:
        FAEError: A resumable step was finished with another command; what a step raises, or that it ended with a
            status other than 0.
        Interrupted: A signal asked to stop.
        UnknownName: `only` names no step.
    """
    recipe.check_commands()
    chosen = _chosen(recipe, out, only)
    require_new_folder(out, overwrite=overwrite, resume=resume, kind="recipe", resumable=RECIPE_STEPS)
    with hold(out):
        return _run_held(recipe, out, resume, overwrite, jobs, chosen)


def _chosen(recipe: Recipe, out: Path, only: Sequence[str]) -> tuple[Step, ...]:
    """The steps that `only` names, and the earlier ones whose results they read, directly or through others."""
    if not only:
        return recipe.steps
    names = [step.name for step in recipe.steps]
    wanted: set[str] = set()
    for pattern in only:
        found = [name for name in names if name == pattern] or fnmatch.filter(names, pattern)
        if not found:
            raise UnknownName("step of the recipe", pattern, names)
        wanted.update(found)
    reads = needs({step.name: recipe.command(step, out) for step in recipe.steps})
    for name in reversed(names):
        if name in wanted:
            wanted |= reads[name]
    return tuple(step for step in recipe.steps if step.name in wanted)


def _run_held(
    recipe: Recipe, out: Path, resume: bool, overwrite: bool, jobs: int, chosen: tuple[Step, ...]
) -> list[dict[str, Any]]:
    """Run the chosen steps in a folder that is locked for this process."""
    recover_folder(out)
    record_path = out / RECIPE_STEPS
    here = os.path.abspath(out)  # noqa: PTH100 (links are kept)
    recorded = {step.name: _as_recorded(recipe.command(step, _OUT)) for step in recipe.steps}
    done: list[dict[str, Any]] = []
    if resume and record_path.is_file():
        done = _recorded(record_path)
        remove_leftovers(out)
    else:
        with begun_folder(out, overwrite=overwrite, kind="recipe", resumable=RECIPE_STEPS) as folder:
            _record(folder / RECIPE_STEPS, recipe, done)
    before = {entry["name"]: _command_of(entry, recorded.get(entry["name"]), here) for entry in done}
    _refuse_changed(recipe, out, recorded, before)
    commands = {step.name: recipe.command(step, out) for step in recipe.steps}
    reads = needs(commands)
    due = _due(chosen, recorded, reads, before)
    changing = _with_readers(due, reads)
    if not changing.isdisjoint(before):
        done = [entry for entry in done if entry["name"] not in changing]
        _record(record_path, recipe, done)
    places = {name: place for place, name in enumerate(commands, 1)}

    def started(name: str) -> None:
        announce(f"[{places[name]}/{len(places)}] fae {redact(shlex.join(commands[name]))}")

    def ended(name: str, seconds: float) -> None:
        done[:] = [entry for entry in done if entry["name"] != name]
        done.append({"name": name, "command": recorded[name], "folder": here, "seconds": round(seconds, 1)})
        done.sort(key=lambda entry: places.get(entry["name"], 0))  # steps at once do not end in the recipe's order
        _record(record_path, recipe, done)

    again = {step.name: ["--resume" if step.resumable else "--overwrite"] if resume else [] for step in due}
    attempts = {name: [*commands[name], *options] for name, options in again.items()}
    if jobs == 1:
        _one_after_the_other(attempts, started, ended)
    else:
        due_jobs = [Job(name, command, reads[name]) for name, command in attempts.items()]
        run_jobs(due_jobs, jobs, out / RECIPE_LOGS, started, ended, announce)
    return done


def _due(
    chosen: tuple[Step, ...],
    recorded: dict[str, str],
    reads: dict[str, frozenset[str]],
    before: dict[str, str | None],
) -> list[Step]:
    """The chosen steps that have to run, by their commands and those of the steps that were finished before."""
    due: dict[str, Step] = {}
    for step in chosen:
        finished = before.get(step.name) == recorded[step.name]
        # One that is cheap to repeat is repeated even where no word of its command names what it reads.
        if not finished or (due and not step.resumable) or not reads[step.name].isdisjoint(due):
            due[step.name] = step
    return list(due.values())


def _with_readers(due: list[Step], reads: dict[str, frozenset[str]]) -> set[str]:
    """The names of steps that will run, and of all that read their results, directly or through others."""
    changing = {step.name for step in due}
    for name, read in reads.items():  # in the recipe's order
        if not read.isdisjoint(changing):
            changing.add(name)
    return changing


def _one_after_the_other(
    attempts: dict[str, list[str]], started: Callable[[str], None], ended: Callable[[str, float], None]
) -> None:
    for name, command in attempts.items():
        since = time.monotonic()
        try:
            started(name)
            run_step(command)
            ended(name, time.monotonic() - since)
        except Interrupted as stop:
            raise Interrupted(f"step {name} {stop.done}", stop.signal, command_to_go_on()) from None
        except KeyboardInterrupt:
            raise _failure(name, 128 + signal.SIGINT) from None
        except SystemExit as end:
            raise _failure(name, end.code) from None


def _failure(name: str, status: object) -> FAEError:
    """Why a step ended with a status: a signal asked it, or the processes that it started, to stop, or it failed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if status == 128 + number:
            return Interrupted(f"step {name} was interrupted", number, command_to_go_on())
    return FAEError(f"step {name} ended with status {status}")


def _as_recorded(arguments: list[str]) -> str:
    """A step's command as steps.json has it, from its arguments with {out} in them."""
    words = zip(arguments, with_absolute_inputs(arguments), strict=True)
    return f"fae {redact(shlex.join(word if str(_OUT) in word else absolute for word, absolute in words))}"


def _command_of(entry: dict[str, Any], now: str | None, here: str) -> str | None:
    """The command of a finished step: as it would be recorded now, where it is the same, else as it was recorded.

    A path is the same where it is absolutely, or where it is seen from the experiment's folder: that may have been
    moved alone, or together with the data that its steps read. Earlier versions recorded the folder as it was named
    then, and other paths as they were given.

    Args:
        entry: Of steps.json.
        now: What would be recorded of the step now; None: the recipe has no such step.
        here: The absolute path of the experiment's folder now.
    """
    was = entry.get("command")
    return now if was is not None and now is not None and _is_same(was, now, entry.get("folder") or here, here) else was


def _is_same(was: str, now: str, was_here: str, here: str) -> bool:
    """Whether two commands are the same, however their paths are written, in a folder that lay and lies there."""
    places: set[str] = set()  # what stands for {out}
    try:
        for old, new in zip(shlex.split(was), shlex.split(now), strict=True):
            if str(_OUT) in new:
                found = re.fullmatch("(.+)".join(map(re.escape, new.split(str(_OUT)))), old)
                if found is None:
                    return False
                places.update(found.groups())
            elif not _paths_in(old, was_here) & _paths_in(new, here):
                return False
    except ValueError:  # another number of words, or what a secret was part of is no word any more
        return was == now
    return len(places) < 2


def _paths_in(word: str, here: str) -> set[str]:
    """A word in which a path, alone or after a "=", is absolute, and in which it is seen from a folder."""
    before, equals, path = word.rpartition("=")
    if not path:
        return {word}
    absolute = os.path.abspath(path)  # noqa: PTH100 (links are kept)
    return {before + equals + absolute, before + equals + os.path.relpath(absolute, here)}


def _refuse_changed(recipe: Recipe, out: Path, recorded: dict[str, str], before: dict[str, str | None]) -> None:
    """Raise FAEError for a finished resumable step, costly to repeat, whose command has changed in the recipe."""
    for step in recipe.steps:
        was, now = before.get(step.name), recorded[step.name]
        if step.resumable and was is not None and was != now:
            raise FAEError(
                f"{out} has step {step.name} from `{was}`, not from `{now}`; give another --out, or remove the step "
                f"from {RECIPE_STEPS} and its folder"
            )


def announce(text: str) -> None:
    """Print a line of progress to stderr.

    Args:
        text: Text of the line.
    """
    if not hidden.get():
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _record(path: Path, recipe: Recipe, done: list[dict[str, Any]]) -> None:
    write_json(path, {"title": recipe.title, "variables": recipe.variables, "steps": done})


def _recorded(path: Path) -> list[dict[str, Any]]:
    """The finished steps in steps.json; raises FAEError where the file is not a recipe's."""
    done = read_json(path).get("steps")
    if not isinstance(done, list) or not all(_is_record(entry) for entry in done):
        raise FAEError(f"{path} is damaged: it does not list the finished steps; --overwrite begins anew")
    return done


def _is_record(entry: Any) -> bool:
    """Whether an entry of steps.json is a finished step's: its name, command, folder and seconds."""
    kinds = (("name", str), ("command", str | None), ("folder", str | None), ("seconds", int | float))
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds)
