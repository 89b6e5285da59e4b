"""Is a package whole with only what it declares? Run inside an environment that holds one package and its own needs.

    hatch run alone:check            # every package, each in an environment of its own
    python tools/checks/alone.py fae-encoder

Checks that the package imports, that no other FAE package is there, that its entry points load, that `fae --help` works
and that the commands of absent packages say what to install; then runs the package's quick tests, each with the first
of its parameters: hatch run test:all has the others. Tests that need an extra skip.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A command of every package: with the package absent it has to name the package.
COMMANDS = {
    "fae-encoder": ["encode"],
    "fae-decoders": ["train", "autoencoder"],
    "fae-diffusion": ["train", "diffusion"],
    "fae-flow": ["train", "flow"],
    "fae-eval": ["eval"],
}


def main() -> int:
    if len(sys.argv) != 2 or not (ROOT / "packages" / sys.argv[1] / "pyproject.toml").is_file():
        print("usage: python tools/checks/alone.py fae-core|fae-encoder|...", file=sys.stderr)
        return 2
    package = sys.argv[1]
    problems = [*imports(package), *entry_points(package), *command_line(package)]
    for problem in problems:
        print(f"alone {package}: {problem}", file=sys.stderr)
    tests = ROOT / "packages" / package / "tests"
    print(f"alone {package}: {len(problems)} problems; running {tests.relative_to(ROOT)}", flush=True)
    options = ["-q", "-m", "not slow", "-p", "one_case"]
    options += ["--numprocesses", "auto", "--dist", "loadfile"]
    status = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tests)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        check=False,
    ).returncode
    return int(bool(problems) or status != 0)


def imports(package: str) -> Iterator[str]:
    """The package is importable, and of the other FAE packages only those that it declares."""
    module = importlib.import_module(package.replace("-", "_"))
    installed = importlib.metadata.version(package)
    if module.__version__ != installed:
        yield f"its __version__ is {module.__version__}, the installed version is {installed}"
    wanted = {package, *declared(package)}
    for folder in sorted((ROOT / "packages").iterdir()):
        found = importlib.util.find_spec(folder.name.replace("-", "_")) is not None
        if found != (folder.name in wanted):
            yield f"{folder.name} is {'importable, but not declared' if found else 'declared, but not importable'}"


def declared(package: str) -> set[str]:
    """The FAE packages that a package needs, directly or through others."""
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = {match[0] for line in project["dependencies"] if (match := re.match(r"fae-\w+", line))}
    return direct.union(*(declared(other) for other in direct)) if direct else direct


def entry_points(package: str) -> Iterator[str]:
    """What the package registers can be loaded without its extras."""
    for point in importlib.metadata.distribution(package).entry_points:
        if point.group in ("fae.presets", "console_scripts"):
            continue
        try:
            point.load()
        except Exception as error:
            yield f"entry point {point.group} {point.name} = {point.value}: {type(error).__name__}: {error}"


def command_line(package: str) -> Iterator[str]:
    """`fae --help` lists the commands that are there; the others say what to install, on one line, with status 2."""
    helped = fae("--help")
    if helped.returncode != 0:
        yield f"fae --help fails: {helped.stderr.strip()[-300:]}"
    present = {package, *declared(package)}
    for owner, words in COMMANDS.items():
        if owner in present:
            if fae(*words, "--help").returncode != 0:
                yield f"fae {' '.join(words)} --help fails although {owner} is installed"
            continue
        answer = fae(*words)
        lines = answer.stderr.strip().splitlines()
        if answer.returncode != 2 or len(lines) != 1 or owner not in lines[0] or "pip install" not in lines[0]:
            yield f"fae {' '.join(words)} must say to install {owner}; it says {answer.stderr.strip()[-300:]!r}"


def fae(*arguments: str) -> subprocess.CompletedProcess[str]:
    # As a module: the script's folder need not be on PATH.
    command = [sys.executable, "-m", "fae_core.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "packages")


if __name__ == "__main__":
    sys.exit(main())
