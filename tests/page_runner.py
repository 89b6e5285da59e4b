"""Runs the blocks of a page in a folder of their own, as docs/blocks.yaml says: `fae` and Python in this process, all
else in a shell."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from page_blocks import LANGUAGES, ROOT, blocks, lines

from fae_core.commands.groups import every_command, invoke
from fae_core.files import read_yaml
from fae_core.models.presets import preset_files
from fae_core.plugins import load_plugins

TABLE = read_yaml(ROOT / "docs" / "blocks.yaml")
# Programs that change the machine or this environment; a block that has one must be marked.
_FORBIDDEN = {
    "pip",
    "pip3",
    "uv",
    "hatch",
    "conda",
    "apt",
    "apt-get",
    "sudo",
    "npm",
    "git",
    "sbatch",
    "srun",
    "torchrun",
}
_SHARED = ("recipes", "tools", "examples", "packages")  # folders of the checkout that pages name


class World:
    """The inputs of docs/blocks.yaml, each made when it is first needed.

    Args:
        folder: Where they are made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The path of an input or of something in it, such as "images/train"."""
        first = name.split("/")[0]
        if not (self.folder / first).exists():
            command = TABLE["inputs"][first]
            for other in TABLE["inputs"]:
                if other != first and re.search(rf"(?<!\S){other}(?![\w-])", command):
                    self.path(other)
            with _inside(self.folder):
                invoke(smaller(shlex.split(command)))
        return self.folder / name


def run_page(page: str, folder: Path, world: World) -> dict[str, Any]:
    """Run every block of a page that is not marked, in order.

    Args:
        page: Path in the repository.
        folder: An empty folder, which becomes the working directory.
        world: Where inputs come from.

    Returns:
        The names that its Python blocks have defined.
    """
    run = [block for block in blocks(page) if block.language in LANGUAGES and block.reason is None]
    own = TABLE["pages"].get(page, {})
    _give("\n".join(block.text for block in run), {**TABLE["given"], **own.get("given", {})}, folder, world)
    names: dict[str, Any] = {"__name__": "page"}
    torch.manual_seed(0)
    with _inside(folder), plugin(own.get("plugin")):
        for block in run:
            text = _replaced(block.text, {**TABLE["replace"], **own.get("replace", {})})
            try:
                if block.language == "python":
                    exec(compile(text, block.place, "exec", dont_inherit=True), names)
                else:
                    _run_commands(text, own.get("options"))
            except Exception as error:
                error.add_note(f"in the block at {block.place}:\n{text}")
                raise
    return names


def smaller(words: Sequence[str], options: dict[str, str] | None = None) -> list[str]:
    """A `fae` command with the options that docs/blocks.yaml adds.

    Args:
        words: What follows `fae`.
        options: What a page has in place of the options that all have.
    """
    added = [
        o
        for start, o in {**TABLE["options"], **(options or {})}.items()
        if f"{' '.join(words)} ".startswith(f"{start} ")
    ]
    if "--help" in words or "--dry-run" in words:
        return list(words)
    known = {text for one in every_command()[_name(words)].params for text in (*one.opts, *one.secondary_opts)}
    extra: list[list[str]] = []
    for word in shlex.split(" ".join(added)):
        if word.startswith("--"):
            extra.append([])
        extra[-1].append(word)
    return [*words, *(word for option in extra if option[0] in known for word in option)]


def _name(words: Sequence[str]) -> str:
    return next(" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in every_command())


def _give(text: str, given: dict[str, str], folder: Path, world: World) -> None:
    """Put what the blocks name and do not make into the folder, as links."""
    for name in _SHARED:
        (folder / name).symlink_to(ROOT / name)
    for name, source in given.items():
        named = rf"(?<![\w./-]){re.escape(name)}(?![\w-])"
        made = rf"--out[ =]{re.escape(name)}(?![\w/-])"
        if re.search(named, text) and not re.search(made, text):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(world.path(source))


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, other in words.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(word)}(?![\w-])", other, text)
    return text


def _run_commands(text: str, options: dict[str, str] | None) -> None:
    for words in lines(text):
        assert not _FORBIDDEN & {Path(word).name for word in words}, (
            f"{shlex.join(words)} must not be run: mark its block"
        )
        if words[0] == "fae":
            invoke(smaller(words[1:], options))
        else:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            shell = " ".join(word if word in (">", ">>", "|") else shlex.quote(word) for word in words)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", shell], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{shell}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def plugin(example: str | None) -> Iterator[None]:
    """An example's package on the path, with the entry points that installing it would register.

    Args:
        example: Its folder in the repository; None: nothing is added.
    """
    if example is None:
        yield
        return
    import tempfile

    root = ROOT / example
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    with tempfile.TemporaryDirectory() as site:
        info = Path(site) / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(head)
        points = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
            for group, values in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(points))
        added = [str(root / "src"), site]
        sys.path[:0] = added
        _forget()
        try:
            yield
        finally:
            sys.path[:] = [path for path in sys.path if path not in added]
            _forget()
            modules = {path.name for path in (root / "src").iterdir()}
            for name in [name for name in sys.modules if name.partition(".")[0] in modules]:
                del sys.modules[name]


def _forget() -> None:
    """What was read about installed packages before the path changed."""
    importlib.invalidate_caches()
    for cache in (load_plugins, preset_files):
        cache.cache_clear()
