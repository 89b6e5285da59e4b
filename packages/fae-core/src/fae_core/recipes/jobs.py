"""Several steps of a recipe in parallel, each in one of N processes that stay: `fae run RECIPE --jobs N`."""

from __future__ import annotations

import fnmatch
import json
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from fae_core.commands.children import Children, children
from fae_core.commands.running import command_to_go_on, outputs_of
from fae_core.errors import FAEError, Interrupted
from fae_core.files import disk_errors
from fae_core.folders import ENCODER
from fae_core.machine import available_cores
from fae_core.places import split_slice

_POLL_SECONDS = 0.1
_TELL_SECONDS = 8.0  # between two lines about the steps that run
_LONGEST_NEWS = 100  # characters of a step's last line in it
_TAIL = 2**14  # bytes of a log in which its last line is looked for


@dataclass(frozen=True)
class Job:
    """A step that is due.

    Attributes:
        name: Name of the step.
        command: The arguments after `fae`.
        needs: Names of the steps that must have ended before.
    """

    name: str
    command: list[str]
    needs: frozenset[str]


def needs(commands: Mapping[str, list[str]]) -> dict[str, frozenset[str]]:
    """The earlier steps whose results each step reads.

    A step reads another's results where one of its words names the folder or file that the other writes (its --out, or
    OUT.encoder beside it), a path above or below it, a part of it (`all.npz[:100]`), or a pattern
    (`results/fae-*.json`) that fits it. So `eval report {out}` waits for all steps before it.

    Args:
        commands: The arguments after `fae` by step, in the recipe's order.

    Returns:
        By step, the names of these earlier steps.
    """
    found: dict[str, frozenset[str]] = {}
    written: list[tuple[str, str]] = []
    for name, command in commands.items():
        read = {path for word in command for path in _paths_named(word)}
        found[name] = frozenset(other for other, path in written if any(_overlap(one, path) for one in read))
        # Beside a store, `fae encode` writes the encoder that made it.
        beside = (path for out in outputs_of(command)[:1] for path in (out, f"{out}.{ENCODER}"))
        written += [(name, _absolute(path)) for path in beside]
    return found


def run_jobs(
    jobs: Sequence[Job],
    count: int,
    logs: Path,
    started: Callable[[str], None],
    ended: Callable[[str, float], None],
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Run all jobs, each as soon as the steps that it needs have ended.

    After a failure no job is started, and those that run are waited for. A signal is passed on to all.

    Args:
        jobs: The jobs to run.
        count: Most jobs at a time.
        logs: Folder for the jobs' output, NAME.log each, "/" in a name as %2F.
        started: Called in this process with a job's name.
        ended: Called in this process with a job's name and the seconds that it took.
        tell: Called every few seconds with a line that says what the running jobs told last.

    Raises:
        FAEError: A job failed; names the job, its status and the last line of its output.
        Interrupted: A signal asked to stop.
    """
    waiting, running, idle = list(jobs), {}, []
    unfinished = {job.name for job in jobs}
    failed: tuple[Job, int] | None = None
    told = time.monotonic()
    with children() as group:
        # A second signal is passed on as well; at a third one, running jobs are killed.
        while running or (waiting and failed is None and not group.signal):
            idle = [worker for worker in idle if worker.status() is None]  # one may have been killed while it waited
            if failed is None and not group.signal:
                for job in [job for job in waiting if not job.needs & unfinished][: count - len(running)]:
                    waiting.remove(job)
                    started(job.name)
                    told = time.monotonic()
                    worker = idle.pop() if idle else _Worker(group, count, logs)
                    worker.begin(job, _log(logs, job))
                    running[job.name] = (job, worker, time.monotonic())
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                tell("; ".join(_news(job, told - since, _log(logs, job)) for job, _, since in running.values()))
            for job, worker, since in list(running.values()):
                status = worker.status()
                if status is None:
                    continue
                del running[job.name]
                if status:
                    failed = failed or (job, status)
                else:
                    idle.append(worker)
                    unfinished.remove(job.name)
                    ended(job.name, time.monotonic() - since)
            if group.again > 1:
                break
        if group.signal:
            done = f"stopped with {len(unfinished)} steps to do; the output of those that ran is in {logs}"
            raise Interrupted(done, group.signal, command_to_go_on())
        for worker in idle:
            worker.end()
    if failed is not None:
        job, status = failed
        log = _log(logs, job)
        last = _last_line(log) or "it printed nothing"
        raise FAEError(f"step {job.name} ended with status {status}: {last} (all of its output: {log})")


class _Worker:
    """A process that runs jobs, one at a time; see cli/worker.py."""

    def __init__(self, group: Children, count: int, logs: Path) -> None:
        # By default each process would use all cores.
        threads = str(max(1, available_cores() // count))
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        self._process = group.start([str(logs)], environment, "fae_core.cli.worker", talk=True)
        self._requests, self._answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)

    def begin(self, job: Job, log: Path) -> None:
        with disk_errors(log):
            log.parent.mkdir(exist_ok=True)
            log.write_bytes(b"")
        with suppress(BrokenPipeError):  # it has been killed, which its status tells
            self._requests.write(json.dumps({"command": job.command, "log": str(log)}).encode() + b"\n")
            self._requests.flush()

    def status(self) -> int | None:
        """The exit status of the job, or of the process where it ended without an answer; None while the job runs."""
        ended = self._process.poll()  # before the answer is looked for: it may answer and end
        if select.select([self._answers], [], [], 0)[0] and (answer := self._answers.readline()):
            return int(answer)
        return None if ended is None else ended or 1

    def end(self) -> None:
        with suppress(BrokenPipeError):
            self._requests.close()
        self._process.wait()


def _log(logs: Path, job: Job) -> Path:
    """The file of a job's output, another one for each name, in which "/" is written %2F."""
    return logs / f"{job.name.replace('%', '%25').replace('/', '%2F')}.log"


def _news(job: Job, seconds: float, log: Path) -> str:
    """What a running job told last, and for how long it has run."""
    line = _last_line(log)
    return f"{job.name}, {seconds:.0f} s" + (f": {line[:_LONGEST_NEWS]}" if line else "")


def _last_line(log: Path) -> str:
    """The last line of a log; empty where there is none, or somebody removed the log."""
    if not log.is_file():
        return ""
    with disk_errors(log), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        text = file.read().decode("utf-8", errors="replace")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _paths_named(word: str) -> set[str]:
    """The absolute paths and patterns that a word may name: itself or what follows a "=" in it, without a slice too."""
    parts = {word, *(word[place + 1 :] for place, sign in enumerate(word) if sign == "=")}
    parts |= {split_slice(part)[0] for part in parts}
    return {_absolute(part) for part in parts if part}


def _absolute(path: str) -> str:
    """The path without `..`. Links are kept: a step's folder lies in the experiment's wherever a link leads."""
    return os.path.abspath(path)  # noqa: PTH100


def _overlap(named: str, path: str) -> bool:
    """Whether a path is another one, lies above or below it, or is a pattern that fits one of these; both absolute."""
    pairs = zip(Path(named).parts, Path(path).parts, strict=False)
    return all(part == other or fnmatch.fnmatchcase(other, part) for part, other in pairs)
