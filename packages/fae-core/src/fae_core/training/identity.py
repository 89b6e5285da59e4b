"""What a run learns from, as config.yaml records it, completed while the run trains."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError
from fae_core.images.identity import Identity, Stopped, has_content
from fae_core.training.journal import record_identity

log = logging.getLogger("fae")


class ContentInBackground:
    """Hashes large sets of images, so far known by the facts about their files, in a thread beside training.

    Their content is recorded by `record`, so that copies of them are known, too. What was hashed when it is closed is
    in the cache of digests; the next call goes on from there. A context manager.

    Args:
        run: the run folder.
        identity: of `Task.identity`.
        recorded: of `comparable`.
    """

    def __init__(self, run: Path, identity: dict[str, Any], recorded: dict[str, Any]) -> None:
        self.run = run
        self._pending = {
            name: value
            for name, value in identity.items()
            if isinstance(value, Identity) and not has_content(recorded[name])
        }
        self._found: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._hash, name="content", daemon=True)

    def __enter__(self) -> ContentInBackground:
        if self._pending:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._pending:
            self._thread.join()

    def record(self) -> None:
        """Write to config.yaml what has been hashed by now."""
        found = {name: self._found.pop(name) for name in list(self._found)}
        if found:
            record_identity(self.run, found)

    def _hash(self) -> None:
        for name, identity in self._pending.items():
            try:
                self._found[name] = identity.with_content(identity.content(self._stop.is_set))
            except Stopped:
                return
            except FAEError as error:
                log.warning("the content of the %s is not recorded: %s", name.replace("_", " "), error)
