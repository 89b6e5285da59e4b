"""What a command says before a wait: packages, models and downloads are loaded in silence otherwise."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import typer

from fae_core.commands.output import is_silent
from fae_core.commands.running import is_first_process

_HEAVY = ("torch", "timm", "transformers", "diffusers")  # packages that take a second or more, and far more at first
_PATIENCE = 1.0  # seconds after which a model that is still being loaded is told


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Say on standard error what is loaded within the block, if that takes longer than a second.

    Nothing is said outside commands, under --quiet and --json, and by others than the first process.

    Args:
        what: In words, such as "tokenizer runs/fae".
    """
    if is_silent() or not is_first_process():
        yield
        return
    later = threading.Timer(_PATIENCE, _say, [what])
    later.daemon = True
    later.start()
    try:
        yield
    finally:
        later.cancel()


@contextmanager
def announced_imports() -> Iterator[None]:
    """Within it a command says so at once when it imports a heavy package: nothing else can run while one is linked."""
    finder = _Announcing()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Announcing(MetaPathFinder):
    """Finds heavy packages as Python does, and says so when one is executed; to look for one says nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in _HEAVY else None
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def announced(module: ModuleType) -> None:
            if not is_silent() and is_first_process():
                _say(fullname)
            execute(module)

        loader.exec_module = announced
        return spec


def _say(what: str) -> None:
    typer.echo(f"loading {what} ...", err=True)
