"""Examples in help are taken by their command, and commands to run next can be copied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fae_core.commands.groups import every_command
from fae_core.plugins import load_plugins
from fae_core.recipes.read import load_recipe
from fae_core.training import TrainConfig
from fae_encoder.config import FAEEncoderConfig

SECTIONS = {"training": TrainConfig, "encoder": FAEEncoderConfig}
ROOT = Path(__file__).parents[1]
ARGUMENTS_OF_ORIGINALS = "import "  # `fae import ... --set` takes those of somebody else's classes


def examples() -> list[tuple[str, str, str]]:
    """Every command with --set: its words, its help, and the example's key."""
    found = []
    for words, command in every_command().items():
        for option in command.params:
            if "--set" in option.opts and not words.startswith(ARGUMENTS_OF_ORIGINALS):
                (key,) = re.findall(r"e\.g\. ([\w.]+)=", option.help)
                found.append((words, " ".join(command.help.split()), key))
    return found


@pytest.mark.parametrize(("words", "text", "key"), examples())
def test_the_example_of_set_is_one_that_the_command_takes(words: str, text: str, key: str) -> None:
    section, _, name = key.partition(".")
    if name:
        assert name in SECTIONS[section].model_fields
        assert "of --set" not in text or section in text.partition("of --set")[2]
    elif words == "run":
        assert key in load_recipe(ROOT / "recipes" / "cifar10-cpu.yaml").variables
    else:
        assert key in load_plugins("fae.configs")["lightningdit.sample"].load().model_fields


def test_commands_to_run_next_are_made_where_paths_are_quoted() -> None:
    sources = [path for path in ROOT.glob("packages/*/src/**/*.py") if "next: fae " in path.read_text()]
    assert sources == []  # but f"next: {command_line(...)}"
