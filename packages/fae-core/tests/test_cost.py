"""Costs by hand for a network small enough to count, and what follows from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_core.config import Config
from fae_core.cost.counted import Cost, estimate, measure_cost, with_measured_rate
from fae_core.errors import FAEError
from fae_core.models.pretrained import PretrainedModel

WIDTH, TOKENS, DEPTH = 16, 5, 3


class StackConfig(Config):
    gradient_checkpointing: bool = False


class Stack(PretrainedModel):
    """Three linear layers with a sigmoid behind each, on five tokens a sample."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid()) for _ in range(DEPTH))

    def dry_run(self, batch: int) -> Tensor:
        x = self.blocks[0][0].weight.new_zeros(batch, TOKENS, WIDTH)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.config.gradient_checkpointing else block(x)
        return x


def build(gradient_checkpointing: bool = False) -> Stack:
    return Stack(StackConfig(gradient_checkpointing=gradient_checkpointing))


def test_a_network_counted_by_hand() -> None:
    cost = measure_cost(build)
    product = 2 * TOKENS * WIDTH * WIDTH
    assert cost.parameters == cost.trainable == DEPTH * (WIDTH * WIDTH + WIDTH)
    assert cost.forward_flops == DEPTH * product
    # Each layer's weight gradient, and the input gradient of all but the first.
    assert cost.backward_flops == (2 * DEPTH - 1) * product
    tensor = 2 * TOKENS * WIDTH  # bytes of one activation in bf16
    assert cost.activations == (DEPTH + 1) * tensor  # the input, and what each sigmoid gives
    assert cost.checkpointed == DEPTH * tensor  # the input of each block


class Convolution(PretrainedModel):
    """On made-up input in the dtype of the weights, or in one that is given."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__(Config())
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3))
        self.given = dtype

    def dry_run(self, batch: int) -> Tensor:
        return self.network(self.network[0].weight.new_zeros(batch, 3, 8, 8, dtype=self.given))


def test_a_network_that_needs_fp32_costs_what_it_costs_in_bf16() -> None:
    assert measure_cost(lambda: Convolution(torch.float32)) == measure_cost(Convolution)


def test_a_pass_that_fails_is_one_line() -> None:
    class Reads(Stack):
        def dry_run(self, batch: int) -> Tensor:
            return super().dry_run(int(self.blocks[0][0].weight.sum()))

    with pytest.raises(FAEError, match=r"^dry_run of Reads fails on the meta device: Tensor\.item\(\)"):
        measure_cost(lambda **fields: Reads(StackConfig(**fields)))


COST = Cost(1_000_000, 1_000_000, forward_flops=1e9, backward_flops=2e9, activations=1e8, checkpointed=1e7)


def test_memory_and_time_follow_from_the_counts() -> None:
    found = estimate(COST, gpus=4, batch_size=32, samples=3600, flops_per_second=3e9, gpu_memory=1.022)
    assert found.state == pytest.approx(0.022) and found.batch_per_gpu == 8  # 22 bytes a parameter
    assert found.activations == pytest.approx(0.8) and found.total == pytest.approx(0.822)
    assert found.largest_batch == 10 and found.gpu_hours_per_epoch == pytest.approx(1.0)
    sharded = estimate(COST, gpus=4, batch_size=32, samples=3600, parallel="fsdp", gradient_checkpointing=True)
    assert sharded.state == pytest.approx(0.0055) and sharded.activations == pytest.approx(0.08)
    assert with_measured_rate(found, 3600, 4, samples_per_second=2.0).gpu_hours_per_epoch == pytest.approx(2.0)


def test_nothing_is_allocated() -> None:
    class Huge(Stack):
        def __init__(self, config: StackConfig) -> None:
            PretrainedModel.__init__(self, config)
            self.blocks = nn.ModuleList([nn.Linear(2**20, 2**20)])  # four terabytes

        def dry_run(self, batch: int) -> Tensor:
            return self.blocks[0](torch.zeros(batch, 2**20, dtype=torch.bfloat16))

    assert measure_cost(lambda **_: Huge(StackConfig())).parameters == 2**40 + 2**20
