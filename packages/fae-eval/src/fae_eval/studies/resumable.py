"""What a study of sampling options has measured: kept in its record, and taken over where it is resumed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from fae_core.errors import FAEError, InvalidFile
from fae_core.models.sample_options import without_speed
from fae_eval.results import Result, is_number, other_kind, provenance, require_kind
from fae_eval.studies.at_options import AtOptions, as_read_again

_SEARCH = "search"  # in a record's provenance: what decides the distances
_SETTINGS = "settings"  # in that: of each measured point a hash of its settings; earlier versions have none
COMMAND_NOTE = "To use it: "

PointT = TypeVar("PointT")


class ResumableStudy(ABC, Generic[PointT]):
    """The points that a study measures one after another. All processes have the same.

    Attributes:
        kind: Of the record.
        own_notes: How the notes begin that the study itself writes into the record.
        own_warnings: The same of its warnings.
        first_columns: Names that the record's table begins with; the distance is its last.

    Args:
        study: What measures.
        own: What decides distances beside the study's identity, the same at all points.
        title: Heading of the record.
    """

    kind: ClassVar[str]
    own_notes: ClassVar[tuple[str, ...]]
    own_warnings: ClassVar[tuple[str, ...]]
    first_columns: tuple[str, ...]

    def __init__(self, study: AtOptions, own: Mapping[str, Any], title: str) -> None:
        self.study, self.title = study, title
        self.identity: dict[str, Any] = {**study.identity, **as_read_again(dict(own))}
        self.settings: dict[str, str] = {}
        self.label = ""
        self.facts: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.seconds = 0.0

    @abstractmethod
    def next(self) -> PointT | None:
        """The next point to measure; None once there is none."""

    @abstractmethod
    def measure(self, point: PointT) -> None:
        """Measure a point and keep what was found."""

    @abstractmethod
    def record(self) -> Result:
        """The record so far, after the first point."""

    @abstractmethod
    def take(self, row: list[Any]) -> None:
        """Take a row over from an earlier record. Raises InvalidFile for one without numbers."""

    @abstractmethod
    def named_options(self) -> dict[str, dict[str, Any]]:
        """The options of every point that may be measured, by a name."""

    def run(self, keep: Callable[[Result], object] | None) -> Result:
        """Measure what is missing. `keep` is called with the record so far after each point, on the first process."""
        while (point := self.next()) is not None:
            self.measure(point)
            if keep is not None and self.study.group.is_main:
                keep(self.record())
        return self.record()

    def resume(self, earlier: Result) -> None:
        """Take over what an earlier call measured, also of fewer points or others.

        Raises:
            InvalidFile: The record is of another kind, or a row of it has no numbers.
            FAEError: It is of other models, images or settings; the message names what differs.
        """
        what, searched = self.kind.replace("-", " "), self._searched(earlier)
        known = searched.get(_SETTINGS)
        identity = self.identity
        if not isinstance(known, dict):  # of an earlier version: the generator's own settings are in its hash
            known = {}
            if searched.get("generator") in self.study.earlier_generators():
                searched = {**searched, "generator": identity["generator"]}
        then, given = (without_speed(one, self.study.model) for one in (searched, identity))
        changed = sorted(name for name in given if then.get(name) != given[name])
        if changed:
            raise FAEError(f"the {what} to resume was started with another {', '.join(changed)}; use a new --out")
        now = {name: self.study.settings(options) for name, options in self.named_options().items()}
        other = next((name for name in now if known.get(name, now[name]) != now[name]), None)
        if other is not None:
            raise FAEError(
                f"the {what} to resume measured {other} at other settings of sampling than the model has now; use a "
                "new --out"
            )
        self.settings = {str(name): str(value) for name, value in known.items()}
        for row in earlier.rows:
            self.take(row)
        self.label = str(earlier.columns[-1])
        self.facts = {key: value for key, value in earlier.provenance.items() if key != _SEARCH}
        seconds: Any = earlier.provenance.get("seconds")
        self.seconds = float(seconds) if is_number(seconds) else 0.0
        self.warnings = [warning for warning in earlier.warnings if not warning.startswith(self.own_warnings)]
        self.notes = [note for note in earlier.notes if not note.startswith(self.own_notes)]

    def add(self, name: str, options: Mapping[str, Any], measured: Result) -> float:
        """Take up what was measured at a point, by its name; the distance."""
        self.label = str(measured.columns[-1])
        self.settings[name] = self.study.settings(options)
        self.seconds += float(measured.provenance.get("seconds", 0.0))
        return float(measured.rows[0][-1])

    def tell(self, measured: Result) -> None:
        """Have the record say what the one of a point says."""
        self.facts, self.warnings, self.notes = measured.provenance, measured.warnings, measured.notes

    def made(self, table: dict[str, Any], notes: list[str], warnings: list[str], values: dict[str, float]) -> Result:
        """A record: its table, own notes and warnings beside those of the points, and the values that are named."""
        now = {key: value for key, value in provenance().items() if key in ("command", "date")}
        facts = {**self.facts, **now, "seed": self.identity["seed"], "seconds": round(self.seconds, 1)}
        facts[_SEARCH] = {**self.identity, _SETTINGS: dict(sorted(self.settings.items()))}
        return Result(
            self.kind, self.title, table, [], [*self.notes, *notes], [*self.warnings, *warnings], values, facts
        )

    def _searched(self, earlier: Result) -> dict[str, Any]:
        """What decided the distances of a record. Raises InvalidFile for one of another kind."""
        searched = earlier.provenance.get(_SEARCH)
        begins = earlier.columns[: len(self.first_columns)] == [*self.first_columns]
        require_kind(earlier, self.kind)
        if not isinstance(searched, dict) or not begins:
            raise other_kind(self.kind)
        return searched


def numbers(*cells: Any) -> list[float]:
    """The cells of a row to resume, as numbers. Raises InvalidFile where one is none."""
    if not all(is_number(cell) for cell in cells):
        raise InvalidFile("the record to resume has a row without numbers; use a new --out")
    return [float(cell) for cell in cells]
