"""--processes N: start this command again under torchrun."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys

from fae_core.errors import FAEError

# What came after `fae` for the command that is running in this context; main.py sets it.
arguments_in_force: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("fae_arguments", default=())


def relaunched(processes: int) -> bool:
    """Run the current command in `processes` processes and return True; False where this process should do the work itself.

    Raises FAEError where one of the processes fails.
    """
    if processes == 1 or "WORLD_SIZE" in os.environ:
        return False
    command = without_processes(list(arguments_in_force.get()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    status = subprocess.run([*launcher, "-m", "fae_core.cli.main", *command], check=False).returncode
    if status:
        raise FAEError(f"a process of `fae {' '.join(command[:2])}` failed (its message is above)")
    return True


def without_processes(arguments: list[str]) -> list[str]:
    """The arguments less --processes N."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--processes":
            skip = True
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept
