"""SIGTERM, Ctrl-C and a closed terminal: a checkpoint is saved, every process ends, and the status says so.

One line says how to go on.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fae_core import LatentSpec
from fae_core.commands.children import _PARENT_ENDED, PARENT
from fae_core.latent_store import LatentStore, write_store
from fae_core.models.checkpoints import damage, numbered

pytestmark = pytest.mark.slow
SPEC = LatentSpec(channels=4, height=4, width=4, image_size=32, backbone="none")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ENDLESS = "--steps 100000 --batch-size 4 --device cpu --set training.log_every=1 --set training.checkpoint_every=100000"


STARTED: list[subprocess.Popen] = []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    latents = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    write_store(tmp_path / "store", SPEC, latents, labels=[0, 1] * 4)
    return tmp_path / "store"


def training(store: Path, out: Path) -> list[str]:
    return f"train diffusion --latents {store} --preset lightningdit-tiny {ENDLESS} --out {out}".split()


def heed_signals() -> None:
    """In a child: these end it, even where the tests run in the background or under nohup, and have them ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def ignore_hangups() -> None:
    """In a child: as under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def start(
    words: list[str], errors: int = subprocess.PIPE, begin: Callable[[], None] = heed_signals, **environment: str
) -> subprocess.Popen:
    command = [sys.executable, "-m", "fae_core.cli.main", *words]
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT | environment,
        stderr=errors,
        text=True,
        start_new_session=True,
        preexec_fn=begin,
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    """A test that fails leaves no training behind that never ends."""
    yield
    while STARTED:
        STARTED.pop().kill()


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.is_file():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def ended(process: subprocess.Popen) -> str:
    """What it told on its standard error; none of its children may be left, since they would keep the pipe open."""
    _, told = process.communicate(timeout=120)
    return told


def survivors(text: str) -> list[str]:
    """Processes whose command line holds a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def assert_stopped(run: Path, told: str) -> None:
    """The run has one whole checkpoint, of the step that was told, and nothing half-written."""
    (step, path), *others = numbered(run / "checkpoints").items()
    assert not others and damage(path) is None
    assert f"stopped at step {step} after saving a checkpoint; go on with: fae " in told
    assert [entry.name for entry in run.rglob(".*")] == []
    assert not run.with_name(f".{run.name}.lock").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_saves_a_checkpoint_and_leaves_no_process(
    number: int, status: int, processes: int, store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start([*training(store, run), "--processes", str(processes)])
    wait_for(run / "metrics.jsonl", process)
    process.send_signal(number)
    told = ended(process)
    assert process.returncode == status, told
    assert_stopped(run, told)
    assert survivors(str(run)) == []
    line = re.search("go on with: fae (.*)", told)[1]
    assert ("--processes 2" in line) == (processes == 2) and "--resume" in line


def test_a_terminal_that_closes_is_one_request_however_often_it_says_so(store: Path, tmp_path: Path) -> None:
    """The system and the shell both send SIGHUP, and what is written to the terminal after that fails."""
    run, (terminal, inside) = tmp_path / "run", pty.openpty()
    process = start(training(store, run), inside)
    os.close(inside)
    while not (run / "metrics.jsonl").is_file():
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 2**16)  # one that is full would let the process wait
    os.close(terminal)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    assert process.wait(120) == 143
    (path,) = numbered(run / "checkpoints").values()
    assert damage(path) is None and not run.with_name(".run.lock").exists()


def test_a_signal_that_is_ignored_stays_so(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start([*training(store, run), "--steps", "40"], begin=ignore_hangups)
    wait_for(run / "metrics.jsonl", process)
    process.send_signal(signal.SIGHUP)
    told = ended(process)
    assert process.returncode == 0 and (run / "model").is_dir(), told


def test_a_second_ctrl_c_stops_at_once(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start([*training(store, run), "--processes", "2"])
    wait_for(run / "metrics.jsonl", process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # so that they are two
    ended(process)
    assert process.returncode == 130 and survivors(str(run)) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children that their parent is gone")
def test_workers_end_when_the_command_that_started_them_is_killed(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start([*training(store, run), "--processes", "2"])
    wait_for(run / "metrics.jsonl", process)
    process.kill()
    told = ended(process)  # the pipe closes when the last of them has ended
    assert process.returncode == -signal.SIGKILL and survivors(str(run)) == []
    assert_stopped(run, told)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children that their parent is gone")
def test_the_end_of_each_thread_of_the_parent_is_no_second_signal(store: Path, tmp_path: Path) -> None:
    """On a loaded machine the kernel signals the end of several threads of a parent that is killed."""
    run = tmp_path / "run"
    process = start(training(store, run), **{PARENT: str(os.getpid())})
    wait_for(run / "metrics.jsonl", process)
    for _ in range(5):
        process.send_signal(_PARENT_ENDED)
        time.sleep(0.02)  # so that they are five
    told = ended(process)
    assert process.returncode == 143, told
    assert_stopped(run, told)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize(("jobs", "processes"), [(1, 1), (1, 2), (2, 1)])
def test_a_recipe_passes_the_signal_on_and_can_be_continued(
    number: int, status: int, jobs: int, processes: int, store: Path, tmp_path: Path
) -> None:
    commands = {name: [*training(store, Path("{out}") / name), "--processes", str(processes)] for name in "ab"}
    steps = "".join(
        f'  - {{name: {name}, run: "{shlex.join(command)}", resumable: true}}\n' for name, command in commands.items()
    )
    (tmp_path / "recipe.yaml").write_text(f"steps:\n{steps}")
    out = tmp_path / "out"
    process = start(["run", str(tmp_path / "recipe.yaml"), "--out", str(out), "--jobs", str(jobs)])
    for name in "ab"[:jobs]:
        wait_for(out / name / "metrics.jsonl", process)
    process.send_signal(number)
    told = ended(process)
    assert process.returncode == status, told
    assert f"go on with: fae run {tmp_path}/recipe.yaml --out {out} --jobs {jobs} --resume" in told
    for name in "ab"[:jobs]:
        (path,) = numbered(out / name / "checkpoints").values()
        assert damage(path) is None
    assert survivors(str(out)) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children that their parent is gone")
def test_processes_that_run_steps_or_wait_for_one_end_when_their_recipe_is_killed(store: Path, tmp_path: Path) -> None:
    command = shlex.join(training(store, Path("{out}/a")))
    (tmp_path / "recipe.yaml").write_text(
        f'steps:\n  - {{name: a, run: "{command}", resumable: true}}\n  - {{name: b, run: presets}}\n'
    )
    out = tmp_path / "out"
    process = start(["run", str(tmp_path / "recipe.yaml"), "--out", str(out), "--jobs", "2"])
    wait_for(out / "a" / "metrics.jsonl", process)
    while '"name": "b"' not in (out / "steps.json").read_text():
        time.sleep(0.02)
    assert len(survivors(f"{out}/logs")) == 2
    process.kill()
    ended(process)
    until = time.monotonic() + 60
    while survivors(str(out)) and time.monotonic() < until:
        time.sleep(0.05)
    assert survivors(str(out)) == []
    (path,) = numbered(out / "a" / "checkpoints").values()
    assert damage(path) is None


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_step_that_was_interrupted_is_not_taken_for_done(number: int, status: int, tmp_path: Path) -> None:
    """Encoding has no checkpoint, and ends at once."""
    images = torch.randint(0, 256, (1000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "images.npz", arr_0=images.numpy())
    encode = f"encode --data {tmp_path}/images.npz --model fae-tiny --batch-size 1 --shard-size 8"
    again = f"encode --data {tmp_path}/images.npz[:8] --model fae-tiny"
    (tmp_path / "recipe.yaml").write_text(
        f"steps:\n  - {{name: first, run: '{encode} --out {{out}}/first', resumable: true}}\n"
        f"  - {{name: second, run: '{again} --out {{out}}/second'}}\n"
    )
    out = tmp_path / "out"
    process = start(["run", str(tmp_path / "recipe.yaml"), "--out", str(out)])
    wait_for(out / "first" / "shard-000001.safetensors", process)
    process.send_signal(number)
    told = ended(process)
    assert process.returncode == status, told
    assert f"step first was interrupted; go on with: fae run {tmp_path}/recipe.yaml --out {out} --resume" in told
    assert not (out / "second").exists()
    resumed = start(["run", str(tmp_path / "recipe.yaml"), "--out", str(out), "--resume"])
    told = ended(resumed)
    assert resumed.returncode == 0, told
    assert [len(LatentStore(out / name)) for name in ("first", "second")] == [1000, 8]
