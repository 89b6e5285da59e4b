"""Timing steps: what is run, on how many blocks, and what follows from the seconds, which are not checked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fae_core.config import Config
from fae_core.cost.measured import Throughput, longest_run, measure_throughput, shorten
from fae_core.cost.table import Assumptions, measured_lines, training_lines
from fae_core.errors import FAEError
from fae_core.models.pretrained import PretrainedModel

WIDTH, TOKENS, DEPTH = 16, 5, 4
PRODUCT = 2 * TOKENS * WIDTH * WIDTH  # FLOPs of a layer's product


class Config(Config):
    pass


class Stack(PretrainedModel):
    """A projection, four equal blocks and another projection, the first of them frozen."""

    seen: list[Tensor]

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.entry = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(DEPTH))
        self.register_buffer("mask", torch.ones(TOKENS, dtype=torch.bool))
        self.seen = []

    def dry_run(self, batch: int) -> Tensor:
        x = self.dry_input(batch, TOKENS, WIDTH)
        self.seen.append(x)
        x = self.entry(x)
        for block in self.blocks:
            x = block(x)
        return x.masked_fill(~self.mask[:, None], torch.nan)


class Built:
    """`build`, remembering what it built."""

    def __init__(self, kind: type[PretrainedModel] = Stack) -> None:
        self.kind, self.models = kind, []

    def __call__(self, **_: object) -> PretrainedModel:
        self.models.append(self.kind(Config()))
        return self.models[-1]

    @property
    def timed(self) -> PretrainedModel:
        (model,) = (m for m in self.models if not next(m.parameters()).is_meta)
        return model


def test_every_step_is_a_real_one_on_random_weights_and_inputs() -> None:
    build = Built()
    found = measure_throughput(build, batch=3, repeats=2, warmup=1)
    model = build.timed
    assert [len(x) for x in model.seen] == [3, 3, 3]
    assert all(x.std() > 0.5 and torch.equal(x, model.seen[0]) for x in model.seen)
    assert all(p.std() > 0.01 and p.isfinite().all() for p in model.parameters() if p.ndim == 2)
    assert model.training and len(found.seconds) == len(found.core_seconds) == 2
    # Forward of the frozen entry and four blocks; backward of the blocks: weight gradients, and all but one input's.
    assert found.whole == found.work == (1 + DEPTH) * PRODUCT + (2 * DEPTH - 1) * PRODUCT
    assert found.blocks == (DEPTH, DEPTH) and found.precision == "fp32" and found.samples_per_second > 0


def test_fewer_blocks_are_timed_and_scaled_by_their_flops() -> None:
    found = measure_throughput(Built(), blocks=1)
    assert found.blocks == (1, DEPTH)
    assert found.work == 2 * PRODUCT + PRODUCT and found.whole == (1 + DEPTH) * PRODUCT + (2 * DEPTH - 1) * PRODUCT
    assert found.samples_per_second == pytest.approx(found.flops_per_second / found.whole)
    assert measure_throughput(Built(), blocks=99).blocks == (DEPTH, DEPTH)


def test_what_does_not_fit_loses_blocks_and_then_is_one_line() -> None:
    entry, block = WIDTH * WIDTH + WIDTH, WIDTH * WIDTH + WIDTH
    activation = 4 * TOKENS * WIDTH
    # Weights and, of what learns, gradients; the entry's output and each block's are kept for the backward pass.
    two_blocks = 4 * (entry + 2 * 2 * block) + 3 * activation
    assert measure_throughput(Built(), memory=two_blocks + 1).blocks == (2, DEPTH)
    with pytest.raises(FAEError, match=r"even with a single block.*lower --measure-batch") as caught:
        measure_throughput(Built(), memory=two_blocks / 2)
    assert "\n" not in str(caught.value)


def test_a_device_that_runs_out_of_memory_is_one_line() -> None:
    class Greedy(Stack):
        def dry_run(self, batch: int) -> Tensor:
            if not self.mask.is_meta:
                torch.empty(2**62, dtype=torch.uint8)
            return super().dry_run(batch)

    with pytest.raises(FAEError, match=r"out of memory at 7 samples a step.*--measure-batch") as caught:
        measure_throughput(Built(Greedy), batch=7)
    assert "\n" not in str(caught.value)


def test_other_errors_of_a_model_are_its_own() -> None:
    class Wrong(Stack):
        def dry_run(self, batch: int) -> Tensor:
            if not self.mask.is_meta:
                raise RuntimeError("shapes do not match")
            return super().dry_run(batch)

    with pytest.raises(RuntimeError, match="shapes do not match"):
        measure_throughput(Built(Wrong))


def test_a_model_that_numbers_its_blocks_is_measured_whole_or_not_at_all() -> None:
    class Numbered(Stack):
        def dry_run(self, batch: int) -> Tensor:
            return self.blocks[DEPTH - 1](super().dry_run(batch))

    assert measure_throughput(Built(Numbered)).blocks == (DEPTH, DEPTH)
    with pytest.raises(FAEError, match=r"does not run with fewer blocks.*measure all of it"):
        measure_throughput(Built(Numbered), blocks=2)


def test_the_longest_run_is_the_one_with_the_most_parameters_and_ends_where_shapes_change() -> None:
    small = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    large = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 9), *(nn.Linear(9, 9) for _ in range(3)), nn.Linear(9, 8)])
    model = nn.ModuleDict({"small": small, "large": large})
    run = longest_run(model)
    assert (run.path, run.start, run.count) == ("large", 2, 3)
    shorten(model, 1)
    assert [layer.weight.shape[0] for layer in large] == [8, 9, 9, 8] and len(small) == 9
    assert longest_run(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 3)])) is None


FOUND = Throughput("a processor", "fp32", 2, (3, 12), (4.0, 5.0, 7.0), (2.0, 2.5, 3.0), work=5e9, whole=1e10)


def test_the_report_by_hand() -> None:
    assert FOUND.flops_per_second == 2e9 and FOUND.samples_per_second == 0.2 and FOUND.samples_per_core_second == 0.4
    timed, rate, hours, _ = measured_lines(FOUND, samples=7200, devices=5, tflops=0.008)
    assert "a processor in fp32: 3 steps of batch 2, 4 to 7 s each; measured on 3 of 12 identical blocks" in timed
    assert rate == "measured: 0.2 samples/s (0.4 per core-second), 2.0 GFLOP/s, 25.0% of 0.008 TFLOP/s"
    assert "10.0 hours on one such device, 2.0 on 5" in hours


def test_the_table_takes_the_measured_speed_in_the_assumptions_place() -> None:
    about = Assumptions(2, 8, 3600, 80.0, 1e-9, 0.5, None)  # 1,000 FLOP/s, half of it assumed
    whole = (1 + DEPTH) * PRODUCT + (2 * DEPTH - 1) * PRODUCT
    assumed = training_lines(Built(), about)
    assert assumed[3].split()[-1] == f"{whole / 500:,.1f}" and "an assumption" in assumed[-1]
    measured = training_lines(Built(), about, FOUND)
    assert measured[3].split()[-1] == f"{whole / 2e9:,.1f}" and "as measured on this one" in measured[-1]
    assert "GPU-hours" in assumed[2] and "device-hours" in measured[2]
