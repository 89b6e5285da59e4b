"""Faults other than kills at random moments, for faults.py: signals, kills at each file operation, damage, two writers,
no space.

Every case is a number of trials; each is fine if it ended as docs/reliability.md says, and raises AssertionError if
not.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults import STAGES, complete, digest, folder_of, make_images, start

_ENDLESS = (
    "train flow --latents {d}/encode --preset starflow-tiny --steps 1000000 --batch-size 4 --device cpu "
    "--set training.checkpoint_every=1000000 --set training.log_every=1 --out {out}"
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def _endless(folder: Path, name: str) -> str:
    """The endless training as a step of a recipe, into a subfolder of its own."""
    return _ENDLESS.replace("{d}", str(folder)).replace("{out}", "{out}/" + name)


@dataclass
class Case:
    """One row: how many trials of a fault there were, and how many ended as they should."""

    fault: str
    trials: int = 0
    fine: int = 0
    note: str = ""

    def attempt(self, trial: Callable[[], None]) -> None:
        self.trials += 1
        try:
            trial()
            self.fine += 1
        except AssertionError as error:
            self.note = " ".join(str(error).split())[:200]


def run_cases(trials: int, folder: Path) -> list[Case]:
    """All cases, in a folder where every stage has run once uninterrupted."""
    chance = random.Random(0)
    cases = [Case(name) for name in _CASES]
    for case, (kind, most) in zip(cases, _CASES.values(), strict=True):
        for number in range(min(trials, most)):
            out = folder / f"case-{cases.index(case)}-{number}"
            case.attempt(lambda kind=kind, number=number, out=out: kind(number, out, folder, chance, trials))
        print(case, flush=True)
    return cases


def _stopped(number: int, expected: int, words: str, count: int) -> Callable:
    def trial(_: int, out: Path, folder: Path, *__: object) -> None:
        command = words.format(d=folder, out=out)
        process = _process(command.split())
        runs = [out] if count == 1 else [out / name for name in "ab"]
        _until(lambda: all((run / "metrics.jsonl").is_file() for run in runs), process)
        process.send_signal(number)
        try:
            told = process.communicate(timeout=120)[1]  # its children hold the pipe open as long as they live
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("it did not end") from None
        assert process.returncode == expected, f"status {process.returncode}: {told[-300:]}"
        assert "go on with: fae " in told, told[-300:]
        for run in runs:
            assert _whole(run) and not _hidden(run), f"{run} has no whole checkpoint, or leftovers"

    return trial


def _at_each_operation(stage: str) -> Callable:
    def trial(number: int, out: Path, folder: Path, _: random.Random, trials: int) -> None:
        """Killed at the n-th file operation, n spread over all of them; then resumed."""
        total = _operations(stage, folder)
        kill_at = 1 + (2 * number + 1) * total // (2 * min(trials, _MOST))
        status = _wait(_hooked(STAGES[stage], folder, out, kill_at))
        assert status in (-signal.SIGKILL, 0), f"status {status}"
        complete(STAGES[stage], folder, out)
        assert digest(out) == digest(folder / folder_of(stage)), f"another result after a kill at operation {kill_at}"
        assert not _hidden(out), f"leftovers of a kill at operation {kill_at}: {_hidden(out)}"

    return trial


def _damaged(number: int, out: Path, folder: Path, chance: random.Random, _: int) -> None:
    command = STAGES["train flow"] + " --set training.keep_checkpoints=4"
    complete(command, folder, out)
    shutil.rmtree(out / "model")
    newest = sorted((out / "checkpoints").glob("step-*"))[-1 - number % 3 :]
    for path in newest:
        victim = chance.choice(sorted(path.iterdir()))
        data = bytearray(victim.read_bytes())
        kind = chance.choice(("flip", "cut", "delete", "empty"))
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        victim.write_bytes({"flip": data, "cut": data[: len(data) // 2], "delete": b"", "empty": b""}[kind])
        if kind == "delete":
            victim.unlink()
    complete(command, folder, out)
    from fae_core.models.checkpoints import damage, numbered

    assert digest(out / "model") == digest(folder / "train-flow" / "model"), "another model"
    left = numbered(out / "checkpoints")
    assert max(left) == 8 and all(damage(path) is None for path in left.values()), "damaged checkpoints are left"


def _two_writers(number: int, out: Path, folder: Path, *_: object) -> None:
    stage = list(STAGES)[number % len(STAGES)]
    children = [start(STAGES[stage], folder, out) for _ in range(2)]
    statuses = sorted(_wait(child) for child in children)
    assert statuses in ([0, 2], [0, 0]), f"{stage}: {statuses}"  # the second may come after the first has ended
    assert digest(out) == digest(folder / folder_of(stage)), f"{stage}: another result"
    assert statuses == [0, 0] or "is in use by process" in _log(folder), _log(folder)[-300:]


def _full_disk(number: int, out: Path, folder: Path, *_: object) -> None:
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={100 + 150 * number}k", "tmpfs", str(out)]
    assert subprocess.run(mount, capture_output=True, check=False).returncode == 0, "cannot mount (needs root on Linux)"
    try:
        stage = "train flow" if number % 2 else "encode"
        status = _wait(start(STAGES[stage], folder, out / "out"))
        assert status in (0, 2) and "Traceback" not in _log(folder), f"{stage}: status {status}"
        assert status == 0 or "no space left on the disk" in _log(folder).splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=200m", str(out)], check=True)
        complete(STAGES[stage], folder, out / "out")
        assert digest(out / "out") == digest(folder / folder_of(stage)), f"{stage}: another result"
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


def _large_files(number: int, out: Path, folder: Path, *_: object) -> None:
    stage = list(STAGES)[number % len(STAGES)]
    limit = 2 ** (9 + 2 * (number // len(STAGES)))
    words = [word.format(d=folder, out=out) for word in STAGES[stage].split()]
    # What it tells goes to a pipe: a log file would be limited, too.
    process = _process(words, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    told = process.communicate()[1]
    assert process.returncode in (0, 2) and "Traceback" not in told, f"{stage}: {process.returncode}: {told[-300:]}"
    assert process.returncode == 0 or "larger than the system allows" in told.splitlines()[-1], told[-300:]
    complete(STAGES[stage], folder, out)
    assert digest(out) == digest(folder / folder_of(stage)), f"{stage}: another result"


def _foreign(number: int, out: Path, folder: Path, *_: object) -> None:
    stage = [*STAGES, "crops"][number % (len(STAGES) + 1)]
    command = STAGES.get(stage, "crops {d}/images --count 4 --size 8 --out {out}")
    make_images(out)
    before = digest(out)
    words = [word.format(d=folder, out=out) for word in command.split()]
    process = _process([*words, "--overwrite"])
    told = process.communicate()[1]
    assert process.returncode == 2 and digest(out) == before, f"{stage}: status {process.returncode}: {told[-300:]}"
    assert told.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in told, told[-300:]


def _operations(stage: str, folder: Path) -> int:
    """How many file operations a stage takes, uninterrupted."""
    note = folder / f"operations-{folder_of(stage)}"
    if not note.is_file():
        out = folder / f"counted-{folder_of(stage)}"
        assert _wait(_hooked(STAGES[stage], folder, out, None, note)) == 0
    return int(note.read_text())


def _hooked(command: str, folder: Path, out: Path, kill_at: int | None, note: Path | None = None) -> int:
    """A child that is killed at one of its file operations on `out` or beside it, or that writes down their number."""
    calls = [0]

    def audit(event: str, arguments: tuple) -> None:
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & _WRITING
        else:
            changes = event in _EVENTS
        if changes and out.name in str(arguments[0]):
            calls[0] += 1
            if calls[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if note is not None:
                descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                os.write(descriptor, str(calls[0]).encode())
                os.close(descriptor)

    return start(command, folder, out, lambda: sys.addaudithook(audit))


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def heed_interrupts() -> None:
    """In a child: SIGINT ends it, even where the shell started us in the background and has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _process(words: list[str], prepare: Callable[[], object] = heed_interrupts) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fae_core.cli.main", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    )


def _until(there: Callable[[], bool], process: subprocess.Popen) -> None:
    while not there():
        assert process.poll() is None, process.communicate()[1][-300:]
        time.sleep(0.02)


def _whole(run: Path) -> bool:
    from fae_core.models.checkpoints import damage, numbered

    found = numbered(run / "checkpoints")
    return bool(found) and all(damage(path) is None for path in found.values())


def _hidden(out: Path) -> list[str]:
    beside = [path for path in out.parent.glob(".*") if path.name.startswith(f".{out.name}.")]
    return [str(path) for path in (*out.rglob(".*"), *beside)]


def _log(folder: Path) -> str:
    """What the last stages said."""
    return (folder / "log.txt").read_text(errors="replace")[-5000:]


_MOST = 40  # trials of one case
_RECIPE = "run {d}/two.yaml --jobs 2 --out {out}"
_CASES: dict[str, tuple[Callable, int]] = {
    "SIGTERM to one training process": (_stopped(signal.SIGTERM, 143, _ENDLESS, 1), 2),
    "SIGINT to one training process": (_stopped(signal.SIGINT, 130, _ENDLESS, 1), 2),
    "SIGTERM to `--processes 2`": (_stopped(signal.SIGTERM, 143, f"{_ENDLESS} --processes 2", 1), 3),
    "SIGINT to `--processes 2`": (_stopped(signal.SIGINT, 130, f"{_ENDLESS} --processes 2", 1), 3),
    "SIGTERM to `fae run --jobs 2`": (_stopped(signal.SIGTERM, 143, _RECIPE, 2), 2),
    "SIGINT to `fae run --jobs 2`": (_stopped(signal.SIGINT, 130, _RECIPE, 2), 2),
    "kill at a file operation of `train flow`": (_at_each_operation("train flow"), _MOST),
    "kill at a file operation of `encode`": (_at_each_operation("encode"), _MOST),
    "kill at a file operation of `sample`": (_at_each_operation("sample"), _MOST),
    "damage to the one to three newest checkpoints": (_damaged, 12),
    "two writers of one folder": (_two_writers, 8),
    "a full disk (tmpfs)": (_full_disk, 4),
    "files beyond RLIMIT_FSIZE": (_large_files, 16),
    "`--overwrite` of a folder of photographs": (_foreign, 9),
}


def prepare(folder: Path) -> None:
    """What the cases need beside the stages' outcomes."""
    steps = "".join(f'  - {{name: {name}, run: "{_endless(folder, name)}", resumable: true}}\n' for name in "ab")
    (folder / "two.yaml").write_text(f"steps:\n{steps}")
