"""Every recipe of the paper runs at size smoke from photographs to its report; smoke differs from paper in sizes only.

Networks that would be downloaded are made here, with random weights: what is shown is that every command of every
recipe runs to its end, and that each leaves numbers for its table.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from image_standins import dino, inception, siglip, vgg
from text_standins import coco, sd_vae, t5

from fae_core.commands.groups import invoke
from fae_core.images import open_images
from fae_core.images.photographs import PHOTOGRAPHS
from fae_core.recipes.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes" / "paper"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
WIDTH = 48  # of the backbones at size smoke
# They have most of the evaluations, so a network that takes a sixth of Inception's time judges in them.
# Inception judges in the others.
SMALL_JUDGE = {"figure1", "figure6", "table5", "table6", "table7", "table8"}

# What size smoke may change: widths, depths, steps, batch, data and counts.
WIDTHS = {"width", "depth", "heads", "mlp_hidden", "layers", "text_width"}
STEPS = {"steps", "warmup_steps", "keep_at", "discriminator_start", "adversarial_start"}
OPTIONS = {"--data", "--test-images", "--reference", "--indices", "--steps", "--batch-size", "--processes"}
OPTIONS |= {"--count", "--first-count", "--high"}
# A resized backbone has no pretrained weights, and as latents as many channels as it is wide.
RESIZED = {"--weights random", f"--set encoder.channels={WIDTH}"}
FLAGS = {"--flip", "--no-npz", "--paper", "--train", "--higher-is-better"}


def settings(command: list[str]) -> Iterator[str]:
    """The words of a command, each option with its value; kept models and points of a curve are named by steps."""
    words = iter(re.sub(r"/exports/step-\d+|^\d+(?==)", "STEP", word) for word in command)
    for word in words:
        takes_value = word.startswith("--") and word not in FLAGS
        yield f"{word} {next(words)}" if takes_value else word


def is_size(setting: str) -> bool:
    """Whether smoke may have this setting where paper has another or none."""
    option, _, value = setting.partition(" ")
    if option == "--set":
        return value.partition("=")[0].rpartition(".")[2] in WIDTHS | STEPS or setting in RESIZED
    return option in OPTIONS or setting in RESIZED


@pytest.mark.parametrize("name", NAMES)
def test_smoke_changes_sizes_and_nothing_else(name: str) -> None:
    paper, smoke = (load_recipe(RECIPES / f"{name}.yaml", size=size) for size in ("paper", "smoke"))
    assert load_recipe(RECIPES / f"{name}.yaml").variables == paper.variables
    assert paper.steps == smoke.steps
    for step in paper.steps:
        large, small = (list(settings(recipe.command(step, Path("out")))) for recipe in (paper, smoke))
        changed = [setting for setting in small if setting not in large]
        assert all(is_size(setting) for setting in changed), (step.name, changed)
        left_out = [setting for setting in large if setting not in small]
        assert all(is_size(setting) for setting in left_out), (step.name, left_out)


@pytest.mark.parametrize(
    "setting",
    [
        "--preset sit-tiny",
        "--guidance 2",
        "--weights pip",
        "--extractor dinov2",
        "--set training.learning_rate=1e-3",
        "--set encoder.channels=16",
        "--set noise.losses.perceptual=null",
        "--set model.sampling.method=euler",
        "--flip",
    ],
)
def test_what_is_no_size_is_not_changed_unseen(setting: str) -> None:
    assert not is_size(setting)


@pytest.mark.parametrize("name", NAMES)
def test_every_training_command_names_its_preset(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    for step in recipe.steps:
        command = recipe.command(step, Path("out"))
        if command[0] == "train":
            assert "--preset" in command, step.name
        assert not re.search(r"tiny|demo|cifar", " ".join(command)), step.name


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs in a folder for each class, as ImageNet has them."""
    folder = tmp_path_factory.mktemp("photographs")
    source = open_images("photographs")
    for index in range(len(PHOTOGRAPHS)):
        (folder / f"class-{index}").mkdir()
        source.read(index).save(folder / f"class-{index}" / f"{index}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def standins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], str]]:
    """By variable, a function that makes a random network, or texts, in place of a download, and says where it is."""
    folder = tmp_path_factory.mktemp("standins")
    torch.manual_seed(0)
    head = {"weight": torch.randn(len(PHOTOGRAPHS), 2 * WIDTH), "bias": torch.zeros(len(PHOTOGRAPHS))}
    torch.save(head, folder / "head.pth")
    captions = coco(folder / "coco") / "captions.json"
    makers: dict[str, Callable[[], object]] = {
        "discriminator": lambda: dino(folder / "dino.safetensors"),
        "lpips": lambda: vgg(folder / "vgg.pth"),
        "inception": lambda: f"[--weights, {inception(folder / 'inception.pth')}]",
        "text_model": lambda: siglip(folder / "siglip", WIDTH),
        "text_encoder": lambda: f"[--set, model.text_encoder.name={t5(folder / 't5')}]",
        "sd_vae": lambda: sd_vae(folder / "sd-vae"),
        "head": lambda: folder / "head.pth",
        "coco": lambda: captions.parent,
        "images": lambda: captions.parent,
        "captions": lambda: captions,
        "annotations": lambda: captions,
    }
    return {name: cache(lambda make=make: str(make())) for name, make in makers.items()}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, standins: dict[str, Callable[[], str]], photographs: Path
) -> Callable[[str], Path]:
    """A function from a recipe's name to its folder after size smoke; what a recipe starts from is run before it."""
    runs = tmp_path_factory.mktemp("runs")

    def finish(name: str) -> Path:
        out = runs / name
        if out.exists():
            return out
        path = RECIPES / f"{name}.yaml"
        chosen = {}
        for key, value in load_recipe(path, size="smoke").variables.items():
            if key == "inception" and name in SMALL_JUDGE:
                chosen[key] = "[--extractor, resnet50-thin@32]"
            elif key in standins:
                chosen[key] = standins[key]()
            elif isinstance(value, str) and value.startswith("photographs"):
                chosen[key] = value.replace("photographs", str(photographs))
            elif isinstance(value, str) and value.startswith("runs/"):
                _, other, *rest = value.split("/")
                chosen[key] = str(finish(other).joinpath(*rest))
        options = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
        # torch.compile changes speed only, and takes longer than all of a smoke run.
        with torch.compiler.set_stance("force_eager"):
            invoke(["run", str(path), "--out", str(out), "--size", "smoke", *options])
        return out

    return finish


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_from_photographs_to_its_table(name: str, finished: Callable[[str], Path]) -> None:
    out = finished(name)
    recipe = load_recipe(RECIPES / f"{name}.yaml", size="smoke")
    assert len(json.loads((out / "steps.json").read_text())["steps"]) == len(recipe.steps)
    for step in recipe.steps:
        command = recipe.command(step, out)
        assert Path(command[command.index("--out") + 1]).exists(), step.name
    rows = [row for path in out.rglob("*.json") for row in rows_of(path)]
    assert rows or list(out.rglob("grid.png"))
    for row in rows:
        numbers = [cell for cell in row if isinstance(cell, int | float)]
        assert numbers and all(map(math.isfinite, numbers)), row
    assert (out / "report.html").stat().st_size > 10_000


def rows_of(path: Path) -> list[list[object]]:
    """The rows of a measurement; none of another file."""
    content = json.loads(path.read_text())
    return content["table"]["rows"] if isinstance(content, dict) and "table" in content else []
