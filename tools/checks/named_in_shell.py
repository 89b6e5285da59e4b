"""Whether what a command of the shell names exists: programs, scripts, environments of hatch, packages to install."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from named_in_fae import fae_findings
from named_in_python import python_findings

_ROOT = Path(__file__).resolve().parents[2]
_MODULE = "fae_core.cli.main"  # what torchrun starts in place of `fae`
# Programs of others that pages may name.
_PROGRAMS = {"cd", "mkdir", "ls", "cp", "cat", "echo", "tar", "git", "export", "unzip", "curl", ".ci/run"}
_PROGRAMS |= {"sbatch", "scontrol", "srun", "nvidia-cuda-mps-control", "tensorboard", "wandb"}


def command_findings(words: Sequence[str]) -> list[str]:
    """What is wrong with the names in one command.

    Args:
        words: Of the command, variables before it among them.
    """
    words = list(words)
    if words and re.match(r"[A-Za-z_]+=\$\(", words[0]):
        return []  # the output of a command
    while words and re.match(r"[A-Za-z_]+=", words[0]):
        words.pop(0)
    if not words:
        return []
    program, rest = words[0], words[1:]
    if _MODULE in words:
        return fae_findings(words[words.index(_MODULE) + 1 :])
    if program == "fae":
        return fae_findings(rest)
    if program in ("python", "python3"):
        return _script(rest)
    if program == "hatch":
        return _hatch(rest)
    if program in ("pip", "uv"):
        return [reason for word in rest for reason in _requirement(word)]
    if program == "pytest":
        return [f"there is no {word}" for word in rest if "/" in word and not (_ROOT / word).exists()]
    return (
        []
        if program in _PROGRAMS
        else [f"the program {program} is not known; tools/checks/named_in_shell.py has those that are"]
    )


def _script(rest: Sequence[str]) -> list[str]:
    """What is wrong with `python SCRIPT --option` or `python -m MODULE --option`."""
    import importlib.util

    if rest and rest[0] == "-c":
        return python_findings(rest[1])
    if rest and rest[0] == "-m":
        if rest[1].startswith("fae_"):
            spec = importlib.util.find_spec(rest[1])
            return [] if spec else [f"there is no module {rest[1]}"]
        return []
    path = _ROOT / rest[0]
    if not path.is_file():
        return [f"there is no {rest[0]}"]
    source = path.read_text("utf-8")
    return [
        f"{rest[0]} has no option {word}"
        for word in rest[1:]
        if word.startswith("--") and word.split("=")[0] not in source and "parse_args" in source
    ]


def _hatch(rest: Sequence[str]) -> list[str]:
    """What is wrong with `hatch run [ENVIRONMENT:]SCRIPT`."""
    if rest[:1] != ["run"]:
        return [] if rest[:1] in (["shell"], ["env"], ["build"]) else [f"hatch {rest[0]} is not known"]
    environment, _, script = rest[1].rpartition(":")
    environments = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["envs"]
    table = environments.get((environment or "default").split(".")[0], {})
    scripts = dict(table.get("scripts", {}))
    if table.get("template") == "default":
        scripts = {**environments["default"]["scripts"], **scripts}
    if script not in scripts:
        return [f"hatch run {rest[1]}: there is no such script"]
    return fae_findings(["demo", *rest[2:]]) if script == "demo" else []


def _requirement(word: str) -> list[str]:
    """What is wrong with a requirement: a folder of this repository, or an extra of one of its packages."""
    match = re.fullmatch(r"(?:\./)?((?:packages/|examples/)?[\w./-]+?)(?:\[([\w,-]+)\])?", word)
    if not match or not re.match(r"(?:packages/|examples/|fae-)", match[1]):
        return []
    folder = _ROOT / match[1]
    if "..." in word:
        return []
    if "/" not in match[1]:
        return [f"{match[1]} is not on the package index; write ./packages/{word}"]
    if not (folder / "pyproject.toml").is_file():
        return [f"there is no package {match[1]}"]
    extras = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"].get("optional-dependencies", {})
    return [
        f"{match[1]} has no extra {extra}" for extra in (match[2] or "").split(",") if extra and extra not in extras
    ]
