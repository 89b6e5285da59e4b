"""What `fae explore` is given, by clicks: the folder of a demo, runs of each kind, repositories of the hub."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explore_clicks import NEEDS, Visitor, chromium, serving
from page_runner import ROOT, smaller
from small_hub import small_hub

from fae_core.commands.groups import invoke
from fae_core.models.bundles import bundle_folders
from fae_core.recipes.recipe import load_recipe

pytestmark = NEEDS


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fae demo` leaves, each of its commands with fewer steps and images."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    recipe = load_recipe(ROOT / "packages/fae-core/src/fae_core/recipes/demo.yaml")
    for step in recipe.steps:
        words = shlex.split(step.run.replace("{out}", str(out)).replace("{data}", "photographs"))
        if words[0] != "eval" and not step.name.startswith("samples"):
            invoke(smaller(words))
    return out


def draws(visitor: Visitor) -> None:
    """The generator that is chosen draws two pictures."""
    visitor.fill("sample-count", 2)
    if visitor.page.locator("#sample-steps").is_visible():
        visitor.fill("sample-steps", 2)
    visitor.click("sample-start")
    visitor.wait("sample-status", "drawn with seed 0")
    assert len(set(visitor.pictures("sample-pictures"))) == 2


def test_the_folder_of_a_demo_has_both_generators_side_by_side(browser, demo, tmp_path) -> None:
    with serving(tmp_path, "--model", str(demo), "--data", f"{demo}/data/held-out") as address:
        visitor = Visitor(browser, address)
        heading = visitor.page.inner_text("#heading")
        assert "generators: diffusion, flow" in heading and "images 64x64" in heading
        visitor.tab("Side by side")
        visitor.choose("pair-class", "astronaut")
        visitor.click("pair-start")
        visitor.wait("pair-status", "diffusion on the left, flow on the right")
        sides = [visitor.pictures(f"pair-{side}-pictures") for side in ("left", "right")]
        assert [len(set(side)) for side in sides] == [4, 4] and not set(sides[0]) & set(sides[1])
        starts = [visitor.pictures(f"pair-{side}-states")[0] for side in ("left", "right")]
        assert starts[0] == starts[1], "both start at the same noise"
        visitor.tab("Pictures")
        visitor.click("next-A")
        visitor.wait("pictures-status", "image 0 of the data")
        visitor.click("reconstruct-A")
        visitor.wait("pictures-status", "reconstructed")
        assert len(visitor.pictures("reconstruction-shown")) == 4


@pytest.mark.parametrize(
    ("place", "generators"),
    [
        ("diffusion/model", "diffusion"),
        ("tokenizer", "none"),
        ("autoencoder", "none"),
    ],
)
def test_a_run_of_each_kind_is_opened(browser, demo, tmp_path, place: str, generators: str) -> None:
    with serving(tmp_path, "--model", str(demo / place), "--data", f"{demo}/data/held-out") as address:
        visitor = Visitor(browser, address, first="heading")
        assert f"generators: {generators}" in visitor.page.inner_text("#heading")
        if generators != "none":
            draws(visitor)
        visitor.tab("Pictures")
        visitor.click("next-A")
        visitor.wait("pictures-status", "image 0 of the data")
        visitor.tab("Colours")
        visitor.click("colours-start")
        visitor.wait("pictures-status", "share of the variance")
        # A run of stage Ia paints nothing, and the page offers nothing of the kind.
        tabs = {tab.strip() for tab in visitor.page.get_by_role("tab").all_inner_texts()}
        assert ("Reconstruction" in tabs) == (place != "autoencoder")


def test_names_of_the_hub_are_fetched_and_then_found_without_it(browser, demo, tmp_path) -> None:
    shutil.copytree(bundle_folders()["cifar10"], tmp_path / "hub/some/bundle")
    shutil.copytree(bundle_folders()["cifar10"] / "generator", tmp_path / "hub/some/dit")
    shutil.copytree(bundle_folders()["cifar10"] / "generator", tmp_path / "hub/some/run/model")
    options = ["--model", "some/bundle", "--generator", "some/dit", "--generator", "some/run"]
    home = {"HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*", "no_proxy": "*", "HF_HUB_DISABLE_XET": "1"}
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with (
        small_hub(tmp_path / "hub") as hub,
        serving(tmp_path / "first", *options, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0", **home) as address,
    ):
        visitor = Visitor(browser, address)
        assert "generators: lightningdit, dit, run" in visitor.page.inner_text("#heading")
        draws(visitor)
    with serving(tmp_path / "second", *options, HF_HUB_OFFLINE="1", **home) as address:
        visitor = Visitor(browser, address)
        visitor.choose("sample-generator", "run")
        draws(visitor)
