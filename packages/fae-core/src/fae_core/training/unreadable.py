"""A run's record of images that could not be read and were replaced: RUN/unreadable.txt."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from fae_core.files import disk_errors
from fae_core.folders import RUN_UNREADABLE
from fae_core.images.tolerant import take_replaced
from fae_core.processes import Processes

log = logging.getLogger("fae")


class UnreadableImages:
    """Appends each image once, whichever process met it, and whether before or after the run was resumed.

    A line is the image's place in the data, a tab, and why it cannot be read, which names it.

    Args:
        run: the run folder.
        group: the processes; the first one writes.
    """

    def __init__(self, run: Path, group: Processes) -> None:
        self.path, self.group = run / RUN_UNREADABLE, group
        self._known = set[str]()
        take_replaced()  # what was read before this run
        if group.is_main and self.path.is_file():
            with disk_errors(self.path), self.path.open(encoding="utf-8", errors="replace") as lines:
                self._known = {line.partition("\t")[0] for line in lines}

    def record(self) -> None:
        """Record what the processes met since the last call. All of them call it together."""
        met = {place: reason for part in self.group.gather(take_replaced()) for place, reason in part.items()}
        fresh = {place: met[place] for place in sorted(met) if str(place) not in self._known}
        if not fresh or not self.group.is_main:
            return
        with disk_errors(self.path), self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{place}\t{reason}\n" for place, reason in fresh.items())
            file.flush()
            os.fsync(file.fileno())
        self._known.update(map(str, fresh))
        log.warning(
            "images that could not be read and were replaced by the next ones so far: %d; %s names them",
            len(self._known),
            self.path,
        )
