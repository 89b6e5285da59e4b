"""The launch line of docs/scaling.md on two machines, each a network namespace of its own, one of which loses its power
once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "trials" / "two_machines.py"


@pytest.mark.slow
def test_two_machines_give_what_one_gives_and_survive_a_power_cut(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--processes", "1", "--steps", "8", "--parallel", "ddp"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    if "cannot make machines here" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "out" / "two-machines.json").read_text())["outcome"]["ok"] is True
