"""Every stage, killed at random moments and while it writes, resumes to the result of an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "faults.py"


def test_every_stage_survives_kill_9(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--kills", "3", "--out", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "faults.json").read_text())["outcomes"]
    assert len(outcomes) == 8
    for outcome in outcomes:
        assert outcome["kills"] == 3 and outcome["while_writing"] >= 1
        assert outcome["identical"] == outcome["runs"] >= 1
