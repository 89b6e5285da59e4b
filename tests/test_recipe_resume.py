"""What `fae run --resume` does anew where an earlier step's result has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fae_core.errors import FAEError
from fae_core.recipes.recipe import load_recipe, run_recipe

STEPS = """
variables: {data: ""}
steps:
  - {name: crops, run: "crops {data} --out {out}/crops --count 2 --size 16"}
  - {name: latents, resumable: true, run: "encode --data {out}/crops/train --model fae-tiny --out {out}/latents"}
  - {name: smaller, run: "crops {out}/crops/train --out {out}/smaller --count 1 --size 8"}
"""
OTHER_IMAGES = r"latents was begun with source .* other images"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name, gradient in (("one", Image.linear_gradient("L")), ("other", Image.radial_gradient("L"))):
        (tmp_path / name).mkdir()
        gradient.resize((40, 40)).convert("RGB").save(tmp_path / name / "a.png")
    path = tmp_path / "recipe.yaml"
    path.write_text(STEPS)
    return path


def run(recipe: Path, data: str, **how: object) -> list[str]:
    """The names of the steps that are recorded as done, after a call with these images."""
    out = recipe.parent / "run"
    loaded = load_recipe(recipe, {"data": str(recipe.parent / data)})
    return [entry["name"] for entry in run_recipe(loaded, out, resume=out.exists(), **how)]  # pyright: ignore


def recorded(recipe: Path) -> list[str]:
    return [entry["name"] for entry in json.loads((recipe.parent / "run" / "steps.json").read_text())["steps"]]


def test_a_resumable_step_compares_what_an_earlier_one_made_anew(recipe: Path) -> None:
    assert run(recipe, "one") == ["crops", "latents", "smaller"]
    index = recipe.parent / "run" / "latents" / "index.json"
    before = index.read_bytes()
    with pytest.raises(FAEError, match=OTHER_IMAGES):  # it was begun with other images
        run(recipe, "other")
    assert recorded(recipe) == ["crops"] and index.read_bytes() == before
    assert run(recipe, "one") == ["crops", "latents", "smaller"]  # the same crops again, so that the latents stay
    assert index.read_bytes() == before


def test_what_reads_a_result_made_anew_is_not_done_until_it_ran(recipe: Path) -> None:
    run(recipe, "one")
    assert run(recipe, "other", only=["crops"]) == ["crops"]
    with pytest.raises(FAEError, match=OTHER_IMAGES):
        run(recipe, "other")
