"""Every stage, killed at random moments and while it writes, resumes to the result of an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "trials" / "faults.py"


def test_every_stage_survives_kill_9(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--kills", "2", "--out", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "faults.json").read_text())["outcomes"]
    assert len(outcomes) == 8
    for outcome in outcomes:
        assert outcome["kills"] == 2 and outcome["while_writing"] >= 1
        assert outcome["identical"] == outcome["runs"] >= 1


@pytest.mark.slow
def test_signals_kills_damage_two_writers_and_full_disks_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--kills", "1", "--stages", "none", "--cases", "--out", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    cases = json.loads((tmp_path / "faults.json").read_text())["cases"]
    wrong = [case for case in cases if case["fine"] != case["trials"] and "needs root" not in case["note"]]
    assert len(cases) >= 14 and not wrong, done.stdout + done.stderr
