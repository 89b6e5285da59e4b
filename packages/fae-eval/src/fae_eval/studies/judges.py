"""Several judges of the same images: the distances of each in one record."""

from __future__ import annotations

from collections.abc import Sequence

from fae_core.errors import FAEError
from fae_eval.results import RELATIVE, Result


def require_different(names: Sequence[str]) -> None:
    """Raise FAEError where an extractor is named twice."""
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise FAEError(f"the extractor {twice} is named twice")


def put_beside(result: Result, other: Result, name: str) -> None:
    """Put another judge's distances into a record of the same rows, in front of the first judge's columns.

    The last column stays the first judge's distance.

    Args:
        result: the record; changed.
        other: of the same sets, by one metric.
        name: of the other extractor.
    """
    renamed = {RELATIVE: f"{RELATIVE}-{name}"}
    at = 2  # behind the row's name and the number of images
    result.columns[at:at] = [renamed.get(str(column), str(column)) for column in other.columns[at:]]
    for row, added in zip(result.rows, other.rows, strict=True):
        if row[:at] != added[:at]:
            raise FAEError(f"{name} measured {added[0]}, not {row[0]}")
        row[at:at] = added[at:]
    for label, value in other.values.items():
        owner, colon, plain = label.rpartition(": ")
        result.values[f"{owner}{colon}{renamed.get(plain, plain)}"] = value
    result.notes += [note for note in other.notes if note not in result.notes]
    result.warnings += [f"{name}: {warning}" for warning in other.warnings if warning not in result.warnings]
    judged = {key: other.provenance[key] for key in ("extractor", "reference") if key in other.provenance}
    result.provenance.setdefault("also", {})[name] = judged
    if isinstance(result.provenance.get("seconds"), float) and isinstance(other.provenance.get("seconds"), float):
        result.provenance["seconds"] = round(result.provenance["seconds"] + other.provenance["seconds"], 1)
