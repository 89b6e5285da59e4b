"""Trackers get what the journal writes, keep no secret, and cannot stop a run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_training import ToyTask

from fae_core.errors import MissingPackage, UnknownName
from fae_core.folders import RUN_TRACKERS, preview_image
from fae_core.plugins import load_plugins
from fae_core.training import TrainConfig, train

PACKAGE = '''
import json


class Lines:
    """Writes what it gets to a file."""

    module, requirement = "json", "nothing"

    def __init__(self, name, folder, settings, start):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "lines.jsonl").open("a")
        self.write("begin", name, start, settings)

    def write(self, *row):
        self.file.write(json.dumps(row) + "\\n")
        self.file.flush()

    def scalars(self, step, values):
        self.write("scalars", step, values)

    def picture(self, step, path):
        self.write("picture", step, path.name)

    def close(self):
        self.write("end")


class Fails(Lines):
    """Ends after its first row."""

    def scalars(self, step, values):
        super().scalars(step, values)
        raise ConnectionError("no route to host")


class Lacks(Lines):
    """Needs what is not installed."""

    module, requirement = "fae_no_such_module", "fae-core[nothing]"
'''
POINTS = "[fae.trackers]\n" + "".join(
    f"{name} = guest_trackers:{name.title()}\n" for name in ("lines", "fails", "lacks")
)
CONFIG = {"steps": 6, "batch_size": 4, "log_every": 2, "checkpoint_every": 3, "ema_decay": 0.5}


class PicturedTask(ToyTask):
    def preview(self, folder, step, modules) -> dict[str, float]:
        Image.fromarray(np.full((4, 6, 3), step, np.uint8)).save(folder / preview_image(step))
        return {"psnr": float(step)}


@pytest.fixture(autouse=True)
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    site = tmp_path / "site"
    info = site / "guest_trackers-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "guest_trackers.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest-trackers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


def lines(run: Path, tracker: str) -> list[list]:
    return [json.loads(line) for line in (run / RUN_TRACKERS / tracker / "lines.jsonl").read_text().splitlines()]


def test_a_tracker_gets_settings_rows_and_pictures(tmp_path: Path) -> None:
    config = TrainConfig(**CONFIG, preview_every=3, track=("lines",))
    secret = {"data": "s3://user:hunter2@host/bucket", "hub_token": "hf_abcdefghijklmnopqrstuv"}
    train(PicturedTask(), config, tmp_path / "run", settings=secret, device="cpu")
    got = lines(tmp_path / "run", "lines")
    assert got[0][:3] == ["begin", "run", 0]
    assert got[0][3]["training"]["batch_size"] == 4
    assert "hunter2" not in str(got) and "hf_abc" not in str(got)
    assert [row[1:] for row in got if row[0] == "picture"] == [[3, preview_image(3)], [6, preview_image(6)]]
    recorded = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shown = [{"step": step, **values} for kind, step, *rest in got[1:-1] if kind == "scalars" for values in rest]
    assert shown == recorded
    assert got[-1] == ["end"]


def test_one_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(ToyTask(), TrainConfig(**CONFIG, track=("fails", "lines")), tmp_path / "run", device="cpu")
    assert [row[0] for row in lines(tmp_path / "run", "fails")] == ["begin", "scalars"]
    assert [row[0] for row in lines(tmp_path / "run", "lines")] == ["begin", *["scalars"] * 3, "end"]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert "the tracker fails failed" in caplog.text and "no route to host" in caplog.text


def test_weights_do_not_depend_on_trackers(tmp_path: Path) -> None:
    for name, track in (("with", ("lines",)), ("without", ())):
        train(ToyTask(), TrainConfig(**CONFIG, track=track), tmp_path / name, device="cpu")
    written = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert written[0] == written[1]


@pytest.mark.parametrize(("name", "error"), [("lins", UnknownName), ("lacks", MissingPackage)])
def test_one_that_cannot_begin_leaves_no_folder(tmp_path: Path, name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"lins|nothing"):
        train(ToyTask(), TrainConfig(**CONFIG, track=(name,)), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_tells_where_it_goes_on_and_may_change_its_trackers(tmp_path: Path) -> None:
    train(ToyTask(), TrainConfig(**CONFIG), tmp_path / "run", device="cpu")
    longer = TrainConfig(**{**CONFIG, "steps": 8}, track=("lines",))
    train(ToyTask(), longer, tmp_path / "run", resume=True, device="cpu")
    got = lines(tmp_path / "run", "lines")
    assert got[0][2] == 6
    assert [row[1] for row in got if row[0] == "scalars"] == [8]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs fae-core[tensorboard]")
def test_tensorboard_holds_the_rows_the_grid_and_the_settings(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(**CONFIG, preview_every=3, track=("tensorboard",))
    train(PicturedTask(), config, tmp_path / "run", device="cpu")
    events = EventAccumulator(str(tmp_path / "run" / RUN_TRACKERS / "tensorboard"))
    events.Reload()
    recorded = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in recorded if "loss" in row}
    assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(losses)
    assert [(event.step, event.width, event.height) for event in events.Images("samples")] == [(3, 6, 4), (6, 6, 4)]
    assert b"batch_size: 4" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]
