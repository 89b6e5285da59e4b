"""A draw belongs to its slot: not to the batch, the order of calls, or the process that makes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from fae_core import SlotRandom
from fae_core.models.build import seeded
from fae_core.random import counter as counter_random
from fae_core.random import derive_seed

METHODS = {
    "normal": lambda random, stream: random.normal((3, 2), stream),
    "uniform": lambda random, stream: random.uniform((3, 2), stream),
    "integers": lambda random, stream: random.integers(1000, (3, 2), stream),
}
every_method = pytest.mark.parametrize("draw", METHODS.values(), ids=METHODS.keys())


@every_method
def test_a_row_depends_on_its_slot_alone(draw) -> None:
    whole = draw(SlotRandom(1, [4, 0, 7], step=3), "noise")
    for row, slot in enumerate([4, 0, 7]):
        assert torch.equal(whole[row], draw(SlotRandom(1, [slot], step=3), "noise")[0])
    assert torch.equal(draw(SlotRandom(1, [7, 4], step=3), "noise"), whole[[2, 0]])


@every_method
def test_seed_step_slot_and_stream_each_matter(draw) -> None:
    base = draw(SlotRandom(1, [4], step=3), "noise")
    others = [
        draw(SlotRandom(2, [4], step=3), "noise"),
        draw(SlotRandom(1, [5], step=3), "noise"),
        draw(SlotRandom(1, [4], step=4), "noise"),
        draw(SlotRandom(1, [4], step=3), "time"),
    ]
    assert not any(torch.equal(base, other) for other in others)


@every_method
def test_calls_do_not_disturb_each_other_or_the_global_generator(draw) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    random = SlotRandom(1, [0, 1])
    first = draw(random, "a")
    draw(random, "b")
    assert torch.equal(draw(random, "a"), first)
    assert torch.equal(torch.rand(1), expected)


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torch_s_defaults_do_not_matter(draw, dtype) -> None:
    expected = draw(SlotRandom(1, [4, 0]), "noise")
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            found = draw(SlotRandom(1, [4, 0]), "noise")
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@every_method
def test_select_draws_the_same_rows(draw) -> None:
    random = SlotRandom(9, range(10, 16), step=2)
    whole = draw(random, "x")
    assert torch.equal(draw(random.select(slice(1, 5, 2)), "x"), whole[1:5:2])
    assert torch.equal(draw(random.select([5, 0]), "x"), whole[[5, 0]])
    assert len(random.select(slice(0, 2))) == 2


@every_method
def test_no_slots_give_no_rows(draw) -> None:
    assert draw(SlotRandom(0, []), "x").shape == (0, 3, 2)


def test_slots_may_be_a_tensor() -> None:
    expected = SlotRandom(0, [3, 1]).normal((2,), "x")
    assert torch.equal(SlotRandom(0, torch.tensor([3, 1])).normal((2,), "x"), expected)


def test_the_distributions_are_what_they_claim() -> None:
    """20,000 slots of one number each: neighbouring seeds must not be correlated. Bounds are five standard errors."""
    random, count = SlotRandom(0, range(20_000)), 20_000
    normal = random.normal((), "n").double()
    assert abs(normal.mean()) < 5 / math.sqrt(count)
    assert abs(normal.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((normal[1:] * normal[:-1]).mean()) < 5 / math.sqrt(count)
    uniform = random.uniform((), "u").double()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 5 * math.sqrt(1 / 12 / count)
    counts = torch.bincount(random.integers(4, (), "i"), minlength=4)
    assert (counts - count / 4).abs().max() < 5 * math.sqrt(count * 3 / 16)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-(2**63), 2**63) | st.text(), max_size=5))
def test_seeds_fit_torch(parts: list) -> None:
    assert 0 <= derive_seed(*parts) < 2**63
    torch.Generator().manual_seed(derive_seed(*parts))


def test_seeds_are_the_same_on_every_machine() -> None:
    """Pinned: a change would make every recorded result irreproducible."""
    assert derive_seed(0, 1, 2, "noise") == 4979368678506446714
    assert derive_seed(1, 23) != derive_seed(12, 3), "parts are kept apart"


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator in plain integers."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        found.append(z ^ (z >> 31))
    return found


@settings(max_examples=50, deadline=None)
@given(key=st.integers(0, 2**63 - 1), slot=st.integers(0, 2**40))
def test_counter_bits_are_splitmix64_from_a_slot_s_own_state(key: int, slot: int) -> None:
    # The output function of a state is what one step gives from the state before it.
    before = (slot * 0xD1342543DE82EF95 + key - 0x9E3779B97F4A7C15) % 2**64
    (state,) = splitmix64(before, 1)
    found = counter_random.random_bits(key, torch.tensor([slot]), 5)[0].tolist()
    assert [bits % 2**64 for bits in found] == splitmix64(state, 5)


COUNTERS = {
    "normal": lambda key, slots, count: counter_random.normal(key, slots, count),
    "uniform": lambda key, slots, count: counter_random.uniform(key, slots, count),
    "integers": lambda key, slots, count: counter_random.integers(key, slots, count, 1000),
}


@pytest.mark.parametrize("draw", COUNTERS.values(), ids=COUNTERS.keys())
def test_a_counter_s_row_depends_on_its_slot_and_key_alone(draw) -> None:
    slots = torch.tensor([4, 0, 7])
    whole = draw(11, slots, 7)
    assert whole.shape == (3, 7)
    assert torch.equal(draw(11, slots[[2, 0]], 7), whole[[2, 0]])
    assert not torch.equal(draw(12, slots, 7), whole)
    assert len({tuple(row.tolist()) for row in whole}) == 3
    assert draw(11, slots[:0], 7).shape == (0, 7)


def test_counter_numbers_have_their_distributions() -> None:
    """Moments and neighbours' correlations of four million numbers, each within five standard errors."""
    slots = torch.arange(2000)
    x = counter_random.normal(1, slots, 2001).double()
    error = x.numel() ** -0.5
    assert abs(x.mean()) < 5 * error
    assert abs(x.square().mean() - 1) < 5 * error * math.sqrt(2)
    assert abs(x.pow(3).mean()) < 5 * error * math.sqrt(15)
    assert abs(x.pow(4).mean() - 3) < 5 * error * math.sqrt(96)
    for shifted in (x.roll(1, 0), x.roll(1, 1), x.roll(1000, 1)):
        assert abs((x * shifted).mean()) < 5 * error
    assert 4.5 < x.abs().max() < 6.7
    u = counter_random.uniform(2, slots, 2000).double()
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, bins=64, min=0, max=1)
    expected = u.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * math.sqrt(2 * 63)
    assert counter_random.integers(3, slots, 100, 7).unique().tolist() == list(range(7))


def test_only_what_is_wanted_on_a_gpu_is_drawn_there() -> None:
    plain, there = SlotRandom(1, [3, 9]), SlotRandom(1, [3, 9], on_device=True)
    for device in (None, "cpu"):
        assert torch.equal(there.normal((4,), "noise", device), plain.normal((4,), "noise", device))
    assert there.select([1]).on_device
    assert there.normal((2, 3), "noise", "meta").shape == (2, 2, 3)  # any device but the CPU
    assert there.uniform((), "time", "meta").shape == (2,)


def test_the_slots_that_are_kept_on_a_device_are_no_fake_ones() -> None:
    random = SlotRandom(1, [3, 9], on_device=True)
    with FakeTensorMode():
        random.normal((2,), "noise", "meta")
    assert type(random.normal((2,), "noise", "meta")) is torch.Tensor


def test_threads_that_draw_while_weights_are_drawn_by_a_seed_do_not_notice() -> None:
    drawn = []

    def build() -> torch.nn.Module:
        first = torch.nn.Linear(3, 3)
        with ThreadPoolExecutor(1) as other:
            drawn.append(other.submit(torch.randn, 4).result())
        return torch.nn.Sequential(first, torch.nn.Linear(3, 3))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = torch.randn(4), torch.randn(4)
        torch.manual_seed(0)
        model = seeded(5, build)
        assert torch.equal(drawn[0], expected[0]) and torch.equal(torch.randn(4), expected[1])
        torch.manual_seed(5)
        alone = build()
    assert not torch.equal(drawn[1], expected[0])  # without `seeded` all share one generator
    assert torch.equal(model[0].weight, alone[0].weight)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(5),
        lambda: torch.randn(37),
        lambda: torch.randint(9, (5,)),
        lambda: torch.randint(3, 9, (5,)),
        lambda: torch.randperm(7),
        lambda: torch.rand_like(torch.ones(5)),
        lambda: torch.randn_like(torch.ones(5)),
        lambda: torch.randint_like(torch.ones(5), 9),
        lambda: torch.normal(torch.zeros(5), 1.0),
        lambda: torch.normal(0.0, 1.0, (5,)),
        lambda: torch.bernoulli(torch.full((9,), 0.5)),
        lambda: torch.multinomial(torch.ones(9), 3),
        lambda: torch.empty(9).bernoulli_(0.5),
        lambda: torch.empty(9).exponential_(),
        lambda: torch.empty(9, dtype=torch.int64).random_(5),
        lambda: torch.nn.init.trunc_normal_(torch.empty(5, 5)),
        lambda: torch.nn.init.orthogonal_(torch.empty(5, 5)),
        lambda: torch.nn.init.kaiming_uniform_(torch.nn.Parameter(torch.empty(5, 5))).detach(),
        lambda: torch.nn.init.sparse_(torch.empty(9, 5), 0.5),
        lambda: torch.nn.LSTM(3, 4).weight_hh_l0.detach(),
    ],
)
def test_a_seed_gives_what_the_global_generator_gives_and_leaves_it(draw: Callable[[], torch.Tensor]) -> None:
    before = torch.get_rng_state()
    drawn = seeded(5, lambda: torch.stack([draw(), draw()]))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(torch.stack([draw(), draw()]), drawn)


def test_a_generator_that_is_given_is_used_and_models_on_meta_draw_nothing() -> None:
    given = [seeded(seed, lambda: torch.randn(4, generator=torch.Generator().manual_seed(3))) for seed in (0, 1)]
    assert torch.equal(*given)
    with torch.device("meta"):
        assert seeded(0, lambda: torch.nn.Linear(3, 3)).weight.is_meta


def test_the_seed_of_weights_leaves_the_generators_of_cpu_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded_gpus: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded_gpus.append)  # what torch.manual_seed calls
    before = torch.get_rng_state()
    first, again, other = (seeded(seed, lambda: torch.nn.Linear(3, 3)).weight for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before) and not seeded_gpus
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(torch.nn.Linear(3, 3).weight, first)
