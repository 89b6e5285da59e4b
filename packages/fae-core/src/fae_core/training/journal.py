"""A run folder's own records: config.yaml as resolved and metrics.jsonl, and the lines that a person sees."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from fae_core.errors import CheckpointError, FAEError
from fae_core.files import disk_errors, is_empty, read_yaml, remove_leftovers, require_new_folder, write_atomic
from fae_core.redact import redact_values

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"

# Settings that may differ between a run and its continuation, because they do not change what is computed.
_FREE_ON_RESUME = {
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "preview",
    "preview_every",
    "loader_threads",
    "parallel",
    "accumulation",
    "max_skipped",
    "stall_limit",
}


def open_run(run: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Create the run folder and its config.yaml, or check that the one to resume was started with the same settings.

    Raises OutputExists for a folder in use, CheckpointError where a resumed run's settings differ.
    """
    path, settings = run / CONFIG_FILE, redact_values(settings)
    if resume and path.is_file():
        changed = _differences(read_yaml(path), settings)
        if changed:
            raise CheckpointError(f"{run} was started with other settings ({'; '.join(changed)}); use a new --out")
        remove_leftovers(run)
        return
    require_new_folder(run, overwrite=overwrite, resumable=path.is_file())
    with disk_errors(run):
        if run.is_dir() and any(run.iterdir()):
            if not path.is_file() and not is_empty(run):
                raise FAEError(f"{run} is not a run folder; --overwrite replaces run folders only")
            shutil.rmtree(run)
        run.mkdir(parents=True, exist_ok=True)
    write_atomic(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode())


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted((before.keys() | now.keys()) - _FREE_ON_RESUME):
        old, new = before.get(key), json.loads(json.dumps(now.get(key)))
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key}: {old!r} then, {new!r} now")
    return changed


class Journal:
    """Collects a window's scalars without waiting for the device, and appends their means to metrics.jsonl."""

    def __init__(self, run: Path, enabled: bool, resumed_at: int = 0) -> None:
        self.path = run / METRICS_FILE
        self.enabled = enabled
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        if enabled and self.path.is_file():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= resumed_at]
            write_atomic(self.path, "".join(f"{line}\n" for line in kept).encode())

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: (total / self._counts[name]).item() for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def write(self, row: dict[str, float | int]) -> None:
        if self.enabled:
            with disk_errors(self.path), self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; a last line that was cut off by a crash is left out."""
    path = Path(run) / METRICS_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if _step_of(line) < float("inf")]


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
