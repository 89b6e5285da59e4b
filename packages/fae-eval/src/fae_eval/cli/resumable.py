"""What the commands share that measure one generator at many sampling options, and can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.cli.options import Decoder, Generator, Resume, Seed
from fae_core.errors import FAEError
from fae_eval.cli.options import Measurement, finish, result_path
from fae_eval.results import require_kind

if TYPE_CHECKING:
    from fae_eval.results import Result


@dataclass(frozen=True, kw_only=True)
class ResumableMeasurement(Measurement):
    """Options of such a command, beside those of every measurement."""

    generator: Generator
    decoder: Decoder
    seed: Seed = 0
    resume: Resume = False

    def record_path(self, name: str) -> Path | None:
        """The file of the record, as `result_path` has it. Raises FAEError for --resume without one."""
        path = result_path(self.out, name, self.overwrite or self.resume, ".svg")
        if self.resume and path is None:
            raise FAEError("--resume needs --out, the record to continue")
        if (earlier := self._earlier(path)) is not None:
            require_kind(earlier, name)
        return path

    def _earlier(self, path: Path | None) -> Result | None:
        """The record to continue; None where none is there, or none is to be continued."""
        from fae_eval.results import Result

        return Result.load(path) if self.resume and path is not None and path.is_file() else None

    def check(self, count: int, *points: Mapping[str, Any], floor: str | None = None) -> None:
        """Check what samples are asked for, at each of some options, and the places; nothing is loaded.

        Args:
            count: How many images are drawn at a point, at most.
            *points: Each the options of `sample` at which something is measured.
            floor: More real images.
        """
        self.check_drawing([self.generator], self.decoder, count, *points)
        self.check_places(self.decoder, floor)

    def run(
        self,
        path: Path | None,
        measure: Callable[[], Callable[..., Result]],
        plan: Any,
        draw: Callable[[Result, Path], None],
        **more: Any,
    ) -> None:
        """Measure, write and print the record, and its chart where there is a file.

        Args:
            path: As `record_path` gives it.
            measure: Imports what measures, once everything else is known to be right.
            plan: What is measured.
            draw: Writes the chart of a record beside it.
            **more: Further arguments of what measures.
        """
        from fae_core.cli.launch import relaunched

        if relaunched(self.processes):
            return
        from fae_core.processes import processes

        earlier = self._earlier(path)
        with processes(self.device) as group:
            result = measure()(
                self.generator,
                self.decoder,
                self.reference,
                plan,
                labels=self.drawn_labels,
                prompts=self.prompts,
                seed=self.seed,
                earlier=earlier,
                keep=None if path is None else lambda record: record.save(path),
                **self.how,
                **more,
            )
            if group.is_main:
                if path is not None:
                    draw(result, path)
                finish(result, path)
