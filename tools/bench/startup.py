"""CPU seconds that `fae` takes to show help or to say what is wrong, each command a process of its own.

python tools/bench/startup.py [--repeats 5]           # the table of docs/benchmarks/start-up.md
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date

COMMANDS = {
    "--help": "help",
    "train diffusion --help": "help",
    "presets": "a list",
    "config lightningdit-xl": "all settings of a preset",
    "encode --data /nope --model fae-lite0-32 --out latents": "no such data",
    "sample --model nope --out samples": "no such model",
    "info nope": "no such preset",
    "train diffusion --latents /nope --out run": "no such latents",
    "train diffusion --latents /nope --set model.dept=3 --out run": "no such setting",
    "eval generation --samples /nope --reference /nope": "no such images",
    "info fae-lite0-32": "a preset, counted on the meta device: with torch",
}


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """User and system time of one process and of those that it starts."""
    command = [sys.executable, "-m", "fae_core.cli.main", *arguments]
    before = os.times()
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    lines = [
        f"`python tools/bench/startup.py --repeats {options.repeats}`, {date.today()}, {platform.machine()}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores; the least and the most of {options.repeats} runs each.",
        "",
        "| fae ... | what it says | least | most |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for command, kind in COMMANDS.items():
            cpu_seconds(command.split(), folder)  # compiles what is not compiled yet
            found = [cpu_seconds(command.split(), folder) for _ in range(options.repeats)]
            lines.append(f"| `{command}` | {kind} | {min(found):.2f} | {max(found):.2f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
