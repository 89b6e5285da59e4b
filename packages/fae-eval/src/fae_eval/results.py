"""Result records: what was measured, and everything needed to measure it again.

A record is plain JSON, so that any program can write one without importing this package; `fae eval report` reads them
all:

    {"kind": "generation",   # reconstruction | samples | generation | similarity | matching | pca | probe | text |
                             # convergence | comparison | timing | anything; it decides the place in a report
     "title": "Generated against held-out crops",
     "table": {"columns": ["", "PSNR"], "rows": [["FAE", 26.6]]},      # or null; numbers stay numbers
     "figures": [{"path": "grid.png", "caption": "..."}],              # paths relative to the record
     "notes": ["..."], "warnings": ["..."],
     "values": {"psnr": 26.6},                                         # optional: the same numbers by name
     "provenance": {"command": "...", "date": "...", "device": "...", "versions": {...}, "seed": 0, ...}}
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fae_core.commands.provenance import provenance as core_provenance
from fae_core.display import html_grid
from fae_core.errors import InvalidFile
from fae_core.files import disk_errors, read_json, write_json
from fae_core.redact import redact

LARGEST = 1e100
_SHOWN = 60  # letters of kind and title in a repr
FLOOR = "real vs real (floor)"  # the name of a row that measures real images against others
RELATIVE = "FDr"  # the column of Frechet distances in units of the floor's
_PACKAGES = ("numpy", "timm", "torch-fidelity", "transformers", "lpips", "pillow")


@dataclass
class Result:
    """One record; the module's docstring gives its layout.

    Attributes:
        kind: decides the place in a report.
        title: the heading.
        table: `columns` and `rows`, one cell per column; None for no table.
        figures: pictures with `path`, relative to the record, and `caption`.
        notes: sentences on what was measured.
        warnings: sentences on where the measurement departs from the published protocol.
        values: the same numbers by name.
        provenance: command, date, device, versions and whatever else is needed to measure it again.
    """

    kind: str
    title: str
    table: dict[str, list[Any]] | None = None
    figures: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        names = f"{self.kind[:_SHOWN]!r}, {self.title[:_SHOWN]!r}"
        return f"Result({names}, {len(self.rows)} rows, {len(self.figures)} figures)"

    def _repr_html_(self) -> str:
        rows = [[format_cell(value) for value in row] for row in self.rows]
        notes = [*self.notes, *(f"warning: {warning}" for warning in self.warnings)]
        return html_grid(self.title, self.columns, rows, notes)

    @property
    def columns(self) -> list[Any]:
        """The names of the table's columns; empty without a table."""
        return self.table["columns"] if self.table else []

    @property
    def rows(self) -> list[list[Any]]:
        """The rows of the table; empty without a table."""
        return self.table["rows"] if self.table else []

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, whole or not at all. Numbers that are not finite become null, secrets ***.

        Args:
            path: The file; its folder is made.
        """
        path = Path(path)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_dict())
        return path

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON holds it. Numbers that are not finite become null, secrets ***."""
        return _finite(asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a record that any program wrote. Raises InvalidFile, one line, where it is not one.

        Args:
            path: The file.
        """
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def from_dict(cls, stored: dict[str, Any], where: str = "record") -> Result:
        """A record from parsed JSON, once the types of all parts are checked. Unknown keys are left out.

        Args:
            stored: the parsed JSON.
            where: what an error calls its source.

        Raises:
            InvalidFile: where it is not a record.
        """
        types = {"table": (dict, type(None)), "figures": list, "notes": list, "warnings": list, "values": dict}
        types |= {"kind": str, "title": str, "provenance": dict}
        if not isinstance(stored.get("kind"), str) or not isinstance(stored.get("title"), str):
            raise InvalidFile(f"{where} is not a result record: it needs a kind and a title")
        for name, expected in types.items():
            if name in stored and not isinstance(stored[name], expected):
                raise InvalidFile(f"{where}: {name} has the wrong type")
        result = cls(**{name: stored[name] for name in types if name in stored})
        table = result.table
        if table is not None and not (
            isinstance(table.get("columns"), list)
            and isinstance(table.get("rows"), list)
            and all(isinstance(row, list) and len(row) == len(table["columns"]) for row in table["rows"])
        ):
            raise InvalidFile(f"{where}: every row of the table must have one cell per column")
        if not all(isinstance(f, dict) and isinstance(f.get("path"), str) for f in result.figures):
            raise InvalidFile(f"{where}: every figure needs a path")
        return result

    def text(self) -> str:
        """The record for a terminal: title, table, notes, warnings, provenance line."""
        lines = [self.title]
        if self.table:
            lines += ["", *_text_table(self.table)]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return _whole(redact("\n".join([*lines, "", provenance_line(self.provenance)])))


def provenance(**facts: Any) -> dict[str, Any]:
    """`fae_core.commands.provenance.provenance` with the versions of every package that a metric rests on."""
    return core_provenance(packages=_PACKAGES, **facts)


def provenance_line(facts: dict[str, Any]) -> str:
    """All facts of a provenance record in one line; nested ones as name(key=value)."""
    parts = []
    for name, value in facts.items():
        if isinstance(value, dict):
            inner = " ".join(f"{k}={v}" for k, v in value.items())
            parts.append(f"{name}({inner})")
        else:
            parts.append(f"{name}={value}")
    return "provenance: " + "; ".join(parts)


def require_kind(record: Result, kind: str) -> None:
    """Raise InvalidFile where a record to resume is of another kind."""
    if record.kind != kind:
        raise other_kind(kind)


def other_kind(kind: str) -> InvalidFile:
    """The error about a record to resume that is of another study than `kind`."""
    return InvalidFile(f"the record to resume is not one of a {kind.replace('-', ' ')}; use a new --out")


def is_number(value: Any) -> bool:
    """Whether a value from a file is a number to calculate with: no bool, and its squares and sums stay finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def format_cell(value: Any) -> str:
    """A table cell as text: four significant digits for floats, a dash for what is missing or not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if value == 0:
        return "0"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits <= 6 else f"{value:.2e}"


def _whole(text: str) -> str:
    """Text without lone surrogates, which names of files may hold: no terminal and no file takes them."""
    return text.encode(errors="replace").decode()


def _text_table(table: dict[str, list[Any]]) -> list[str]:
    rows = [[str(c) for c in table["columns"]], *([format_cell(c) for c in row] for row in table["rows"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows[0] else []
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if getattr(value, "ndim", None) == 0 and not isinstance(value, float):
        return _finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
