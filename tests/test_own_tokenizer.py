"""examples/own-tokenizer and docs/bring-your-latent-space.md: a space of thirty lines, compared with another."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from page_blocks import blocks
from PIL import Image

from fae_core import LatentStore, load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.plugins import load_plugins

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "own-tokenizer"
CODE = (EXAMPLE / "src" / "patch_pca" / "__init__.py").read_text(encoding="utf-8")
BLOCKS = [(block.language, block.text) for block in blocks("docs/bring-your-latent-space.md")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the page's blocks were run, with the example installed."""
    folder = tmp_path_factory.mktemp("page")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = folder / "site" / f"patch_pca-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: patch-pca\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    points = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for group, values in groups]
    (info / "entry_points.txt").write_text("\n".join(points))
    random = np.random.default_rng(0)
    for label in ("clouds", "stones"):
        (folder / "IMAGES" / label).mkdir(parents=True)
        for number in range(8):
            small = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
            small.resize((32, 32), Image.Resampling.BILINEAR).save(folder / "IMAGES" / label / f"{number}.png")
    added = [str(EXAMPLE / "src"), str(folder / "site")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for path in added:
            patch.syspath_prepend(path)
        load_plugins.cache_clear()
        for language, block in BLOCKS[1:]:
            if language == "python":
                exec(compile(block, "page", "exec"), {"__name__": "page"})
                continue
            for line in block.replace("\\\n", " ").splitlines():
                program, *words = shlex.split(line.replace("recipes/", f"{ROOT}/recipes/"))
                if program == "fae":  # it is installed already
                    _run(words)
        yield folder
    load_plugins.cache_clear()
    sys.modules.pop("patch_pca", None)


def _run(words: list[str]) -> None:
    """One command of the page, at the smallest size."""
    small = {
        "train": ["--steps", "2", "--batch-size", "4"],
        "sample": ["--count", "4"],
        "run": ["--size", "smoke"],
    }
    invoke([*words, *small.get(words[0], []), *(["--device", "cpu"] if words[0] in ("train", "sample") else [])])


def test_the_page_shows_the_example_which_has_thirty_lines() -> None:
    assert BLOCKS[0] == ("python", CODE)
    imports, _, body = CODE.partition("class PatchPCAConfig")
    assert len([line for line in body.splitlines() if line.strip()]) <= 30
    assert "fae_core" in imports


@pytest.mark.slow
def test_its_blocks_run_and_the_figure_has_both_spaces(ran: Path) -> None:
    pca, store = load_tokenizer(ran / "runs" / "pca"), LatentStore(ran / "runs" / "latents-pca")
    assert store.spec == pca.spec and store.spec.shape == (16, 8, 8)
    images = torch.from_numpy(
        np.stack([np.asarray(Image.open(path)) for path in sorted((ran / "IMAGES").rglob("*.png"))])
    )
    x = images.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(store.read(range(16))[0], pca.encode(x), atol=5e-3, rtol=5e-3)
    assert (pca.decode(pca.encode(x)) - x).abs().mean() < 0.05
    assert len(list((ran / "runs" / "samples-pca" / "images").glob("*.png"))) == 4
    compared = json.loads((ran / "runs" / "compared" / "convergence" / "compared.json").read_text())
    assert [row[:2] for row in compared["table"]["rows"]] == [["FAE", 1], ["PCA", 1]]
    drawn = (ran / "runs" / "compared" / "convergence" / "compared.svg").read_text()
    assert "FAE" in drawn and "PCA" in drawn
    page = (ran / "runs" / "compared" / "report.html").read_text()
    assert "compared.svg" in page or "<svg" in page
