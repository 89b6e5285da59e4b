"""Where tests find data that is not committed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_folder(*parts: str) -> Path:
    """A path below the folder of shared data: $FAE_SHARED, or `shared` beside the checkout.

    Skips the test where the path is absent.

    Args:
        *parts: Parts of the path.
    """
    root = os.environ.get("FAE_SHARED")
    candidates = [Path(root)] if root else [parent / "shared" for parent in Path.cwd().resolve().parents]
    for candidate in candidates:
        path = candidate.joinpath(*parts)
        if path.exists():
            return path
    pytest.skip(f"{'/'.join(parts)} of the shared data is absent; set FAE_SHARED to the folder that holds it")
