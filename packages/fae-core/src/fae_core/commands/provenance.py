"""Where a result comes from: the record of command, date, device, machine and versions that outputs carry."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fae_core.commands.running import arguments_in_force
from fae_core.plugins import own_versions
from fae_core.redact import redact


def provenance(*, device: object = None, packages: Iterable[str] = (), **facts: Any) -> dict[str, Any]:
    """What made a result, when, where and with which versions. Facts that are None are left out.

    Args:
        device: on which it was made; recorded as text.
        packages: distributions whose versions are recorded beside those of FAE's own packages and torch.
        **facts: further fields. A field of that name replaces the one that is made here.

    Returns:
        `command` (without secrets), `date` (UTC, to the second), `device`, `machine` (system and processor), `versions`
        (Python, FAE's packages, torch and those of `packages` that are installed), and the facts.
    """
    versions = {"python": platform.python_version(), **own_versions()}
    for package in ("torch", *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    known = {
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": None if device is None else str(device),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }
    return {name: value for name, value in {**known, **facts}.items() if value is not None}


def command_line() -> str:
    """The command that is running, as it would be typed, without secrets."""
    if arguments := arguments_in_force.get():
        return redact(shlex.join(["fae", *arguments]))
    return redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])) if sys.argv and sys.argv[0] else "python"
