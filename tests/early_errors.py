"""Runs commands and tells whether what is wrong with them was said before torch was loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

Mistakes = Mapping[str, list[tuple[str, str]]]  # by kind: a command, and what it is told
Ending = tuple[int, str, list[str]]  # status, what was printed as errors, which of the heavy modules were loaded

# Runs commands one after another in one process, and says of each how it ended and whether torch is loaded by then.
PROGRAM = """
import contextlib, io, json, sys
from fae_core.cli.main import main

for command in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(command)
        except SystemExit as stop:
            status = stop.code
    loaded = [name for name in ("torch", "torch.distributed.checkpoint") if name in sys.modules]
    print(json.dumps([status, err.getvalue(), loaded]))
"""


def cases(mistakes: Mistakes) -> list[Any]:
    """A test's parameters for each mistake: the command, and what it is told."""
    return [pytest.param(*case, id=f"{kind}: {case[0]}") for kind in mistakes for case in mistakes[kind]]


def endings(mistakes: Mistakes, folder: Path) -> dict[str, Ending]:
    """How each command ends in a folder, in which none may leave anything behind."""
    before = sorted(folder.rglob("*"))
    results = run_all([command for kind in mistakes.values() for command, _ in kind], folder)
    left = {str(path.relative_to(folder)) for path in set(folder.rglob("*")).symmetric_difference(before)}
    assert not left, f"a command that fails left {sorted(left)[:5]}"
    return results


def run_all(commands: list[str], folder: Path) -> dict[str, Ending]:
    """Of each command its status, what it printed as errors, and which of the heavy modules are loaded after it."""
    given = json.dumps([command.split() for command in commands])
    arguments = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=True, cwd=folder)
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


def refused_before_torch(ending: Ending, said: str) -> None:
    """Assert that a command ended with status 2 and one line that holds a text, and torch was not loaded."""
    status, printed, loaded = ending
    assert said in printed and printed.startswith("error: ") and printed.count("\n") == 1
    assert (status, loaded) == (2, [])
