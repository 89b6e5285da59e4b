"""A step of a recipe in this process, after which the process is as ready for the next one as a new one would be."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence


def run_step(command: Sequence[str]) -> None:
    """Run a step's command in this process.

    Args:
        command: What follows `fae`.

    Raises:
        FAEError, KeyboardInterrupt, SystemExit: As `fae_core.commands.groups.invoke`.
    """
    from fae_core.commands.groups import invoke

    try:
        invoke(command, complete=True)
    finally:
        _release()


def _release() -> None:
    """Free the memory that a step's models held, and forget what was compiled for them.

    torch compiles a function for so many different models only and then runs it uncompiled, for all later ones.
    """
    gc.collect()
    torch, dynamo = sys.modules.get("torch"), sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
