"""Recipes: variables, sizes and combinations are filled in as written, and errors are one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fae_core.cli.settings import parse_variables
from fae_core.errors import FAEError, UnknownName
from fae_core.recipes.recipe import declared_variables, load_recipe

TEXT = """
title: Sweep
variables: {data: images, steps: 100}
sizes: {smoke: {steps: 2}}
steps:
  - {name: encode, run: "encode --data {data} --out {out}/latents"}
  - name: "{rung}-{seed}"
    for: {rung: {sit: --set model.rope=false --set model.swiglu=false, dit: ""}, seed: [0, 1]}
    run: >-
      train diffusion --latents {out}/latents --steps {steps} --seed {seed} --out {out}/{rung}-{seed} {rung_options}
    resumable: true
"""


def written(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_step_stands_for_every_combination(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path), {"data": "my images"})
    assert [step.name for step in recipe.steps] == ["encode", "sit-0", "sit-1", "dit-0", "dit-1"]
    assert recipe.command(recipe.steps[0], Path("run")) == ["encode", "--data", "my images", "--out", "run/latents"]
    start = ["train", "diffusion", "--latents", "run/latents", "--steps", "100", "--seed"]
    options = ["--set", "model.rope=false", "--set", "model.swiglu=false"]
    assert recipe.command(recipe.steps[2], Path("run")) == [*start, "1", "--out", "run/sit-1", *options]
    assert recipe.command(recipe.steps[3], Path("run")) == [*start, "0", "--out", "run/dit-0"]
    assert not recipe.steps[0].resumable and recipe.steps[1].resumable


def test_sizes_set_variables_and_overrides_come_last(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert load_recipe(path, size="smoke").variables == {"data": "images", "steps": "2"}
    assert load_recipe(path, {"steps": 7}, size="smoke").variables["steps"] == "7"
    with pytest.raises(UnknownName, match="size of the recipe"):
        load_recipe(path, size="gpu")
    with pytest.raises(UnknownName, match="variable of the recipe"):
        load_recipe(path, {"stepz": 7})


def test_a_list_stands_for_several_arguments(tmp_path: Path) -> None:
    text = """
variables: {small: [], data: images}
sizes: {paper: {}, smoke: {small: [--steps, 2, --set, "model.width=64 # wide", true, null]}}
steps: [{name: dit, run: "train diffusion {small} --data {data} --out {out}/dit"}]
"""
    path = written(tmp_path, text)
    end = ["--data", "images", "--out", "o/dit"]
    for size in (None, "paper"):
        recipe = load_recipe(path, size=size)
        assert recipe.command(recipe.steps[0], Path("o")) == ["train", "diffusion", *end]
    recipe = load_recipe(path, {"data": "my images"}, "smoke")
    small = ["--steps", "2", "--set", "model.width=64 # wide", "true", "null"]
    assert recipe.command(recipe.steps[0], Path("o"))[2:8] == small
    assert recipe.command(recipe.steps[0], Path("o"))[9] == "my images"
    with pytest.raises(FAEError, match=r"step dit: \{small\} stands for several arguments; make it a word of its own"):
        recipe = load_recipe(written(tmp_path, text.replace("{small}", "x{small}")))
        recipe.command(recipe.steps[0], Path("o"))
    with pytest.raises(FAEError, match="variable small: a list holds the arguments"):
        load_recipe(path, {"small": [["--steps"]]})
    with pytest.raises(FAEError, match="step dit has no command"):
        recipe = load_recipe(
            written(tmp_path, text.replace("train diffusion {small} --data {data} --out {out}/dit", "{small}"))
        )
        recipe.command(recipe.steps[0], Path("o"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name: "{rung}-{seed}"', 'name: "{rung}"', "two steps named 'sit'"),
        ("seed: [0, 1]", "seed: []", "is a list of values"),
        ("seed: [0, 1]", "seed: 3", "is a list of values"),
        ("seed: [0, 1]", "seed: [[0]]", "is a list of values"),
        ("resumable: true", "resumeable: true", "a step is a mapping"),
        ("sizes: {smoke: {steps: 2}}", "sizes: [smoke]", "sizes must be a mapping"),
        ("steps:\n", "steps: 3\nmore:\n", "key in a recipe"),
    ],
)
def test_what_is_wrong_is_told(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in TEXT
    with pytest.raises(FAEError, match=message):
        load_recipe(written(tmp_path, TEXT.replace(old, new)))


def test_combinations_are_bounded(tmp_path: Path) -> None:
    many = ", ".join(map(str, range(300)))
    text = f'steps:\n  - {{name: "{{a}}-{{b}}", run: "encode", for: {{a: [{many}], b: [{many}]}}}}\n'
    with pytest.raises(FAEError, match="more than 10000 steps"):
        load_recipe(written(tmp_path, text))


SPACES = """
variables:
  seeds: [0, 1]
  spaces: {fae: runs/fae, "two words": {options: "my runs/direct", train: --set model.shift=1.66}}
sizes: {smoke: {seeds: [5]}}
steps:
  - name: "{space}-{seed}"
    for: {space: "{spaces}", seed: "{seeds}"}
    run: train diffusion --decoder "{space_options}" --seed {seed} {space_train} --out "{out}/{space}"
"""


def test_the_values_of_for_may_be_a_variables(tmp_path: Path) -> None:
    path = written(tmp_path, SPACES)
    recipe = load_recipe(path)
    assert [step.name for step in recipe.steps] == ["fae-0", "fae-1", "two words-0", "two words-1"]
    start = ["train", "diffusion", "--decoder"]
    assert recipe.command(recipe.steps[1], Path("o")) == [*start, "runs/fae", "--seed", "1", "--out", "o/fae"]
    end = ["--seed", "0", "--set", "model.shift=1.66", "--out", "o/two words"]
    assert recipe.command(recipe.steps[2], Path("o")) == [*start, "my runs/direct", *end]
    others = load_recipe(path, {"spaces": {"mine": "runs/mine"}}, size="smoke")
    assert [step.name for step in others.steps] == ["mine-5"]
    assert others.command(others.steps[0], Path("o"))[:4] == [*start, "runs/mine"]


def test_of_the_texts_of_a_value_only_null_is_empty(tmp_path: Path) -> None:
    text = "steps: [{name: '{a}', for: {a: {x: {one: 0, two: false, three: null}}}, run: '{a_one} {a_two} {a_three}.'}]"
    assert load_recipe(written(tmp_path, text)).steps[0].run == "0 false ."


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"spaces": "fae"}, "variable spaces of for: space is a list of values, or a mapping"),
        ({"spaces": {}}, "variable spaces of for: space is a list of values, or a mapping"),
        ({"spaces": {"fae": {"options": ["a"]}}}, "a value is a text, or a mapping from names to texts"),
    ],
)
def test_variables_that_are_no_values_are_refused(overrides: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(FAEError, match=message):
        load_recipe(written(tmp_path, SPACES), overrides)
    text = SPACES.replace('"{space_options}"', "{spaces}")
    recipe = load_recipe(written(tmp_path, text))
    with pytest.raises(FAEError, match=r"\{spaces\} has several values; take it in `for`"):
        recipe.command(recipe.steps[0], tmp_path)


VARIABLES = """
variables: {data: photos, steps: 100, rate: 0.5, fast: false, extra: [], spaces: {fae: runs/fae}, none: null}
steps: [{name: a, run: "encode --data {data} --steps {steps} --rate {rate} --fast {fast} --out {out}/a"}]
"""


@pytest.mark.parametrize(
    "text",
    ["photos #2", "007", "1_000", "12:30", "yes", "null", "*.png", "1.0", "2024-01-01", "[a]", " a: b", "a=b", ""],
)
def test_a_variable_that_is_a_text_takes_any_name_as_it_is(text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = written(tmp_path, VARIABLES)
    values = parse_variables(["data=x", f"data={text}"], declared_variables(recipe))
    loaded = load_recipe(recipe, values)
    assert loaded.command(loaded.steps[0], out)[:3] == ["encode", "--data", text]


def test_other_variables_are_yaml_of_their_type(tmp_path: Path) -> None:
    declared = declared_variables(written(tmp_path, VARIABLES))
    given = ["steps=1_000", "rate=1e-3", "fast=yes", "extra=[--steps, 2]", "spaces={a: b}", "none=007"]
    values = {"steps": 1000, "rate": "1e-3", "fast": True, "extra": ["--steps", 2], "spaces": {"a": "b"}, "none": 7}
    assert parse_variables(given, declared) == values
    assert parse_variables(["steps=null", "spaces.b=c"], declared) == {"steps": None, "spaces": {"b": "c"}}
    for wrong in ("steps=ten", "steps=[1]", "steps=true", "rate={a: 1}", "rate=.", "fast=1", "fast=maybe"):
        name, _, value = wrong.partition("=")
        kind = "true or false" if name == "fast" else "a number"
        message = f"--set {name}: this variable of the recipe is {kind}, not {value!r}"
        with pytest.raises(FAEError, match=re.escape(message)):
            parse_variables([wrong], declared)
    with pytest.raises(FAEError, match="KEY=VALUE"):
        parse_variables(["data"], declared)
