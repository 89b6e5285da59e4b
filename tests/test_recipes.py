"""Every recipe runs from its first command to its last, at its smoke size, on a few synthetic images in CIFAR-10's
layout."""

from __future__ import annotations

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fae_core.commands.groups import invoke
from fae_core.files import read_yaml
from fae_core.images import open_images
from fae_core.recipes.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
# In an order in which each finds the results that it compares with.
CLAIMS = {
    "convergence": (),
    "flow": (),
    "adapters": (),
    "channels": ("adapters",),
    "aligned": ("convergence",),
    "ladder": ("convergence",),
    "shift": ("convergence",),
    "text": (),
    "bundle": (),
    "beta": ("adapters",),
    "latent-norm": ("adapters",),
}
FLAT = {
    "red": (220, 30, 30),
    "brown": (120, 80, 40),
    "yellow": (230, 210, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 200),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "black": (20, 20, 20),
}


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight pictures of 32 pixels in ten classes, a colour each."""
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    random = np.random.default_rng(0)
    rows = []
    for index in range(48):
        pixels = random.integers(0, 60, (32, 32, 3)) + np.array([20 * (index % 10), 100, 180 - 15 * (index % 10)])
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        rows.append({"img": {"bytes": buffer.getvalue(), "path": None}, "label": index % 10})
    pq.write_table(pa.Table.from_pylist(rows), path)
    (path.parent / "classes.json").write_text('["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]')
    return path


@pytest.fixture(scope="module")
def spaces(parquet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("claims") / "spaces"
    run("spaces", out, f"data={parquet}")
    return out


def run(name: str, out: Path, *variables: str) -> None:
    options = [part for variable in variables for part in ("--set", variable)]
    invoke(["run", str(RECIPES / "claims" / f"{name}.yaml"), "--out", str(out), "--size", "smoke", *options])


@pytest.mark.slow
def test_the_claims_recipes_run_to_their_ends(parquet: Path, spaces: Path) -> None:
    runs = spaces.parent
    for name, others in CLAIMS.items():
        needs = [f"{other}={runs / other}" for other in others]
        prompts = [f"{key}={RECIPES}/claims/prompts-{key}.txt" for key in ("seen", "unseen")] if name == "text" else []
        run(name, runs / name, f"data={parquet}", f"spaces={spaces}", *needs, *prompts)
        assert (runs / name / "report.html").stat().st_size > 10_000
        if name not in ("text", "bundle"):
            assert "<svg" in (runs / name / "results" / "compared.svg").read_text()
            judged = json.loads((runs / name / "results" / "compared-also.json").read_text())["table"]
            assert judged["columns"][2:4] == ["FDr", "FD-resnet50-thin@32"]
    compare_five_spaces(parquet, spaces, runs)


def compare_five_spaces(parquet: Path, spaces: Path, runs: Path) -> None:
    """The general recipe on the spaces that it names, where the claims' recipes have made them."""
    recipe = RECIPES / "compare-spaces.yaml"
    named = read_yaml(recipe)["variables"]["spaces"]
    places = json.dumps(named).replace("runs/spaces/", f"{spaces}/").replace("runs/", f"{runs}/")
    options = ["--set", f"spaces={places}", "--set", f"train={parquet}", "--set", f"held_out={parquet}[32:]"]
    options += ["--set", f"floor={parquet}[:8]"]
    invoke(["run", str(recipe), "--out", str(runs / "compared"), "--size", "smoke", *options])
    table = json.loads((runs / "compared" / "convergence" / "compared.json").read_text())["table"]
    assert [row[:2] for row in table["rows"]] == [[name, 1] for name in sorted(named)] and len(named) == 5


def test_the_samplers_of_the_bundle_are_measured_to_the_end(parquet: Path, tmp_path: Path) -> None:
    run("samplers", tmp_path / "samplers", f"data={parquet}")
    assert "<svg" in (tmp_path / "samplers" / "results" / "sampling-grid.svg").read_text()
    assert "The fewest evaluations" in (tmp_path / "samplers" / "report.html").read_text()


@pytest.mark.slow
def test_few_steps_are_compared_to_the_end(parquet: Path, tmp_path: Path) -> None:
    run("few-steps", tmp_path / "few", f"data={parquet}")
    for results in ("results", "results-also"):
        assert "MeanFlow, 1" in (tmp_path / "few" / results / "compared.svg").read_text()


def test_colours_are_put_into_captions_and_counted_in_pictures(parquet: Path, tmp_path: Path) -> None:
    words = runpy.run_path(str(RECIPES / "claims" / "color_words.py"))
    for color, pixel in FLAT.items():
        assert words["color_word"](np.full((32, 32, 3), pixel, np.uint8)) == color
    halves = np.full((32, 32, 3), FLAT["red"], np.uint8)
    halves[16:, :16] = FLAT["blue"]
    halves[16:, 16:] = FLAT["green"]
    assert words["color_word"](halves) == "red"  # half of the middle
    halves[:16, 16:] = FLAT["black"]
    assert words["color_word"](halves) is None
    assert words["caption_of"](np.full((32, 32, 3), FLAT["red"], np.uint8), "truck") == "a photo of a truck"
    assert words["caption_of"](np.full((32, 32, 3), FLAT["red"], np.uint8), "ship") == "a photo of a red ship"
    words["caption"](parquet, tmp_path / "colored")
    captioned = open_images(tmp_path / "colored" / "images.parquet")
    assert captioned.labels == open_images(parquet).labels and captioned.classes == list("abcdefghij")
    assert [text.split()[-1] for text in captioned.captions[:10]] == list("abcdefghij")
    run(
        "colors",
        tmp_path / "colors",
        f"data={tmp_path}/colored/images.parquet",
        f"prompts={RECIPES}/claims/prompts-colors.txt",
    )
    words["heard"](tmp_path / "colors" / "samples", tmp_path / "colors" / "results" / "heard.json")
    rows = json.loads((tmp_path / "colors" / "results" / "heard.json").read_text())["table"]["rows"]
    assert [row[:2] for row in rows[:2]] == [["named in training", 76], ["never named together", 4]]


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_names_commands_that_exist(path: Path) -> None:
    recipe = load_recipe(path)
    recipe.check_commands()
    for step in recipe.steps:
        assert "{" not in " ".join(recipe.command(step, Path("out"))), step.name
