"""Whether a folder holds a latent store that can be resumed, and how it was begun. torch is not imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fae_core.errors import FAEError
from fae_core.folders import STORE_INDEX, STORE_PLAN, STORE_PROGRESS

if TYPE_CHECKING:
    from fae_core.latent_store.format import Plan


def is_begun(folder: Path) -> bool:
    """Whether a store in a folder is done or has a plan; False for an empty folder, and one left just after its start.

    Raises:
        FAEError: The folder holds something else.
    """
    if (folder / STORE_INDEX).is_file() or (folder / STORE_PROGRESS / STORE_PLAN).is_file():
        return True
    if {path.name for path in folder.iterdir()} <= {STORE_PROGRESS}:
        return False
    raise FAEError(f"{folder} holds no latent store that could be resumed")


def begun_plan(folder: Path) -> Plan | None:
    """The plan of a store that was begun or finished; None where there is none. Raises DataError for a damaged one."""
    from fae_core.latent_store.format import read_index, read_plan

    if (folder / STORE_INDEX).is_file():
        return read_index(folder).plan
    return read_plan(folder) if (folder / STORE_PROGRESS / STORE_PLAN).is_file() else None
