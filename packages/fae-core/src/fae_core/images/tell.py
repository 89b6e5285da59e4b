"""One line for the user about what a reader leaves out or chooses: from the first process alone, where several read the same."""

from __future__ import annotations

import logging
import os

log = logging.getLogger("fae")


def tell(line: str) -> None:
    """Log a warning, unless this is another process of torchrun than the first."""
    if os.environ.get("RANK", "0") == "0":
        log.warning("%s", line)
