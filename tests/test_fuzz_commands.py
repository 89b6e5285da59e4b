"""Every command, every option and every file that they read, with wrong values: success or one line, whatever comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "trials" / "fuzz.py"


def test_wrong_options_settings_and_files_are_refused_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--commands", "--cases", "100000", "--seconds", "45", "--out", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [
        line.split("|") for line in done.stdout.splitlines() if line.startswith(("| option", "| setting", "| file"))
    ]
    assert len(rows) == 3, done.stdout
