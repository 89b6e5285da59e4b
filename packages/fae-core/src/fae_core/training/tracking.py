"""Trackers: programs such as TensorBoard that show a run while it trains, fed with what the journal writes.

metrics.jsonl stays the record of a run; a tracker gets copies. It is a class under the entry-point group
`fae.trackers`, built and called on the first process alone. One that fails is left out from then on, with a warning:
no tracker can stop a run.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol, Self

from fae_core.errors import MissingPackage, first_line, require_known
from fae_core.folders import RUN_TRACKERS
from fae_core.plugins import load_plugins
from fae_core.redact import redact_values

log = logging.getLogger("fae")
_SHOWN = 200  # characters of an error that a warning shows


class Tracker(Protocol):
    """What a class under `fae.trackers` has: Tracker(name, folder, settings, start).

    Args:
        name: Of the run, for people.
        folder: RUN/trackers/TRACKER, where it may keep files; it does not exist before the tracker makes it.
        settings: Everything that config.yaml records, without secrets.
        start: The step from which the run goes on; 0 for a new one.

    Attributes:
        module: What it imports; it is found before a run begins.
        requirement: What pip installs for it, such as "fae-core[tensorboard]".
    """

    module: str
    requirement: str

    def __init__(self, name: str, folder: Path, settings: dict[str, Any], start: int) -> None: ...

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Show numbers by name, measured after `step` updates. The same step may come twice, with other names."""
        ...

    def picture(self, step: int, path: Path) -> None:
        """Show a PNG, such as a grid of samples."""
        ...

    def close(self) -> None:
        """End, whether or not the run is complete."""
        ...


def tracker_classes(names: Sequence[str]) -> dict[str, Any]:
    """The classes of some trackers by name.

    Raises:
        UnknownName: No installed package has a tracker of that name.
        MissingPackage: What it needs is not installed.
    """
    known = load_plugins("fae.trackers")
    require_known("tracker", names, known)
    classes = {name: known[name].load() for name in names}
    for name, kind in classes.items():
        if importlib.util.find_spec(kind.module) is None:
            raise MissingPackage(f"--track {name}", kind.requirement)
    return classes


class Trackers:
    """The trackers of one run; nothing that they raise reaches the run.

    Args:
        names: Of the trackers.
        run: The run folder.
        settings: What config.yaml records; secrets in it are replaced.
        start: The step from which the run goes on.

    Raises:
        UnknownName: No installed package has such a tracker.
        MissingPackage: What a tracker needs is not installed.
    """

    def __init__(self, names: Sequence[str], run: Path, settings: dict[str, Any], start: int = 0) -> None:
        shown = redact_values(settings)
        self._running: dict[str, Tracker] = {}
        for name, kind in tracker_classes(names).items():
            with self._guarded(name):
                self._running[name] = kind(run.resolve().name, run / RUN_TRACKERS / name, shown, start)

    def scalars(self, row: dict[str, float]) -> None:
        """Hand on a row of metrics.jsonl."""
        values = {name: value for name, value in row.items() if name != "step"}
        self._each(lambda tracker: tracker.scalars(int(row["step"]), values))

    def picture(self, step: int, path: Path) -> None:
        """Hand on a preview's grid."""
        self._each(lambda tracker: tracker.picture(step, path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda tracker: tracker.close())
        self._running.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._running.items()):
            with self._guarded(name):
                call(tracker)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Leave a tracker out that fails within the block, and keep the command's output free of what it prints."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self._running.pop(name, None)
            text = f"{type(error).__name__}: {first_line(error)}"[:_SHOWN]
            log.warning("the tracker %s failed and gets nothing from now on; the run goes on (%s)", name, text)
