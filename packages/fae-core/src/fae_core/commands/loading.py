"""What a command says before it waits: packages, models and downloads are loaded in silence otherwise."""

from __future__ import annotations

import sys
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


def loading(what: str) -> None:
    """Say on standard error what is loaded now; nothing outside commands, under --quiet and --json, or by others than
    the first process.

    Args:
        what: In words, such as "tokenizer runs/fae".
    """
    if not is_silent() and is_first_process():
        typer.echo(f"loading {what} ...", err=True)


@contextmanager
def announced_imports() -> Iterator[None]:
    """Within it `loading` is called before a heavy package is imported."""
    if any(isinstance(finder, _Announcing) for finder in sys.meta_path):  # a command within a command
        yield
        return
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
            loading(fullname)
            execute(module)

        loader.exec_module = announced
        return spec
