"""Convergence over training: steps, seconds and distances of sample folders, and the curve in the report."""

from __future__ import annotations

import json
import re

import pytest

from fae_core.errors import FAEError
from fae_core.training.restore import seconds_at
from fae_eval import write_report
from fae_eval.cli.convergence import steps_of
from fae_eval.studies.convergence import evaluate_convergence
from fae_eval.studies.generation import FLOOR


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [{"step": 10, "seconds": 4.0, "loss": 1.0}, {"step": 30, "seconds": 8.0, "loss": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_seconds_lie_between_the_lines_of_the_journal(run):
    assert [seconds_at(run, step) for step in (5, 10, 20, 30, 31)] == [2.0, 4.0, 6.0, 8.0, None]


def test_steps_are_rows_in_order_with_their_seconds_and_a_curve(extractor, photographs, run, tmp_path):
    real = photographs("real")
    samples = {
        30: photographs("late", seed=0),
        10: photographs("early", seed=9, count=12),
        20: photographs("mid", seed=4),
    }
    result = evaluate_convergence(samples, real, run=run, extractor=extractor, floor=photographs("floor", seed=3))
    assert result.kind == "convergence"
    assert result.table["columns"] == ["", "step", "seconds", "images", "FDr", "FD-pixels"]
    assert [row[1:4] for row in result.table["rows"]] == [[10, 4.0, 12], [20, 6.0, 24], [30, 8.0, 24]]
    assert result.table["rows"][-1][4] == pytest.approx(0, abs=1e-8)  # the same pictures as the reference
    assert any(note.startswith(FLOOR) for note in result.notes)
    result.save(tmp_path / "results" / "c.json")
    page = write_report([tmp_path / "results"], tmp_path / "r.html").read_text()
    chart = page[page.index("FD-pixels over training") :]
    assert len(re.search(r'polyline points="([^"]+)"', chart)[1].split()) == 3
    assert re.search(r">[\d.]+ s</text>", chart)  # the axis of seconds


def test_steps_on_the_command_line():
    assert steps_of(["1000=a/b", "20=c=d"]) == {1000: "a/b", 20: "c=d"}
    for wrong in (["a/b"], ["x=a"], ["1=a", "1=b"]):
        with pytest.raises(FAEError, match="STEP=PATH"):
            steps_of(wrong)
