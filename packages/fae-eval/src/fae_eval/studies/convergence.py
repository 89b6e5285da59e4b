"""Convergence over training: the distance of samples at each of a run's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fae_core.errors import FAEError
from fae_core.models.checkpoints import checkpoints_of
from fae_core.training.restore import seconds_at
from fae_eval.data import GeneratedSamples
from fae_eval.results import Result
from fae_eval.studies.generation import evaluate
from fae_eval.tokenizers import load_image_tokenizer

KIND = "convergence"


def checkpoint_samples(
    run: str | Path, decoder: Any, count: int, *, device: str | None = None, **options: Any
) -> dict[int, GeneratedSamples]:
    """Step -> samples of each checkpoint that the run still has, the same noise and labels at each.

    Averaged weights are used where the run keeps them.

    Args:
        run: folder of the run.
        decoder: folder or hub id of a tokenizer that decodes, or the tokenizer.
        count: samples of each checkpoint.
        device: of what is loaded; cuda where there is one.
        **options: labels, prompts, guidance and seed, as in `GeneratedSamples`.
    """
    tokenizer = load_image_tokenizer(decoder, device, needs_decode=True)
    return {step: GeneratedSamples(path, tokenizer, count, **options) for step, path in checkpoints_of(run).items()}


def evaluate_convergence(
    samples: Mapping[int, Any],
    reference: Any,
    *,
    run: str | Path | None = None,
    metrics: str | Sequence[str] = ("frechet",),
    title: str | None = None,
    **options: Any,
) -> Result:
    """One row per step, in order: the step, the seconds of training until then, and the metrics.

    Args:
        samples: step -> anything that `evaluate` takes.
        reference: real images, as in `evaluate`.
        run: folder of a run whose metrics.jsonl gives the seconds.
        metrics: as in `evaluate`.
        title: heading of the record.
        **options: as in `evaluate` (extractor, floor, size, cache, ...); the floor becomes a note.

    Raises:
        FAEError: where there are no samples, and as `evaluate`.
    """
    if not samples:
        raise FAEError("there are no samples to measure")
    names = {f"step {step}": step for step in sorted(samples)}
    measured = evaluate({name: samples[step] for name, step in names.items()}, reference, metrics=metrics, **options)
    columns = ["", "step", "seconds", *measured.columns[1:]]
    rows, notes = [], list(measured.notes)
    for name, *cells in measured.rows:
        if name in names:
            step = names[name]
            rows.append([name, step, seconds_at(run, step) if run is not None else None, *cells])
        else:
            pairs = zip(measured.columns[1:], cells, strict=True)
            notes.append(f"{name}: " + ", ".join(f"{column} {cell:.4g}" for column, cell in pairs))
    table = {"columns": columns, "rows": rows}
    facts = measured.provenance if run is None else {**measured.provenance, "run": str(run)}
    return Result(KIND, title or "Convergence", table, [], notes, measured.warnings, measured.values, facts)
