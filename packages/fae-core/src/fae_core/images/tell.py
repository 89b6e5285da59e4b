"""Warnings about images, once although several processes read the same ones."""

from __future__ import annotations

import logging

from fae_core.commands.running import is_first_process
from fae_core.redact import redact

log = logging.getLogger("fae")


def log_on_first_process(line: str) -> None:
    """Log a warning, without secrets, unless this is another process than the first."""
    if is_first_process():
        log.warning("%s", redact(line))
