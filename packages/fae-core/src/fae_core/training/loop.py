"""train(): fetch, loss, backward, clip, step, average, then log, preview and save where they are due."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from fae_core import folders
from fae_core.commands.provenance import provenance
from fae_core.commands.running import command_to_go_on, recorded_arguments
from fae_core.commands.signals import asked_to_end
from fae_core.errors import FAEError, Interrupted, InvalidFile, InvalidSettings
from fae_core.files import hold, read_yaml, require_new_folder
from fae_core.folders import (
    CHECKPOINT_STATE,
    RUN_ARGUMENTS,
    RUN_CONFIG,
    RUN_IDENTITY,
    RUN_MICRO_BATCH,
    RUN_MODEL,
    RUN_SAMPLES,
)
from fae_core.models.checkpoints import read_state
from fae_core.processes import Processes, processes
from fae_core.progress import progress
from fae_core.random import SlotRandom
from fae_core.training.checkpoint import Checkpoints
from fae_core.training.compared import comparable
from fae_core.training.config import TrainConfig
from fae_core.training.engine import Engine, check_trainable, save_bad_batch, warn_of_a_young_average
from fae_core.training.exports import KeptModels, export, warn_of_late
from fae_core.training.identity import ContentInBackground
from fae_core.training.journal import Journal, open_run, record_measured
from fae_core.training.loader import ahead
from fae_core.training.order import SampleOrder
from fae_core.training.schedule import learning_rate_factor
from fae_core.training.task import Batch, Task
from fae_core.training.tracking import Trackers, tracker_classes
from fae_core.training.unreadable import UnreadableImages

log = logging.getLogger("fae")


def train(
    task: Task,
    config: TrainConfig,
    run: str | Path,
    *,
    settings: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
) -> Path:
    """Train into a run folder, whose model/ then holds the exported model.

    On the CPU, with the same number of processes and threads, a resumed run gives bit for bit what an uninterrupted one
    gives. It must have the same settings, but paths may differ: data are compared by content (`Task.identity`, and
    what `settings` has under "identity").

    Args:
        task: what to train.
        config: how to train it.
        run: the run folder.
        settings: what config.yaml records beside the TrainConfig.
        resume: continue from the newest whole checkpoint, if there is one.
        overwrite: replace a run that is there.
        device: "cpu", "cuda" or "cuda:N"; without one, cuda where there is one.

    Returns:
        The run folder.

    Raises:
        OutputExists: the folder is in use.
        InvalidSettings: the run to resume was started with other settings, or has more steps already.
        InvalidFile: it was started with other data, or is damaged.
        LatentSpecMismatch: the run to resume was started with other latents.
        FAEError: gradients stay non-finite, there are no samples, or as `check_trainable`.
        Interrupted: a signal asked for an end (see `fae_core.commands.signals`); a checkpoint was saved.
    """
    run, content = Path(run), None
    with processes(device) as group, ExitStack() as held:
        check_trainable(task, config, group)
        milestones = config.kept_steps(len(task))
        if group.is_main:
            require_new_folder(run, overwrite=overwrite, resume=resume, kind="run", resumable=RUN_CONFIG)
            held.enter_context(hold(run))
            warn_of_a_young_average(task, config)
            warn_of_late(milestones, config.steps)
            identity = {**(settings or {}).get(RUN_IDENTITY, {}), **task.identity()}
            compared = comparable(identity, run, resume=resume)
            recorded = {**(settings or {}), RUN_IDENTITY: compared, "training": config.model_dump(mode="json")}
            recorded |= {RUN_MICRO_BATCH: _share(config, group)} if task.micro_batch_matters else {}
            recorded |= {RUN_ARGUMENTS: words} if (words := recorded_arguments()) else {}
            tracker_classes(config.track)  # an unknown name ends the command before a folder is made
            open_run(run, recorded, resume=resume, overwrite=overwrite)
            content = held.enter_context(ContentInBackground(run, identity, compared))
        group.barrier()
        unreadable = UnreadableImages(run, group)
        engine = Engine(task, config, group)
        if group.is_main:
            record_measured(run, task.measured)
        checkpoints = Checkpoints(run, group, config.keep_checkpoints, milestones)
        kept = KeptModels(engine, run, milestones)
        start, seconds = _restore(engine, checkpoints, kept) if resume else (0, 0.0)
        if start == 0:
            engine.take_over_moments()
        if start > config.steps:
            raise InvalidSettings(f"{run} is at step {start} already; train it on with more than {config.steps} steps")
        journal = Journal(run, group.is_main, start)
        if group.is_main and config.track:
            journal.trackers = held.enter_context(Trackers(config.track, run, read_yaml(run / RUN_CONFIG), start))
        clock = _Clock(seconds)
        skipped, stop = 0, _Stop()
        with (
            _deterministic(config.deterministic),
            asked_to_end(stop.ask, once=True),  # the loop ends after its step; a second signal acts at once
            progress(config.steps, f"training {run.name}", start, group.is_main) as bar,
        ):
            for step, micro_batches in _batches(task, config, group, start):
                terms = engine.update(step, micro_batches)
                skipped = 0 if terms is not None else skipped + 1
                if terms is None:
                    _report_skip(run, step, micro_batches, skipped, config, group)
                else:
                    journal.add(terms)
                done = step + 1
                last = done == config.steps
                if done % config.log_every == 0 or last:
                    row = _row(done, clock, journal.take(), config, group)
                    journal.write(row)
                    bar.note(f"loss {row['loss']:.4g}" if "loss" in row else "")
                if config.preview_every and (done % config.preview_every == 0 or last):
                    _preview(engine, run, done, clock, journal, group)
                stopping = group.any(stop.signal != 0)
                if done % config.checkpoint_every == 0 or done in milestones or last or stopping:
                    unreadable.record()
                    if content is not None:
                        content.record()
                    checkpoints.save(
                        done, engine.checkpoint_tensors(), {"seconds": clock.seconds(), **_provenance(config, group)}
                    )
                    kept.make(done)
                bar.advance()
                if stopping and not last:
                    _stop(done, signal.SIGINT if group.any(stop.signal == signal.SIGINT) else signal.SIGTERM, group)
        export(engine, run / RUN_MODEL)
        unreadable.record()
    return run


def _share(config: TrainConfig, group: Processes) -> int:
    """Samples in a micro-batch."""
    return config.batch_size // (group.world_size * config.accumulation)


def _batches(
    task: Task, config: TrainConfig, group: Processes, start: int
) -> Iterator[tuple[int, list[tuple[Batch, SlotRandom]]]]:
    """Each step's micro-batches for this process, on its device, loaded ahead of time in threads."""
    share = _share(config, group)
    if len(task) == 0:
        raise FAEError("there are no samples to train on")
    pin = group.device.startswith("cuda")
    order = SampleOrder(config.seed, len(task), task.read_groups, config.shuffle_window)

    def load(step: int) -> list[tuple[Batch, SlotRandom]]:
        indices = order.batch(step, config.batch_size)
        loaded = []
        for micro in range(config.accumulation):
            first = (micro * group.world_size + group.rank) * share
            random = SlotRandom(config.seed, range(first, first + share), step, on_device=True)
            batch = task.load(indices[first : first + share], random)
            if pin:  # a copy from pinned memory does not make the device wait
                batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
            loaded.append((batch, random))
        return loaded

    for step, loaded in ahead(load, range(start, config.steps), config.loader_threads, config.stall_limit):
        yield (
            step,
            [
                ({name: t.to(group.device, non_blocking=True) for name, t in batch.items()}, random)
                for batch, random in loaded
            ],
        )


def _restore(engine: Engine, checkpoints: Checkpoints, kept: KeptModels) -> tuple[int, float]:
    """Load the newest whole checkpoint, after exporting what is still to be; its step and the seconds before it."""
    newest = checkpoints.latest()
    if newest is None:
        return 0, 0.0
    state: dict[str, Any] = {}
    for path in [*kept.owed(before=int(read_state(newest)["step"])), newest]:
        state = checkpoints.load(path, engine.checkpoint_tensors())
        kept.make(int(state["step"]))
    if not isinstance(state.get("seconds"), int | float):
        raise InvalidFile(f"{newest / CHECKPOINT_STATE} lacks seconds")
    if engine.group.is_main:
        log.info("resuming from %s", newest)
    return int(state["step"]), float(state["seconds"])


def _row(done: int, clock: _Clock, means: dict[str, float], config: TrainConfig, group: Processes) -> dict[str, float]:
    """A row of metrics.jsonl: means over the steps since the last one and over processes."""
    means = group.mean(means)
    rate = config.learning_rate * learning_rate_factor(config, done - 1)
    return {"step": done, "seconds": round(clock.seconds(), 3), **means, "learning_rate": rate}


def _report_skip(
    run: Path,
    step: int,
    micro_batches: list[tuple[Batch, SlotRandom]],
    skipped: int,
    config: TrainConfig,
    group: Processes,
) -> None:
    """Log a step whose gradient is not finite; raise FAEError after too many in a row."""
    if group.is_main:
        log.warning("step %d skipped: its gradient is not finite (%d in a row)", step + 1, skipped)
    if skipped > config.max_skipped:
        kept = save_bad_batch(run, step, micro_batches) if group.is_main else None
        raise FAEError(
            f"{skipped} updates in a row had a non-finite gradient; the last batch is in {kept}; lower the learning "
            "rate"
        )


def _preview(engine: Engine, run: Path, done: int, clock: _Clock, journal: Journal, group: Processes) -> None:
    """The task's preview with averaged weights, on the first process; the others wait."""
    modules, stack = engine.final_modules()
    with stack:
        if group.is_main:
            folder = run / RUN_SAMPLES
            folder.mkdir(exist_ok=True)
            with torch.no_grad():
                numbers = engine.task.preview(folder, done, modules)
            if numbers:
                journal.write({"step": done, "seconds": round(clock.seconds(), 3), **numbers})
            journal.picture(done, folder / folders.preview_image(done))
    group.barrier()


def _provenance(config: TrainConfig, group: Processes) -> dict[str, Any]:
    """What a checkpoint records of how it was made."""
    return provenance(
        device=group.device.split(":")[0],
        processes=group.world_size,
        accumulation=config.accumulation,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


class _Clock:
    """Seconds of training, earlier parts of a resumed run included."""

    def __init__(self, before: float) -> None:
        self._start = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self._start


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """torch's deterministic algorithms while training, where they are wanted."""
    if not wanted:
        yield
        return
    # cuBLAS reads it with its first workspace; without it torch refuses deterministic matrix products on CUDA.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _Stop:
    """The first signal that asked for an end; 0: none."""

    signal = 0

    def ask(self, number: int) -> None:
        self.signal = number


def _stop(done: int, number: int, group: Processes) -> None:
    """End after the checkpoint of step `done`; the first process names the command that continues."""
    if not group.is_main:
        raise SystemExit(128 + number)
    raise Interrupted(f"stopped at step {done} after saving a checkpoint", number, command_to_go_on())
