"""Numbers in an update: all phases move or none, averages keep what bf16 loses, gradients are exchanged once."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest
import torch
from forked_group import launcher
from torch import nn
from toy_training import ToyTask

from fae_core.config import Config
from fae_core.errors import FAEError
from fae_core.models.pretrained import PretrainedModel
from fae_core.processes import ALONE
from fae_core.random import SlotRandom
from fae_core.training import Phase, TrainConfig, train
from fae_core.training.ema import WeightAverage, decay_at, share_of_start
from fae_core.training.engine import Engine
from fae_core.training.task import Task


class TwoPlayers(Task):
    """Two linear layers, one of which counts its batches in a buffer; the loss of those named in `ill` is NaN."""

    ema_modules = ("first",)

    def __init__(self, ill: tuple[str, ...]) -> None:
        torch.manual_seed(0)
        self.modules = {"first": nn.Linear(2, 2), "second": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))}
        self.ill = ill
        self.phases = [Phase(name, (name,), lambda b, r, name=name: self._loss(name, b)) for name in self.modules]

    def __len__(self) -> int:
        return 8

    def load(self, indices, random):
        return {"x": torch.randn(len(indices), 2, generator=torch.Generator().manual_seed(random.step))}

    def export(self, folder: Path, modules) -> None:
        pass

    def _loss(self, name: str, batch):
        factor = float("nan") if name in self.ill else 1.0
        return {"loss": (self.modules[name](batch["x"]) * factor).square().mean()}


def _micro_batches(task: Task, step: int, parts: int = 1) -> list:
    randoms = [SlotRandom(0, range(4 * part, 4 * part + 4), step) for part in range(parts)]
    return [(task.load(list(random.slots), random), random) for random in randoms]


@pytest.mark.parametrize("ill", [("first",), ("second",), ("first", "second")], ids=" and ".join)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_with_one_bad_gradient_changes_nothing_anywhere(ill: tuple[str, ...], accumulation: int) -> None:
    """Weights, buffers, averages and moments alike: what is reported as skipped has not happened."""
    task = TwoPlayers(())
    config = TrainConfig(steps=9, batch_size=4 * accumulation, accumulation=accumulation, learning_rate=0.1)
    engine = Engine(task, config, ALONE)
    assert engine.update(0, _micro_batches(task, 0, accumulation)) is not None
    before = {name: tensor.clone() for name, tensor in engine.checkpoint_tensors().items()}
    task.ill = ill
    assert engine.update(1, _micro_batches(task, 1, accumulation)) is None
    after = engine.checkpoint_tensors()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    task.ill = ()
    terms = engine.update(2, _micro_batches(task, 2, accumulation))
    assert {"first/loss", "second/loss", "first/gradient_norm", "second/gradient_norm"} == terms.keys()
    moved = engine.checkpoint_tensors()
    assert not torch.equal(before["weights/first/weight"], moved["weights/first/weight"])
    assert not torch.equal(before["weights/second/0.weight"], moved["weights/second/0.weight"])


def test_a_phase_that_has_not_started_cannot_spoil_the_step() -> None:
    task = TwoPlayers(("second",))
    task.phases[1] = Phase("second", ("second",), task.phases[1].loss, start_step=1)
    engine = Engine(task, TrainConfig(steps=9, batch_size=4), ALONE)
    assert engine.update(0, _micro_batches(task, 0)) is not None
    assert engine.update(1, _micro_batches(task, 1)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_an_average_moves_however_coarse_the_weights_are(dtype: torch.dtype) -> None:
    net = nn.Linear(1, 1, bias=False).to(dtype)
    net.weight.data.fill_(1.0)
    average = WeightAverage(net, 0.9999)
    net.weight.data.fill_(1.5)
    for step in range(10000):
        average.update(step)
    exact = 1.5 - 0.5 * 0.9999**10000
    assert average.shadow["weight"].item() == pytest.approx(exact, abs=1e-4)
    with average.applied():
        assert net.weight.dtype == dtype
        assert net.weight.item() == torch.tensor(exact).to(dtype).item() or dtype in (torch.float32, torch.float64)
    assert net.weight.item() == 1.5
    assert average.shadow["weight"].item() == pytest.approx(exact, abs=1e-4)  # not rounded on the way


def test_an_average_is_put_back_after_an_error() -> None:
    net = nn.Linear(2, 2).bfloat16()
    average, before = WeightAverage(net, 0.5), net.weight.detach().clone()
    net.weight.data.add_(1)
    live = net.weight.detach().clone()
    with pytest.raises(ValueError, match="inside"), average.applied():
        assert torch.equal(net.weight, before)
        raise ValueError("inside")
    assert torch.equal(net.weight, live)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_not_trained(tmp_path: Path, dtype: torch.dtype) -> None:
    task = ToyTask()
    task.modules["model"].out.to(dtype)
    with pytest.raises(FAEError, match=r"weights in (bfloat16|float16) \(out.weight\).*precision=bf16"):
        train(task, TrainConfig(steps=1, batch_size=4), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    task.modules["model"].requires_grad_(False).blocks.float().requires_grad_(True)  # frozen weights may be of any kind
    Engine(task, TrainConfig(steps=1, batch_size=4), ALONE)


def test_what_is_wholly_frozen_is_not_trained(tmp_path: Path) -> None:
    task = ToyTask(adversarial=True)
    task.modules["critic"].requires_grad_(False)
    with pytest.raises(FAEError, match="nothing to train in critic: every weight is frozen"):
        train(task, TrainConfig(steps=1, batch_size=4), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


class Scale(PretrainedModel[Config]):
    model_type, config_class, needs_spec = "scale", Config, False

    def __init__(self, config: Config, spec: None = None) -> None:
        super().__init__(config, spec)
        self.layer = nn.Linear(2, 2)


def test_a_model_that_could_not_be_saved_is_not_trained(tmp_path: Path) -> None:
    task = TwoPlayers(())
    task.modules["first"] = model = Scale(Config())
    model.layer = nn.Sequential(nn.Linear(2, 2))  # as adapters wrap one
    with pytest.raises(FAEError, match=r"other weights than a model of its config, such as layer\.0\.bias"):
        train(task, TrainConfig(steps=1, batch_size=4), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_divided_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of accumulation"):
        train(ToyTask(), TrainConfig(steps=1, batch_size=6, accumulation=4), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("decay", "warmup", "steps", "warned"),
    [
        (0.9999, False, 12, True),
        (0.9999, False, 6900, True),
        (0.9999, False, 7000, False),
        (0.9999, True, 12, False),
        (0.9, False, 12, False),
        (0.0, False, 1, False),
    ],
)
def test_an_average_that_stays_at_its_start_is_told(decay, warmup, steps, warned, caplog) -> None:
    from fae_core.training.engine import warn_of_a_young_average

    config = TrainConfig(steps=steps, ema_decay=decay, ema_warmup=warmup)
    with caplog.at_level(logging.WARNING):
        warn_of_a_young_average(ToyTask(), config)
    assert bool(caplog.records) == warned
    if warned:
        assert "ema_decay" in caplog.text and f"after {steps} steps" in caplog.text


def test_the_share_of_the_start_by_hand() -> None:
    assert share_of_start(0.9, False, 3) == pytest.approx(0.9**3)
    assert share_of_start(0.9, True, 3) == pytest.approx(1 / 10 * 2 / 11 * 3 / 12)
    assert share_of_start(0.9999, True, 10**6) < 1e-19
    assert decay_at(0.9999, True, 10**6) == 0.9999


COUNTER = """
import sys, torch
from torch.profiler import ProfilerActivity, profile
sys.path.insert(0, {tests!r})
from toy_training import ToyTask
from fae_core.random import SlotRandom
from fae_core.training import TrainConfig
from fae_core.processes import processes
from fae_core.training.engine import Engine

torch.set_num_threads(1)
with processes("cpu") as group:
    for parallel in ("ddp", "fsdp"):
        task = ToyTask()
        engine = Engine(task, TrainConfig(steps=4, batch_size=8, accumulation=4, parallel=parallel), group)
        batches = []
        for part in range(4):
            random = SlotRandom(0, [2 * part + group.rank])
            batches.append((task.load(list(random.slots), random), random))
        engine.update(0, batches)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            engine.update(1, batches)
        names = [event.name for event in seen.events()]
        if group.is_main:
            print(parallel, names.count("c10d::_reduce_scatter_base_"), names.count("c10d::allreduce_"), flush=True)
"""


@pytest.mark.slow
def test_gradients_travel_once_a_step_whatever_the_accumulation(tmp_path: Path) -> None:
    """Two blocks and the rest: three reductions under FSDP2 for four micro-batches, as many as for one."""
    (tmp_path / "counter.py").write_text(COUNTER.format(tests=str(Path(__file__).parent)))
    result = subprocess.run(
        [*launcher(2), str(tmp_path / "counter.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    counts = {line.split()[0]: [int(n) for n in line.split()[1:]] for line in result.stdout.splitlines()}
    assert counts["fsdp"][0] == 3
    assert counts["ddp"] == [0, 1]
