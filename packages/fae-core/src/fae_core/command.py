"""The `fae` command that is running: what it was given to read, and how it would be typed to go on."""

from __future__ import annotations

import contextvars
import itertools
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fae_core.documents import read_yaml
from fae_core.errors import FAEError
from fae_core.redact import redact

# What came after `fae` for the command that is running in this context; cli/main.py sets it.
arguments_in_force: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("fae_arguments", default=())
RUN_CONFIG = "config.yaml"  # of a run folder
ARGUMENTS = "arguments"  # where it records the words of the command
_OF_ONE_CALL = ("--out", "--resume", "--overwrite", "--device", "--processes")
LAUNCHED = "FAE_LAUNCHED"  # in the environment of the processes that --processes N starts


def inputs_in_force() -> list[Path]:
    """Files and folders that the command names and that are there, other than what follows --out."""
    found, previous = [], ""
    for word in arguments_in_force.get():
        option, equals, value = word.partition("=")
        if previous != "--out" and not (option == "--out" and equals):
            found += [path for part in {word, value} if part and (path := _existing(part)) is not None]
        previous = word
    return found


def require_separate_output() -> None:
    """Raise FAEError where the command would write its --out over a file that it reads."""
    words = arguments_in_force.get()
    outputs = [word.removeprefix("--out=") for word in words if word.startswith("--out=")]
    outputs += [after for word, after in itertools.pairwise(words) if word == "--out"]
    for out in map(_existing, outputs):
        for given in inputs_in_force() if out is not None and out.is_file() else ():
            if given.exists() and given.samefile(out):
                raise FAEError(f"--out {out} is a file that this command reads; give another one")


def command_to_go_on() -> str:
    """The command that continues this one, as it would be typed, without secrets; from Python, the argument to give."""
    words = [word for word in arguments_in_force.get() if word not in ("--overwrite", "--resume")]
    if not words:
        return "resume=True"
    if LAUNCHED in os.environ:
        words += ["--processes", os.environ["WORLD_SIZE"]]
    return redact(shlex.join(["fae", *words, "--resume"]))


def recorded_arguments() -> list[str]:
    """What a run records of the command that trains it, so that `--resume` alone can go on: less what belongs to one call."""
    kept, skip = [], False
    for word in arguments_in_force.get():
        name = word.partition("=")[0]
        if skip or name in _OF_ONE_CALL:
            skip = not skip and name == word and name not in ("--resume", "--overwrite")
            continue
        kept.append(redact(word))
    return kept


def resumed_arguments(words: Sequence[str]) -> list[str]:
    """The words of a command; of `fae train ... --resume`, those that its run recorded and then its own, which win."""
    words = list(words)
    if words[:1] != ["train"] or "--resume" not in words:
        return words
    given = {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}
    given |= {name: value for name, _, value in (word.partition("=") for word in words) if value}
    before: Any = []
    with suppress(FAEError):
        before = read_yaml(Path(given.get("--out", "")) / RUN_CONFIG).get(ARGUMENTS)
    if not isinstance(before, list) or not all(isinstance(word, str) for word in before) or before[:2] != words[:2]:
        return words
    return _steps_as_setting([*before, *words[2:]])


def _steps_as_setting(words: list[str]) -> list[str]:
    """The words with every --steps N as --set training.steps=N, so that of several the last one wins."""
    changed: list[str] = []
    for word in words:
        if changed and changed[-1] == "--steps":
            changed[-1:] = ["--set", f"training.steps={word}"]
        elif word.startswith("--steps="):
            changed += ["--set", f"training.steps={word.removeprefix('--steps=')}"]
        else:
            changed.append(word)
    return changed


def _existing(word: str) -> Path | None:
    """The path that a word is, or the folder that a pattern (`train-{00..09}.tar`, `*.json`) looks into."""
    if any(sign in word for sign in "{*?["):
        word = re.split(r"[{*?\[]", word)[0].rpartition("/")[0] or "."
    try:
        return Path(word) if os.path.lexists(word) else None
    except ValueError:
        return None
