"""training.keep_at: steps or epochs, and an export for each, which disturbs nothing and is made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked_group import launcher
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))  # for toy_training, whatever folder pytest was started in

from toy_training import ToyTask

from fae_core.config import parse_config
from fae_core.errors import InvalidFile
from fae_core.folders import checkpoint, kept_model, kept_step, named_step
from fae_core.models.checkpoints import numbered
from fae_core.models.sources import run_of
from fae_core.training import TrainConfig, train

SMALL = {"steps": 8, "batch_size": 4, "checkpoint_every": 3, "keep_checkpoints": 1, "log_every": 1, "ema_decay": 0.5}
PROGRAM = Path(__file__).with_name("toy_training.py")


def weights(run: Path, step: int | None = None) -> bytes:
    folder = run / "model" if step is None else run / "exports" / f"step-{step}"
    return (folder / "model.safetensors").read_bytes()


def test_epochs_are_rounded_to_the_nearest_step() -> None:
    """ImageNet's epochs at the paper's batch of 512: 80 are 200,182.3 steps."""
    config = TrainConfig(batch_size=512, keep_at=("64ep", "80ep", "160ep", "320ep", "800ep", 7, "0.5ep"))
    steps = list(config.kept_steps(1_281_167))
    assert steps == [160_146, 200_182, 400_365, 800_729, 2_001_823, 7, 1251]
    assert list(TrainConfig(batch_size=512, keep_at=("1ep",)).kept_steps(10)) == [1]


@pytest.mark.parametrize(
    "wrong", ["80", "80 ep", "ep", "0ep", "-1ep", "1e3ep", "80epochs", 0, -3, 10**13, 1.5, None, ""]
)
def test_anything_else_is_refused_in_one_line(wrong: object) -> None:
    with pytest.raises(InvalidFile, match="keep_at") as caught:
        parse_config(TrainConfig, {"keep_at": [wrong]}, "training settings")
    assert "\n" not in str(caught.value)


def test_a_kept_model_is_the_one_that_a_run_of_that_length_gives(tmp_path: Path) -> None:
    train(ToyTask(), TrainConfig(**SMALL, keep_at=(2, "0.5ep")), tmp_path / "kept", device="cpu")
    assert sorted(path.name for path in (tmp_path / "kept/exports").iterdir()) == ["step-2", "step-5"]
    assert list(numbered(tmp_path / "kept/checkpoints")) == [2, 5, 8]
    for step in (2, 5):
        train(ToyTask(), TrainConfig(**{**SMALL, "steps": step}), tmp_path / str(step), device="cpu")
        assert weights(tmp_path / "kept", step) == weights(tmp_path / str(step))
    train(ToyTask(), TrainConfig(**SMALL), tmp_path / "plain", device="cpu")
    assert weights(tmp_path / "kept") == weights(tmp_path / "plain")


def test_a_kill_between_checkpoint_and_export_is_mended_on_resume(tmp_path: Path) -> None:
    config = TrainConfig(**SMALL, keep_at=(2, 5, 8))
    run = train(ToyTask(), config, tmp_path / "run", device="cpu")
    before = {step: weights(run, step) for step in (2, 5, 8)}
    place = (run / "exports/step-5").stat().st_ino
    for step in (2, 8):  # an early one, and the one of the newest checkpoint; 8's export was being written
        shutil.rmtree(run / f"exports/step-{step}")
    shutil.rmtree(run / "model")
    (run / "exports/.step-8.new.tmp").mkdir()
    (run / "exports/.step-8.new.tmp/model.safetensors").write_bytes(b"half")
    train(ToyTask(), config, run, resume=True, device="cpu")
    assert {step: weights(run, step) for step in (2, 5, 8)} == before
    assert (run / "exports/step-5").stat().st_ino == place  # not made twice
    assert sorted(path.name for path in (run / "exports").iterdir()) == ["step-2", "step-5", "step-8"]


def test_steps_passed_again_leave_an_export_as_it_is(tmp_path: Path) -> None:
    """The newest checkpoint is damaged: the run goes back to one before the kept step and comes past it again."""
    config = TrainConfig(**{**SMALL, "keep_checkpoints": 9}, keep_at=(5,))
    run = train(ToyTask(), config, tmp_path / "run", device="cpu")
    place, expected = (run / "exports/step-5").stat().st_ino, weights(run)
    for step in (5, 6, 8):
        (run / f"checkpoints/step-{step:08d}/state.json").write_text("")
    train(ToyTask(), config, run, resume=True, device="cpu")
    assert (run / "exports/step-5").stat().st_ino == place
    assert weights(run) == expected


def test_a_damaged_kept_checkpoint_is_named_and_not_exported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(**SMALL, keep_at=(2,))
    run = train(ToyTask(), config, tmp_path / "run", device="cpu")
    shutil.rmtree(run / "exports")
    (run / "checkpoints/step-00000002/state.json").write_text("{}")
    train(ToyTask(), config, run, resume=True, device="cpu")
    assert not (run / "exports/step-2").exists() and "step-00000002 is damaged" in caplog.text


def test_milestones_after_the_last_step_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(ToyTask(), TrainConfig(**SMALL, keep_at=(2, "80ep")), tmp_path / "run", device="cpu")
    assert "80ep (step 740)" in caplog.text and "2 (step" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_processes_export_what_one_does(parallel: str, tmp_path: Path) -> None:
    def launch(run: str, *arguments: str, processes: int = 2) -> Path:
        words = [*launcher(processes), str(PROGRAM), str(tmp_path / run), "--steps", "6", "--keep-at", "2", *arguments]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return tmp_path / run

    many = launch("many", "--parallel", parallel)
    one = launch("one", processes=1)
    expected, found = (load_file(run / "exports/step-2/model.safetensors") for run in (one, many))
    for name in expected.keys() - {name for name in expected if name.endswith("qkv.bias")}:  # whose gradient is 0
        torch.testing.assert_close(found[name], expected[name], atol=2e-4, rtol=0)
    before = weights(many), weights(many, 2)
    shutil.rmtree(many / "exports")
    launch("many", "--parallel", parallel, "--resume")
    assert (weights(many), weights(many, 2)) == before


def test_the_run_of_a_model_is_found_from_each_place_in_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    for place in ("", "model", "exports/step-5", "checkpoints/step-00000005"):
        assert run_of(tmp_path / "run" / place) == tmp_path / "run"
    assert run_of(tmp_path / "run/model/encoder") is None and run_of(tmp_path) is None


def test_names_of_exports_are_read_back() -> None:
    assert kept_step(kept_model(200_182)) == 200_182
    assert all(kept_step(name) is None for name in ("step-007", "step-", "model", "step-1x", "7"))
    assert [named_step(name) for name in (checkpoint(0), kept_model(0), checkpoint(7), kept_model(7))] == [0, 0, 7, 7]
    wrong = ("step-007", "step 7", "a step-7", "step-7 2", "step-\u0667", "step-" + "9" * 5000)
    assert all(named_step(name) is None for name in wrong)
