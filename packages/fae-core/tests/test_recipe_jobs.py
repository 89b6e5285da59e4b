"""Steps in parallel: each waits for what it reads, and after a failure the others still end and are recorded."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from fae_core.cli import demo
from fae_core.errors import FAEError
from fae_core.recipes import jobs
from fae_core.recipes.jobs import needs
from fae_core.recipes.recipe import load_recipe, run_recipe


def test_a_step_needs_the_earlier_ones_whose_results_it_names() -> None:
    commands = {
        "features": "encode --data images --out run/features",
        "a-0": "train diffusion --latents run/features --out run/a-0",
        "a-1": "train diffusion --latents run/other --set data.path=run/features/shards --out run/a-1",
        "b": "train diffusion --latents elsewhere --out run/b",
        "curve-0": "eval convergence --generator run/a-0 --out run/results/a-0.json",
        "curve-1": "eval convergence --generator run/a-1 --out=run/results/a-1.json",
        "compare": "eval compare A=run/results/a-*.json --out run/compared.json",
        "first": "eval compare A=run/results/*-0.json --out run/first.json",
        "report": "eval report run --out run/report.html",
    }
    found = needs({name: command.split() for name, command in commands.items()})
    assert {name: sorted(wanted) for name, wanted in found.items()} == {
        "features": [],
        "a-0": ["features"],
        "a-1": ["features"],
        "b": [],
        "curve-0": ["a-0"],
        "curve-1": ["a-1"],
        "compare": ["curve-0", "curve-1"],
        "first": ["curve-0"],
        "report": ["a-0", "a-1", "b", "compare", "curve-0", "curve-1", "features", "first"],
    }


def test_in_the_demo_two_steps_can_always_run_at_once() -> None:
    recipe = load_recipe(Path(demo.__file__).parents[1] / "recipes" / "demo.yaml")
    wanted = needs({step.name: recipe.command(step, Path("run")) for step in recipe.steps})
    assert wanted["autoencoder"] == wanted["pixel-noise"] == {"crops"}  # stage Ib sees the frozen backbone alone
    assert wanted["encode"] == {"crops", "autoencoder"}  # latents do not wait for a pixel decoder
    assert wanted["tokenizer"] == {"crops", "autoencoder", "pixel-noise"}
    assert wanted["diffusion"] == wanted["flow"] == {"encode"}
    assert wanted["samples-diffusion"] == {"diffusion", "tokenizer"}
    assert wanted["samples-flow"] == {"flow", "tokenizer"}
    assert wanted["reconstruct"] == {"crops", "tokenizer"}
    assert wanted["report"] == wanted.keys() - {"report"}


def test_the_demo_runs_one_step_at_a_time_on_one_core() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert demo._jobs_that_fit() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    folder = tmp_path / "photos" / "grey"
    folder.mkdir(parents=True)
    Image.linear_gradient("L").resize((60, 50)).convert("RGB").save(folder / "a.png")
    return folder.parent


def written(tmp_path: Path, photo: Path, second: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "title: At once\nsteps:\n"
        f'  - {{name: first, run: "crops {photo} --out {{out}}/first --count 2 --size 16"}}\n'
        f'  - {{name: second, run: "crops {second} --out {{out}}/second --count 2 --size 16"}}\n'
        f'  - {{name: third, run: "crops {{out}}/second/train --out {{out}}/third --count 3 --size 8"}}\n'
    )
    return path


@pytest.mark.slow
def test_steps_at_once_do_what_one_after_the_other_does(photo: Path, tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, photo, str(photo)))
    one, many = tmp_path / "one", tmp_path / "many"
    run_recipe(recipe, one)
    record = run_recipe(recipe, many, jobs=3)
    assert sorted(entry["name"] for entry in record) == ["first", "second", "third"]
    assert record[-1]["name"] == "third"  # it reads the second's
    assert json.loads((many / "steps.json").read_text())["steps"] == record
    pictures = [path.relative_to(one) for path in sorted(one.rglob("*.png"))]
    assert len(pictures) == 7
    assert all((many / path).read_bytes() == (one / path).read_bytes() for path in pictures)


@pytest.mark.slow
def test_a_failure_is_named_and_the_rest_is_kept_for_resume(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(FAEError, match=r"step second ended with status 2: error: .*nowhere.*logs/second\.log"):
        run_recipe(load_recipe(written(tmp_path, photo, str(tmp_path / "nowhere"))), out, jobs=2)
    stored = json.loads((out / "steps.json").read_text())["steps"]
    assert [entry["name"] for entry in stored] == ["first"]  # what ran beside it was waited for
    (out / "first" / "marker").touch()
    record = run_recipe(load_recipe(written(tmp_path, photo, str(photo))), out, jobs=2, resume=True)
    assert sorted(entry["name"] for entry in record) == ["first", "second", "third"]
    assert (out / "first" / "marker").is_file()


@pytest.mark.slow
def test_what_running_steps_told_last_is_shown(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_TELL_SECONDS", 0.0)
    run_recipe(load_recipe(written(tmp_path, photo, str(photo))), tmp_path / "run", jobs=2)
    lines = capsys.readouterr().err.splitlines()
    assert any(re.match(r"first, \d+ s(: .*)?; second, \d+ s", line) for line in lines)
