"""Every command of docs/official-checkpoints.md exists, with its options and the sampling settings that it names."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from page_blocks import blocks

from fae_core.plugins import load_plugins
from fae_diffusion.samplers.config import NAMED

BLOCKS = [block for block in blocks("docs/official-checkpoints.md") if block.language == "bash"]
COMMANDS = [line for block in BLOCKS for line in block.text.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_it_can_be_typed_as_it_stands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(line)
    for word in words[1:]:  # places of files and folders are looked at before anything else
        place = Path(word)
        if place.suffix in (".pt", ".safetensors", ".txt"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        elif place.parts[0] == "models":
            place.mkdir(parents=True, exist_ok=True)
            (place / "config.json").touch()
    points = load_plugins("fae.commands")
    count = next(n for n in (2, 1) if ".".join(words[:n]) in points)
    app = typer.Typer(add_completion=False)
    app.command()(points[".".join(words[:count])].load())
    given = typer.main.get_command(app).make_context("fae", words[count:]).params
    assert program == "fae" and given["out"]
    if words[0] == "sample":
        assert given["sampling"] in NAMED


def test_what_is_sampled_was_imported_for_the_same_latents() -> None:
    made: dict[str, str | None] = {}
    for line in COMMANDS:
        words = shlex.split(line)
        option = dict(pairwise(words))
        if words[1] == "import":
            assert option.get("--spec") in (None, *made)
            made[option["--out"]] = option.get("--spec")
        else:
            assert made[option["--generator"]] == option["--decoder"]
