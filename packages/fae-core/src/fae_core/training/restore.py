"""What a run folder tells of the middle of its training."""

from __future__ import annotations

from pathlib import Path

from fae_core.training.journal import read_metrics


def seconds_at(run: str | Path, step: int) -> float | None:
    """Seconds of training up to a step, interpolated between the rows of metrics.jsonl.

    Args:
        run: the run folder.
        step: how many updates were made.

    Returns:
        The seconds; None beyond the last row.

    Raises:
        InvalidFile: metrics.jsonl is damaged.
    """
    before = (0.0, 0.0)
    for row in read_metrics(Path(run)):
        if "seconds" not in row:
            continue
        after = (float(row["step"]), float(row["seconds"]))
        if after[0] >= step:
            part = (step - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 1.0
            return before[1] + part * (after[1] - before[1])
        before = after
    return None
