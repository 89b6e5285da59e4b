"""A run folder's own records: config.yaml, the resolved settings, and metrics.jsonl, what was measured in training."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fae_core.errors import InvalidFile
from fae_core.files import (
    begun_folder,
    disk_errors,
    read_text,
    read_yaml,
    recover_folder,
    remove_leftovers,
    require_new_folder,
    write_atomic,
)
from fae_core.folders import RUN_CONFIG, RUN_IDENTITY, RUN_MEASURED, RUN_METRICS, RUN_MODEL
from fae_core.redact import redact_values
from fae_core.training.compared import require_same_identity, require_same_settings
from fae_core.training.tracking import Trackers

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_JOURNAL = 2**30
log = logging.getLogger("fae")


def open_run(run: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Create the run folder and its config.yaml, or check that the one to resume was started with the same settings.

    Args:
        run: the run folder, which the caller has locked (`fae_core.files.hold`).
        settings: what config.yaml records.
        resume: go on with the run that the folder holds, if it holds one.
        overwrite: replace what the folder holds.

    Raises:
        OutputExists: the folder is in use.
        InvalidSettings: the run to resume was started with other settings.
        InvalidFile: it was started with other data.
        LatentSpecMismatch: the run to resume was started with latents of another space.
    """
    path, settings = run / RUN_CONFIG, redact_values(settings)
    with disk_errors(run):
        recover_folder(run)
    if resume and path.is_file():
        before = read_yaml(path)
        if known := before.get(RUN_IDENTITY):
            require_same_identity(run, known, settings.get(RUN_IDENTITY, {}))
        require_same_settings(run, before, settings)
        _warn_of_new_length(before.get("training", {}), settings.get("training", {}))
        remove_leftovers(run)
        require_new_folder(run / RUN_MODEL, overwrite=True)  # the export will replace it
        _write_config(path, settings)
        return
    with begun_folder(run, overwrite=overwrite, kind="run", resumable=RUN_CONFIG) as folder:
        _write_config(folder / RUN_CONFIG, settings)


def record_measured(run: Path, measured: Mapping[str, float]) -> None:
    """Add to config.yaml what was measured on the data before the first step, by name; nothing where that is empty."""
    if measured:
        path = run / RUN_CONFIG
        _write_config(path, {**read_yaml(path), RUN_MEASURED: dict(measured)})


def record_identity(run: Path, known: dict[str, str]) -> None:
    """Record more of what a run learns from, by name, once it is known."""
    settings = read_yaml(run / RUN_CONFIG)
    settings[RUN_IDENTITY] = {**settings.get(RUN_IDENTITY, {}), **known}
    _write_config(run / RUN_CONFIG, settings)


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line: a latent space has two with a number for each channel."""


_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True))


def _write_config(path: Path, settings: dict[str, Any]) -> None:
    """Write config.yaml, whole or not at all."""
    text = yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    write_atomic(path, text.encode())


def _warn_of_new_length(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Log where the schedule has another length from here on: no uninterrupted run would have the same rates."""
    then, length = (side.get("schedule_steps") or side.get("steps") for side in (before, now))
    if now.get("schedule_steps") is not None and then != length:
        log.warning("the learning rate's schedule is %s steps long from here on; before it was %s", length, then)


class Journal:
    """Sums scalars between two rows of metrics.jsonl without waiting for the device, and appends rows.

    Args:
        run: the run folder.
        enabled: whether this process writes.
        resumed_at: the step from which a resumed run goes on; rows of later steps are removed.

    Attributes:
        trackers: what gets a copy of all that is written; None for nothing.
    """

    def __init__(self, run: Path, enabled: bool, resumed_at: int = 0) -> None:
        self.path = run / RUN_METRICS
        self.enabled = enabled
        self.trackers: Trackers | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        if enabled and self.path.is_file():
            kept = [line for line, row in _rows(self.path) if row["step"] <= resumed_at]
            write_atomic(self.path, "".join(f"{line}\n" for line in kept).encode())

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add one update's scalars, by name."""
        for name, value in terms.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means of what was added since the last call, by name."""
        means = {name: (total / self._counts[name]).item() for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def write(self, row: dict[str, float]) -> None:
        """Append a row, on the disk when this returns."""
        if self.enabled:
            with disk_errors(self.path), self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self.trackers is not None:
                self.trackers.scalars(row)

    def picture(self, step: int, path: Path) -> None:
        """Show a picture that was written after `step` updates, if it was."""
        if self.trackers is not None and path.is_file():
            self.trackers.picture(step, path)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl: numbers by name, "step" among them. A last line that a crash cut off is left out.

    Args:
        run: the run folder; one without the file gives no rows.

    Raises:
        InvalidFile: another line is damaged.
    """
    path = Path(run) / RUN_METRICS
    return [row for _, row in _rows(path)] if path.is_file() else []


def _rows(path: Path) -> list[tuple[str, dict[str, float]]]:
    """Each line and what it holds: numbers by name, "step" among them; a loss may be NaN."""
    rows, lines = [], read_text(path, max_bytes=_LARGEST_JOURNAL).splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            whole = isinstance(row, dict) and all(_is_number(value) for value in row.values())
            if not whole or row.get("step", -1) < 0:
                raise ValueError
        except (ValueError, RecursionError):
            if number < len(lines):
                raise InvalidFile(f"{path} is damaged: line {number} is no row of numbers with a step") from None
            break
        rows.append((line, row))
    return rows


def _is_number(value: Any) -> bool:
    """Whether a value is a float, or an integer of at most 63 bits."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
