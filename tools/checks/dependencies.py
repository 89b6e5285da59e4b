"""Does each package declare what it imports, and import what it declares? deptry, in every package's folder.

hatch run dependencies
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    packages = sorted(project.parent for project in (ROOT / "packages").glob("*/pyproject.toml"))
    command = [sys.executable, "-m", "deptry", "src"]
    statuses = [subprocess.run(command, cwd=package, check=False).returncode for package in packages]
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
