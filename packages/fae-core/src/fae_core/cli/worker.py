"""A process of `fae run --jobs N`: runs the steps that it is handed, one after another, so that torch is imported once.

A line on stdin is a step: {"command": [what follows `fae`], "log": the file for all that it prints}. The answer on
stdout is a line with its exit status. The process ends after a step whose status is not 0, and at the end of stdin. Its
arguments, the folder of the recipe's logs, are for those who look at the list of processes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from fae_core.cli.main import run
from fae_core.cli.process import begin_process
from fae_core.commands.loading import announced_imports
from fae_core.recipes.step import run_step

_STOPPED = 130  # by SIGINT, between two steps


def main() -> None:
    """Run steps until there are no more."""
    begin_process()
    # A step must neither read the next ones nor print among the answers.
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    status = 0
    try:
        with announced_imports():
            for line in requests:
                status = _run(**json.loads(line))
                print(status, file=answers, flush=True)
                if status:
                    break
    except KeyboardInterrupt:
        status = _STOPPED
    sys.exit(status)


def _run(command: list[str], log: str) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with Path(log).open("wb") as file:
        for descriptor in (1, 2):  # of this process and of those that it starts
            os.dup2(file.fileno(), descriptor)
    return run(command, run_step)


if __name__ == "__main__":
    main()
