"""A model that is loaded is not drawn first: its weights are the file's, and no random number is used for them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fae_core.config import Config
from fae_core.models.build import single_precision
from fae_core.models.no_init import no_initial_weights
from fae_core.models.pretrained import PretrainedModel


class Small(PretrainedModel[Config]):
    model_type, config_class, needs_spec = "small", Config, False
    signs: Tensor

    def __init__(self, config: Config, spec: None = None) -> None:
        super().__init__(config, spec)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Embedding(4, 8), nn.MultiheadAttention(8, 2)
        )
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(4, 8)))
        nn.init.orthogonal_(self.layers[1].weight)
        # Not in the file: it is the same whenever the model is made.
        drawn = torch.empty(64).uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
        self.register_buffer("signs", drawn.sign(), persistent=False)


def test_a_loaded_model_has_the_files_weights_and_its_own_buffers(tmp_path: Path) -> None:
    saved = Small(Config())
    saved.save_pretrained(tmp_path / "model")
    loaded = Small.from_pretrained(tmp_path / "model")
    assert loaded.state_dict().keys() == saved.state_dict().keys() and len(saved.state_dict()) == 10
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(loaded.signs, saved.signs) and set(loaded.signs.tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("found", [0.0, 7.0, float("nan")])
@pytest.mark.parametrize(
    "fill",
    [
        nn.init.xavier_uniform_,
        nn.init.kaiming_normal_,
        nn.init.trunc_normal_,
        nn.init.orthogonal_,
        lambda tensor: nn.init.uniform_(tensor=tensor),
        lambda tensor: tensor.normal_(0, 0.02),
    ],
)
def test_the_next_random_numbers_are_the_same_whatever_memory_held(
    fill: Callable[[Tensor], Tensor], found: float
) -> None:
    parameter = nn.Parameter(torch.full((8, 8), found))
    before = torch.get_rng_state()
    with torch.no_grad(), no_initial_weights():
        fill(parameter)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fill", [nn.init.xavier_uniform_, nn.init.kaiming_normal_, lambda tensor: tensor.uniform_()])
def test_parameters_are_left_alone_and_buffers_are_not(fill: Callable[[Tensor], Tensor]) -> None:
    parameter, buffer = nn.Parameter(torch.full((8, 8), 7.0)), torch.full((8, 8), 7.0)
    with torch.no_grad(), no_initial_weights():
        fill(parameter)
        fill(buffer)
    assert bool((parameter == 7).all()) and not bool((buffer == 7).any())


def test_what_other_threads_draw_meanwhile_is_not_drawn_again() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = torch.randn(4), torch.randn(4)
        torch.manual_seed(0)
        with no_initial_weights(), ThreadPoolExecutor(1) as other:
            torch.empty(9).uniform_()
            first = other.submit(torch.randn, 4).result()
        assert torch.equal(first, expected[0]) and torch.equal(torch.randn(4), expected[1])


def test_the_last_thread_that_loads_in_single_precision_sets_the_default_dtype_back() -> None:
    def elsewhere() -> None:
        with single_precision:
            assert torch.empty(0).dtype == torch.float32

    torch.set_default_dtype(torch.float64)
    try:
        with single_precision, ThreadPoolExecutor(1) as other:
            other.submit(elsewhere).result()
            assert torch.empty(0).dtype == torch.float32
        assert torch.empty(0).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
