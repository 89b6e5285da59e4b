"""docs/results/paper.md is what the recipes and presets give, and its numbers are the paper's."""

from __future__ import annotations

import re

import pytest
from paper_commands import commands
from paper_results import NUMBERS, PAGE, gpu_hours, hours_text, render, settings_text

from fae_core.files import read_yaml
from fae_core.testing.shared import shared_folder


def without_hours(page: str) -> str:
    """The page with the last cells of tables that end in GPU-hours emptied."""
    return re.sub(r"(?<=\| )[\d,]+ \|$", "|", page, flags=re.M)


def test_the_page_is_up_to_date_but_for_its_hours() -> None:
    assert without_hours(PAGE.read_text("utf-8")) == render(lambda command: 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted({command.stage for command in commands().values() if command.trains}))
def test_the_hours_of_a_stage_are_up_to_date(stage: str) -> None:
    """Of one preset for each stage and kind of generator: counting all of them takes minutes."""
    command = next(command for command in commands().values() if command.trains and command.stage == stage)
    row = f"| {command.step} | {settings_text(command)} | {hours_text(gpu_hours(command))} |"
    assert row in PAGE.read_text("utf-8")


def test_hours_are_those_of_the_counted_flops() -> None:
    # 711.8 GFLOPs a sample (`fae info lightningdit-xl --gpus 8`), 1,024 M samples, 40 % of 989 TFLOP/s.
    assert gpu_hours(commands()["table2/shift"]) == pytest.approx(711.8e9 * 1.024e9 / 3.956e14 / 3600, rel=1e-3)


def test_every_number_is_in_the_papers_text() -> None:
    text = max((path.read_text("utf-8") for path in shared_folder("paper").glob("*.txt")), key=len).replace("*", "")
    for recipe, tables in read_yaml(NUMBERS).items():
        for table in tables:
            for label, numbers in table["rows"].items():
                assert len(numbers) == len(table["columns"]), (recipe, label)
                cells = r"\s*\|\s*".join(map(re.escape, numbers))
                assert re.search(rf"(?<![\d.]){cells}(?!\d)", text), (recipe, label)


def test_every_recipe_with_numbers_exists_and_the_others_have_none_in_the_paper() -> None:
    recipes = {command.recipe for command in commands().values()}
    assert read_yaml(NUMBERS).keys() <= recipes
    # Of these the paper prints pictures, or what another recipe measures.
    pictures = {"similarity", "text-to-image-256", "text-to-image-384"}
    tokenizers = {"tokenizer-registers", "tokenizer-siglip2-256", "tokenizer-siglip2-384"}
    assert recipes - read_yaml(NUMBERS).keys() == pictures | tokenizers
