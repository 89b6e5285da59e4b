"""Rotation of checkpoints: only whole ones count, what is said to be saved is there, and named steps stay."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for toy_training, whatever folder pytest was started in

from toy_training import ToyTask

from fae_core.errors import FAEError, InvalidFile
from fae_core.models.checkpoints import checkpoints_of, damage, numbered
from fae_core.processes import Processes
from fae_core.training import TrainConfig, train
from fae_core.training.checkpoint import Checkpoints

ALONE = Processes(0, 1, "cpu")
SMALL = {"steps": 8, "batch_size": 4, "checkpoint_every": 1, "keep_checkpoints": 2, "log_every": 1, "ema_decay": None}
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4)}


def steps(run: Path) -> list[int]:
    return list(numbered(run / "checkpoints"))


def filled(run: Path, *numbers: int, keep: int = 10) -> Path:
    checkpoints = Checkpoints(run, ALONE, keep)
    for number in numbers:
        checkpoints.save(number, TENSORS, {"seconds": 1.0})
    return run / "checkpoints"


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


DAMAGES = {
    "a flipped bit": lambda c: flip(weights_of(c)),
    "cut short": lambda c: weights_of(c).write_bytes(weights_of(c).read_bytes()[:-3]),
    "weights gone": lambda c: weights_of(c).unlink(),
    "state gone": lambda c: (c / "state.json").unlink(),
    "state empty": lambda c: (c / "state.json").write_text(""),
    "state without keys": lambda c: (c / "state.json").write_text("{}"),
    "another step in the state": lambda c: _edit(c, step=3),
    "other seconds": lambda c: _edit(c, seconds=5.0),
    "files of another type": lambda c: _edit(c, files=[1]),
    "a step that is text": lambda c: _edit(c, step="8"),
    "tensors of nothing": lambda c: _edit(c, tensors=None),
    "a file too many": lambda c: shutil.copy(weights_of(c), c / "more.safetensors"),
    "half deleted": lambda c: [path.unlink() for path in sorted(c.iterdir())[:1]],
}


def _edit(folder: Path, **values: object) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, **values}))


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_newest_checkpoint_pushes_out_no_good_one(what: str, tmp_path: Path) -> None:
    folder = filled(tmp_path, 2, 4, 6, 8)
    DAMAGES[what](folder / "step-00000008")
    assert "\n" not in damage(folder / "step-00000008")
    checkpoints = Checkpoints(tmp_path, ALONE, keep=2)
    assert checkpoints.latest().name == "step-00000006"
    checkpoints.save(7, TENSORS, {"seconds": 1.0})
    assert steps(tmp_path) == [6, 7]
    assert Checkpoints(tmp_path, ALONE, 2).latest().name == "step-00000007"
    checkpoints.save(8, TENSORS, {"seconds": 1.0})
    assert steps(tmp_path) == [7, 8] and damage(folder / "step-00000008") is None


def test_several_damaged_ones_leave_every_new_one_in_place(tmp_path: Path) -> None:
    folder = filled(tmp_path, 1, 2, 3, 4, 5)
    for number in (3, 4, 5):
        flip(weights_of(folder / f"step-{number:08d}"))
    checkpoints = Checkpoints(tmp_path, ALONE, keep=1)
    assert checkpoints.latest().name == "step-00000002"
    for number in (3, 4, 5, 6):
        checkpoints.save(number, TENSORS, {"seconds": 1.0})
        assert steps(tmp_path) == [number]
        assert damage(folder / f"step-{number:08d}") is None


def test_named_steps_are_saved_and_never_removed(tmp_path: Path) -> None:
    config = TrainConfig(**{**SMALL, "checkpoint_every": 3, "keep_checkpoints": 1}, keep_at=(2, 5))
    train(ToyTask(), config, tmp_path / "run", device="cpu")
    assert steps(tmp_path / "run") == [2, 5, 8]
    other = TrainConfig(**{**SMALL, "keep_checkpoints": 1}, keep_at=(5,))  # free on resume
    train(ToyTask(), other, tmp_path / "run", resume=True, device="cpu")
    with pytest.raises(ValueError, match="keep_at"):
        TrainConfig(keep_at=(0,))


def test_a_named_step_that_is_damaged_is_kept_until_it_is_saved_again(tmp_path: Path) -> None:
    folder = filled(tmp_path, 2, 4)
    flip(weights_of(folder / "step-00000004"))
    checkpoints = Checkpoints(tmp_path, ALONE, keep=1, keep_at=(4,))
    checkpoints.save(3, TENSORS, {"seconds": 1.0})
    assert steps(tmp_path) == [3, 4]
    checkpoints.save(4, TENSORS, {"seconds": 1.0})
    assert damage(folder / "step-00000004") is None


def test_a_run_resumed_from_further_back_keeps_what_it_saves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(ToyTask(), TrainConfig(**{**SMALL, "keep_checkpoints": 8}), run, device="cpu")
    expected = (run / "model/model.safetensors").read_bytes()
    for number in range(4, 9):
        flip(weights_of(run / f"checkpoints/step-{number:08d}"))
    train(ToyTask(), TrainConfig(**SMALL), run, resume=True, device="cpu")
    assert steps(run) == [7, 8]
    assert all(damage(path) is None for path in numbered(run / "checkpoints").values())
    assert (run / "model/model.safetensors").read_bytes() == expected


def test_checkpoints_of_earlier_versions_without_a_checksum_are_read(tmp_path: Path) -> None:
    folder = filled(tmp_path, 4)
    state = json.loads((folder / "step-00000004/state.json").read_text())
    del state["checksum"]
    (folder / "step-00000004/state.json").write_text(json.dumps(state))
    checkpoints = Checkpoints(tmp_path, ALONE, 2)
    found = {name: torch.empty_like(tensor) for name, tensor in TENSORS.items()}
    assert checkpoints.load(checkpoints.latest(), found)["step"] == 4
    assert torch.equal(found["a"], TENSORS["a"])


def test_a_state_without_its_keys_is_one_line(tmp_path: Path) -> None:
    folder = filled(tmp_path, 4) / "step-00000004"
    for missing in ("step", "files", "tensors"):
        state = json.loads((folder / "state.json").read_text())
        del state["checksum"], state[missing]
        shutil.copytree(folder, tmp_path / missing / folder.name)
        (tmp_path / missing / folder.name / "state.json").write_text(json.dumps(state))
        with pytest.raises(InvalidFile, match=f"lacks {missing}"):
            Checkpoints(tmp_path, ALONE, 2).load(tmp_path / missing / folder.name, TENSORS)


def test_leftovers_of_a_kill_are_cleaned_and_strangers_stay(tmp_path: Path) -> None:
    folder = filled(tmp_path, 2, 4)
    (folder / "step-00000004").rename(folder / ".step-00000004.old")  # killed between the two renames
    for name in (".step-00000006.tmp", ".step-00000006.new.tmp", ".step-00000001.gone.tmp"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("half")
    for name in ("step-best", "step-00000004.backup", "step-4"):
        shutil.copytree(folder / "step-00000002", folder / name)
    (folder / "step-00000009").write_text("a file")
    checkpoints = Checkpoints(tmp_path, ALONE, keep=1)
    assert checkpoints.latest().name == "step-00000004"
    checkpoints.save(5, TENSORS, {"seconds": 1.0})
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"step-00000005", "step-best", "step-00000004.backup", "step-4", "step-00000009"}
    assert list(checkpoints_of(tmp_path)) == [5]


def test_a_billion_steps_sort_by_number(tmp_path: Path) -> None:
    filled(tmp_path, 99_999_999, 100_000_000, keep=1)
    assert steps(tmp_path) == [100_000_000]


def test_two_trainings_of_one_run_are_refused(tmp_path: Path) -> None:
    from fae_core.files import hold

    run = tmp_path / "run"
    train(ToyTask(), TrainConfig(**SMALL), run, device="cpu")
    before = (run / "metrics.jsonl").read_bytes()
    import threading

    told: list[str] = []

    def second() -> None:
        for options in ({"resume": True}, {"overwrite": True}):
            try:
                train(ToyTask(), TrainConfig(**SMALL), run, device="cpu", **options)
            except FAEError as error:
                told.append(str(error))

    with hold(run):
        other = threading.Thread(target=second)
        other.start()
        other.join()
    assert len(told) == 2 and all("is in use by process" in line and "\n" not in line for line in told)
    assert (run / "metrics.jsonl").read_bytes() == before and (run / "config.yaml").is_file()
