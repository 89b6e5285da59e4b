"""The loop: weights move, accumulation equals a large batch, processes agree, a killed run resumes bit-identically."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from forked_group import launcher
from safetensors.torch import load_file
from toy_training import ToyTask

from fae_core.errors import FAEError, InvalidFile, OutputExists
from fae_core.processes import Processes
from fae_core.training import TrainConfig, train
from fae_core.training.checkpoint import Checkpoints
from fae_core.training.journal import read_metrics
from fae_core.training.schedule import learning_rate_factor

PROGRAM = Path(__file__).with_name("toy_training.py")
SMALL = {"steps": 12, "batch_size": 8, "learning_rate": 1e-2, "ema_decay": 0.9, "checkpoint_every": 3, "log_every": 1}


def run_program(run: Path, *arguments: str, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher(processes), str(PROGRAM), str(run), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 or not check, result.stderr[-4000:]
    return result


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function to the run of these arguments, from its first step to its last; each is made once."""

    @cache
    def finish(*arguments: str, processes: int = 1) -> Path:
        run = tmp_path_factory.mktemp("uninterrupted") / "run"
        run_program(run, *arguments, processes=processes)
        return run

    return finish


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout
    return [int(line) for line in listed.split()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_identical(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def assert_close(first: Path, second: Path) -> None:
    losses = [[row["loss"] for row in read_metrics(run)] for run in (first, second)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    a, b = weights(first), weights(second)
    # A key's bias shifts every score of a query alike, so its gradient is rounding noise that AdamW amplifies.
    for key in a.keys() - {k for k in a if k.endswith("qkv.bias")}:
        torch.testing.assert_close(a[key], b[key], atol=2e-4, rtol=0)


def test_training_lowers_the_loss_and_writes_a_run_folder(tmp_path: Path) -> None:
    config = TrainConfig(**{**SMALL, "steps": 60})
    train(ToyTask(), config, tmp_path / "run", settings={"model": {"dim": 8}}, device="cpu")
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert (tmp_path / "run" / "config.yaml").is_file()
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000057", "step-00000060"]


def test_exported_weights_are_the_average(tmp_path: Path) -> None:
    task = ToyTask()
    before = {k: v.clone() for k, v in task.modules["model"].state_dict().items()}
    train(task, TrainConfig(**{**SMALL, "steps": 1, "ema_decay": 0.75}), tmp_path / "run", device="cpu")
    live, exported = task.modules["model"].state_dict(), weights(tmp_path / "run")
    for key in before:
        torch.testing.assert_close(exported[key], 0.75 * before[key] + 0.25 * live[key])


@pytest.mark.slow
def test_accumulation_equals_the_large_batch(uninterrupted: Callable[..., Path]) -> None:
    assert_close(uninterrupted(), uninterrupted("--accumulation", "4"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "processes"), [((), 2), (("--parallel", "fsdp"), 2), ((), 4)], ids=["ddp", "fsdp", "ddp-4"]
)
def test_many_processes_equal_one(
    uninterrupted: Callable[..., Path], arguments: tuple[str, ...], processes: int
) -> None:
    assert_close(uninterrupted(), uninterrupted(*arguments, processes=processes))


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_the_run_can_go_on(
    uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    died = tmp_path / "died"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    group = subprocess.Popen(
        [*torchrun, str(PROGRAM), str(died), "--delay", "0.1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (died / "checkpoints" / "step-00000003").is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    second = next(pid for pid in children(group.pid) if "\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_text())
    os.kill(second, signal.SIGKILL)
    assert group.wait(timeout=120) != 0
    assert not (died / "model").exists()
    run_program(died, "--resume", processes=2)
    assert_identical(uninterrupted(processes=2), died)


@pytest.mark.slow
def test_four_deterministic_processes_resume_to_the_bit(tmp_path: Path) -> None:
    # Of two processes' gradients there is one sum; of four's it depends on the order.
    for name in ("straight", "resumed"):
        run_program(tmp_path / name, "--deterministic", processes=4)
    assert_identical(tmp_path / "straight", tmp_path / "resumed")
    for newer in sorted((tmp_path / "resumed" / "checkpoints").iterdir())[1:]:
        subprocess.run(["rm", "-r", str(newer)], check=True)
    run_program(tmp_path / "resumed", "--resume", "--deterministic", processes=4)
    assert_identical(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.slow
def test_sharded_checkpoint_continues_at_another_process_count(
    uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    run_program(tmp_path / "moved", "--parallel", "fsdp", "--delay", "0", processes=2)
    for newer in sorted((tmp_path / "moved" / "checkpoints").iterdir())[1:]:
        subprocess.run(["rm", "-r", str(newer)], check=True)
    run_program(tmp_path / "moved", "--resume")
    assert_close(uninterrupted(), tmp_path / "moved")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--adversarial",)], ids=["one-phase", "two-phases"])
def test_a_killed_run_resumes_bit_identically(
    uninterrupted: Callable[..., Path], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    killed = tmp_path / "killed"
    for checkpoints in (1, 3):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(killed), "--resume", "--delay", "0.05", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        wanted = killed / "checkpoints" / f"step-{3 * checkpoints:08d}"
        while not wanted.is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "model").exists()
    run_program(killed, "--resume", *arguments)
    assert_identical(uninterrupted(*arguments), killed)
    assert [r["step"] for r in read_metrics(killed)] == list(range(1, 13))


@pytest.mark.slow
def test_sigterm_saves_and_can_be_resumed(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(stopped), "--delay", "0.1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (stopped / "metrics.jsonl").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "after saving a checkpoint" in errors
    run_program(stopped, "--resume")
    assert_identical(uninterrupted(), stopped)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    train(ToyTask(), TrainConfig(**SMALL), run, device="cpu")
    straight = weights(run)
    newest = run / "checkpoints" / "step-00000012"
    shard = next(newest.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(bytes(data))
    assert Checkpoints(run, Processes(0, 1, "cpu"), 2).latest().name == "step-00000009"
    assert "checksum" in caplog.text
    train(ToyTask(), TrainConfig(**SMALL), run, resume=True, device="cpu")
    assert all(torch.equal(straight[k], v) for k, v in weights(run).items())


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train(ToyTask(), TrainConfig(**SMALL), tmp_path / "run", device="cpu")
    with pytest.raises(InvalidFile, match=r"another model: .*critic"):
        train(ToyTask(adversarial=True), TrainConfig(**SMALL), tmp_path / "run", resume=True, device="cpu")


def test_output_in_use_and_changed_settings_are_refused(tmp_path: Path) -> None:
    train(ToyTask(), TrainConfig(**SMALL), tmp_path / "run", device="cpu")
    with pytest.raises(OutputExists, match="--resume"):
        train(ToyTask(), TrainConfig(**SMALL), tmp_path / "run", device="cpu")
    with pytest.raises(InvalidFile, match="learning_rate"):
        train(ToyTask(), TrainConfig(**{**SMALL, "learning_rate": 1}), tmp_path / "run", resume=True, device="cpu")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(FAEError, match="not a run folder"):
        train(ToyTask(), TrainConfig(**SMALL), tmp_path / "other", overwrite=True, device="cpu")


def test_non_finite_gradients_are_skipped_and_then_stop_the_run(tmp_path: Path) -> None:
    train(ToyTask(poison=(4,)), TrainConfig(**SMALL), tmp_path / "few", device="cpu")
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "few").values())
    with pytest.raises(FAEError, match=r"3 updates in a row .*bad-batch"):
        config = TrainConfig(**{**SMALL, "max_skipped": 2})
        train(ToyTask(poison=(4, 5, 6, 7)), config, tmp_path / "many", device="cpu")
    assert len(list((tmp_path / "many").glob("bad-batch-*.safetensors"))) == 1


def test_loader_threads_change_nothing(tmp_path: Path) -> None:
    for threads in (0, 1, 3):
        config = TrainConfig(**{**SMALL, "steps": 4, "loader_threads": threads})
        train(ToyTask(), config, tmp_path / str(threads), device="cpu")
    assert_identical(tmp_path / "0", tmp_path / "1")
    assert_identical(tmp_path / "0", tmp_path / "3")


class PuttingTask(ToyTask):
    """Uses an operation that has no deterministic algorithm for what it is asked."""

    def _loss(self, batch, random):
        self.flags.append(torch.are_deterministic_algorithms_enabled())
        if self.refused:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
        return super()._loss(batch, random)


def test_deterministic_runs_are_equal_refuse_other_operations_and_leave_torch_as_it_was(tmp_path: Path) -> None:
    config = TrainConfig(**SMALL, deterministic=True)
    for run in ("first", "second"):
        task = PuttingTask()
        task.flags, task.refused = [], False
        train(task, config, tmp_path / run, device="cpu")
        assert all(task.flags) and not torch.are_deterministic_algorithms_enabled()
    assert_identical(tmp_path / "first", tmp_path / "second")
    task.refused = True
    with pytest.raises(RuntimeError, match="deterministic"):
        train(task, config, tmp_path / "refused", device="cpu")
    assert not torch.are_deterministic_algorithms_enabled()


def test_batch_size_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    result = run_program(tmp_path / "run", processes=3, check=False)
    assert result.returncode != 0 and "make it a multiple of 3" in result.stderr


def test_learning_rate_schedule_by_hand() -> None:
    config = TrainConfig(steps=14, warmup_steps=2, hold_steps=2, schedule="cosine", final_learning_rate_ratio=0.1)
    factors = [learning_rate_factor(config, step) for step in (0, 1, 2, 4, 9, 14)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.55, 0.1])


def test_warmup_may_be_a_fraction_of_the_steps() -> None:
    config = TrainConfig(steps=200, warmup_steps=0.02, hold_steps=0.3)
    assert (config.warmup, config.hold) == (4, 60)


def test_config_refuses_impossible_combinations() -> None:
    with pytest.raises(ValueError, match="exceed steps"):
        TrainConfig(steps=5, warmup_steps=6)
    with pytest.raises(ValueError, match="multiple of accumulation"):
        TrainConfig(batch_size=6, accumulation=4)


def test_metrics_survive_a_line_cut_off_by_a_crash(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
