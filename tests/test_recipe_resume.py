"""What `fae run --resume` does anew where an earlier step's result has changed."""

from __future__ import annotations

import json
import shutil
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


def test_a_folder_goes_on_however_it_is_named_and_wherever_it_lies(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    run_recipe(load_recipe(recipe, {"data": "one"}), Path("runs/first"))
    for step in ("crops", "smaller"):
        Path("runs/first", step, "mine").write_text("a step that ran again would be refused")
    for data, out in (("./one", "runs/../runs/first"), (str(tmp_path / "one"), str(tmp_path / "runs" / "first"))):
        run_recipe(load_recipe(recipe, {"data": data}), Path(out), resume=True)
    monkeypatch.chdir(tmp_path / "runs")
    run_recipe(load_recipe(recipe, {"data": "../one"}), Path("first"), resume=True)
    (tmp_path / "runs" / "first").rename(tmp_path / "moved")
    run_recipe(load_recipe(recipe, {"data": "../one"}), tmp_path / "moved", resume=True)
    (tmp_path / "one").rename(tmp_path / "gone")  # the steps that read it are done
    run_recipe(load_recipe(recipe, {"data": "../one"}), tmp_path / "moved", resume=True)
    recipe.write_text(STEPS.replace("fae-tiny", "fae-small"))
    with pytest.raises(FAEError, match=r"step latents from .*fae-tiny.* not from .*fae-small"):
        run_recipe(load_recipe(recipe, {"data": "../one"}), tmp_path / "moved", resume=True)


def test_a_folder_goes_on_where_it_was_moved_together_with_its_data(recipe: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "runs").mkdir(parents=True)
    (tmp_path / "one").rename(project / "one")
    run_recipe(load_recipe(recipe, {"data": str(project / "one")}), project / "runs" / "first")
    (project / "runs" / "first" / "crops" / "mine").write_text("a step that ran again would be refused")
    for place in ("renamed", "renamed again"):
        project = project.rename(tmp_path / place)
        loaded, out = load_recipe(recipe, {"data": str(project / "one")}), project / "runs" / "first"
        run_recipe(loaded, out, resume=True)
        shutil.rmtree(out / "smaller")
        record = out / "steps.json"
        steps = json.loads(record.read_text())
        steps["steps"].pop()  # it is made again, and the record written anew
        record.write_text(json.dumps(steps))
        assert [entry["name"] for entry in run_recipe(loaded, out, resume=True)] == ["crops", "latents", "smaller"]


def test_a_record_of_an_earlier_version_has_the_folder_as_it_was_named_then(recipe: Path, tmp_path: Path) -> None:
    run(recipe, "one")
    record = tmp_path / "run" / "steps.json"
    text = record.read_text()
    assert "'{out}/latents'" in text
    record.write_text(text.replace("'{out}/", "'/elsewhere/my runs/first/"))
    (tmp_path / "run" / "crops" / "mine").write_text("a step that ran again would be refused")
    assert run(recipe, "one") == ["crops", "latents", "smaller"]
    record.write_text(text.replace("'{out}/latents'", "/elsewhere/latents"))  # and the crops of this folder
    with pytest.raises(FAEError, match=r"step latents from .*/elsewhere/latents"):
        run(recipe, "one")
