"""Class names from a folder of images to a generator's samples: they go along, and are asked for by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import load_generator, load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.images import open_images
from fae_core.latent_store import write_store
from fae_core.sampling.draw import class_names_of
from fae_decoders import ConvVAE, ConvVAEConfig
from fae_eval.data import GeneratedSamples, open_samples

NAMES = ["cat", "dog", "grey, African"]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, latents of three classes, and a generator after four steps, with a checkpoint at two."""
    root = tmp_path_factory.mktemp("line")
    torch.manual_seed(0)
    tiny = {"image_size": 16, "channels": 4, "widths": (16, 32), "blocks": 1, "norm_groups": 8}
    ConvVAE(ConvVAEConfig(**tiny)).save_pretrained(root / "vae")
    latents = torch.randn(12, 4, 8, 8)
    write_store(root / "latents", load_tokenizer(root / "vae").spec, latents, labels=[0, 1, 2] * 4, classes=NAMES)
    training = "--steps 4 --batch-size 4 --set training.checkpoint_every=2 --set training.keep_checkpoints=3"
    small = "--set model.width=32 --set model.depth=1 --set model.heads=2"
    command = f"train diffusion --latents {root}/latents --preset sit-tiny --out {root}/sit --device cpu"
    invoke(f"{command} {training} {small}".split())
    return root


def sampled(line: Path, out: Path, labels: str, *more: str, generator: str = "sit") -> dict:
    models = ["--generator", str(line / generator), "--decoder", str(line / "vae")]
    invoke(["sample", *models, "--out", str(out), "--count", "4", "--columns", "4", "--labels", labels, *more])
    return json.loads((out / "samples.json").read_text())


def test_a_generator_knows_its_classes_wherever_it_is_loaded_from(line: Path) -> None:
    checkpoint = min((line / "sit" / "checkpoints").glob("step-*"))
    for place in (line / "sit", line / "sit" / "model", checkpoint):
        assert class_names_of(load_generator(place)) == tuple(NAMES)


def test_a_checkpoint_knows_them_wherever_its_run_was_started(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped early has no model folder yet, and its record may name its latents as they were typed."""
    monkeypatch.chdir(line)
    small = "--steps 1 --batch-size 4 --set model.width=32 --set model.depth=1 --set model.heads=2 --device cpu"
    invoke(f"train diffusion --latents latents --preset sit-tiny --out {tmp_path}/run {small}".split())
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert class_names_of(load_generator(checkpoint)) == tuple(NAMES)
    record = sampled(line, tmp_path / "s", "dog", "--set", "steps=1", generator=str(checkpoint))
    assert record["labels"] == [1] * 4


def test_samples_are_asked_for_by_name_and_carry_them(line: Path, tmp_path: Path) -> None:
    record = sampled(line, tmp_path / "s", "dog, grey, African, cat", "--set", "steps=2")
    assert record["labels"] == [1, 2, 0, 1] and record["class_names"] == NAMES
    packed = open_images(tmp_path / "s" / "samples.npz")
    assert packed.labels == [1, 2, 0, 1] and packed.classes == NAMES
    opened = open_samples(tmp_path / "s")
    assert opened.labels == [1, 2, 0, 1] and opened.classes == NAMES
    # Sixteen pixels of picture, and a line of text below.
    height = Image.open(tmp_path / "s" / "grid.png").height
    assert height > 24
    by_number = sampled(line, tmp_path / "n", "1,2,0", "--set", "steps=2")
    assert by_number["labels"] == record["labels"]
    for i in range(4):
        one, other = (np.asarray(Image.open(tmp_path / side / "images" / f"{i:06d}.png")) for side in ("s", "n"))
        assert (one == other).all()


def test_the_grid_has_a_column_for_each_class_and_draws_pictures_as_large_as_asked(line: Path, tmp_path: Path) -> None:
    models = f"sample --generator {line}/sit --decoder {line}/vae --count 4 --labels cat,2 --no-npz --set steps=1"
    for name, more, width in (("s", [], 2 * 64 + 2), ("t", ["--scale", "2"], 2 * 32 + 2)):
        invoke([*models.split(), "--out", str(tmp_path / name), *more])
        grid = np.asarray(Image.open(tmp_path / name / "grid.png"))
        line_height = grid.shape[0] - (width - 2) - 2
        assert grid.shape[1] == width and line_height > 8 and grid[:line_height].min() < 128
    with pytest.raises(FAEError, match="smaller --scale"):
        invoke(
            [*models.split(), "--count", "16000", "--columns", "1000", "--scale", "32", "--out", str(tmp_path / "u")]
        )
    assert not (tmp_path / "u").exists()


def test_an_unknown_class_is_answered_with_near_ones_before_anything_is_written(line: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown class 'dgo'; did you mean dog"):
        sampled(line, tmp_path / "s", "cat,dgo")
    with pytest.raises(FAEError, match="between 0 and 2"):
        sampled(line, tmp_path / "s", "cat,3")
    assert not (tmp_path / "s").exists()


def test_evaluation_draws_by_name_too(line: Path) -> None:
    drawn = GeneratedSamples(line / "sit", line / "vae", 3, labels="dog", options={"steps": 1})
    next(drawn.batches(3))
    assert drawn.labels == [1, 1, 1]


def test_a_bundle_carries_the_names(line: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    invoke(f"bundle --tokenizer {line}/vae --generator {line}/sit --dtype float32 --out {bundle}".split())
    assert class_names_of(load_generator(bundle)) == tuple(NAMES)
    assert "Classes, for `--labels`: cat, dog, grey, African." in (bundle / "README.md").read_text()
    models = f"sample --model {bundle} --out {tmp_path}/s --count 2 --no-npz --set steps=1 --labels dog"
    invoke(models.split())
    assert json.loads((tmp_path / "s" / "samples.json").read_text())["labels"] == [1, 1]


def test_models_without_names_are_asked_by_number(line: Path, tmp_path: Path) -> None:
    model = load_generator(line / "sit")
    model.class_names = None
    model.save_pretrained(tmp_path / "nameless")
    assert class_names_of(load_generator(tmp_path / "nameless")) is None
    record = sampled(line, tmp_path / "s", "2", "--set", "steps=1", generator=str(tmp_path / "nameless"))
    assert record["labels"] == [2] * 4 and "class_names" not in record
    assert Image.open(tmp_path / "s" / "grid.png").height == 16
    with pytest.raises(FAEError, match="class indices such as"):
        sampled(line, tmp_path / "t", "dog", generator=str(tmp_path / "nameless"))
    config = tmp_path / "nameless" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "class_names": ["a", 3]}))
    with pytest.raises(InvalidFile, match="list of texts"):
        load_generator(tmp_path / "nameless")
