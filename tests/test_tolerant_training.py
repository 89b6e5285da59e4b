"""A run on images of which some cannot be read: it names and records them, resumes exactly, in any number of processes;
a large set is not read before its first step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from forked_group import launcher
from PIL import Image
from safetensors.torch import load_file

from fae_core.commands.groups import invoke
from fae_core.errors import DataError, InvalidFile
from fae_core.images import identity
from fae_core.training.journal import read_metrics

PROGRAM = Path(__file__).with_name("whole_line.py")
COUNT, BROKEN = 14, (3, 4, 9)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder, chance = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for number in range(COUNT):
        path = folder / f"{number:02d}.png"
        Image.fromarray(chance.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(path)
        if number in BROKEN:
            path.write_bytes(path.read_bytes()[:100])
    return folder


def words(data: Path, out: Path, *more: str) -> list[str]:
    settings = ("vae.data.cache_gb=0", "training.checkpoint_every=2", "training.log_every=1", "model.image_size=32")
    sets = [word for setting in settings for word in ("--set", setting)]
    fixed = ["--preset", "conv-vae-tiny", "--steps", "6", "--batch-size", "4", "--device", "cpu"]
    return ["train", "vae", "--data", str(data), "--out", str(out), *fixed, *sets, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}/{name}": tensor
        for path in sorted((run / "model").rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def replaced(run: Path) -> dict[int, str]:
    lines = (line.partition("\t") for line in (run / "unreadable.txt").read_text().splitlines())
    return {int(place): reason for place, _, reason in lines}


def test_unreadable_images_are_named_and_recorded_and_a_resumed_run_is_the_same(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    invoke(words(data, whole))
    named = " ".join(record.message for record in caplog.records)
    assert all(f"{number:02d}.png" in named for number in BROKEN)
    assert f"replaced by the next ones so far: 3; {whole}/unreadable.txt names them" in named
    assert sorted(replaced(whole)) == list(BROKEN)
    assert all(f"{number:02d}.png" in reason for number, reason in replaced(whole).items())
    shutil.copytree(whole, parted)
    for late in sorted(parted.glob("checkpoints/step-*"))[1:]:
        shutil.rmtree(late)
    shutil.rmtree(parted / "model")
    invoke(words(data, parted, "--resume"))
    assert replaced(parted) == replaced(whole)
    first, second = weights(whole), weights(parted)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_replace_and_record_what_one_does(data: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        commands = tmp_path / f"{processes}.json"
        commands.write_text(json.dumps([words(data, tmp_path / f"run-{processes}")]))
        command = [*launcher(processes), str(PROGRAM), str(commands)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (tmp_path / f"run-{processes}" for processes in (1, 2))
    assert replaced(one) == replaced(two) and sorted(replaced(one)) == list(BROKEN)
    losses = [[row["loss"] for row in read_metrics(run)] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6, abs=1e-6)


def test_a_set_that_is_mostly_unreadable_is_refused(data: Path, tmp_path: Path) -> None:
    for path in data.glob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"images from .* on can be read"):
        invoke(words(data, tmp_path / "run"))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set counts as a large one."""
    monkeypatch.setattr(identity, "MOST_FILES", 1)


def begun(data: Path, run: Path) -> None:
    """A run that was cut off after step 2 of 6."""
    invoke(words(data, run))
    for late in sorted(run.glob("checkpoints/step-*"))[1:]:
        shutil.rmtree(late)
    shutil.rmtree(run / "model")


def recorded(run: Path) -> str:
    return yaml.safe_load((run / "config.yaml").read_text())["identity"]["images"]


@pytest.mark.usefixtures("large")
def test_a_large_set_is_known_by_facts_about_its_files_and_a_changed_file_is_noticed(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begun(data, run)
    assert recorded(run).startswith("files-")
    data.rename(tmp_path / "moved")
    invoke(words(tmp_path / "moved", run, "--resume"))  # the same files in another place
    shutil.rmtree(run / "model")
    file = tmp_path / "moved" / "00.png"
    before, times = file.read_bytes(), file.stat()
    file.write_bytes(before[:-1] + b"x")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same name, size and time of modification
    with pytest.raises(InvalidFile, match="was started on other images"):
        invoke(words(tmp_path / "moved", run, "--resume"))


@pytest.mark.usefixtures("large")
def test_the_content_of_a_large_set_is_recorded_beside_training_so_that_a_copy_is_known(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begun(data, run)
    assert " content-" in recorded(run)
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(data)
    invoke(words(tmp_path / "copy", run, "--resume"))
    Image.new("RGB", (32, 32)).save(tmp_path / "copy" / "00.png")
    with pytest.raises(InvalidFile, match="was started on other images"):
        invoke(words(tmp_path / "copy", run, "--resume"))


@pytest.mark.usefixtures("large")
def test_a_survey_gives_the_content_of_a_large_set_from_the_first_step(data: Path, tmp_path: Path) -> None:
    survey, run = tmp_path / "survey.json", tmp_path / "run"
    invoke(["check", str(data), "--out", str(survey)])
    invoke(words(data, run, "--survey", str(survey)))
    assert " content-" in recorded(run) and not (run / "unreadable.txt").exists()
    with pytest.raises(InvalidFile, match="was started on other images"):
        invoke(words(data, run, "--resume"))  # without the survey there are three more
