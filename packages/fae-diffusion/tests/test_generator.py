"""SiT and LightningDiT as generators: the conformance suite, and what only they have."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from fae_core.errors import FAEError, LatentSpecMismatch
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.testing import GeneratorConformance, toy_latents
from fae_diffusion import LightningDiT, LightningDiTConfig, MMDiT, MMDiTConfig, SiT, SiTConfig, Transport
from fae_diffusion.guidance import Guidance
from fae_diffusion.models.config import require_guides

SMALL = {"width": 32, "depth": 2, "heads": 2, "classes": 3}
SPEC = LatentSpec(4, 2, 4, (32, 64), "toy/backbone")


class TestSiT(GeneratorConformance):
    sample_options: ClassVar[dict[str, object]] = {"steps": 4}

    def make(self, spec: LatentSpec) -> SiT:
        return SiT(SiTConfig(**SMALL), spec)


class TestLightningDiT(GeneratorConformance):
    sample_options: ClassVar[dict[str, object]] = {"steps": 4, "guidance": 2.0}

    def make(self, spec: LatentSpec) -> LightningDiT:
        return LightningDiT(LightningDiTConfig(**SMALL), spec)


class TestLightningDiTWithSDE(GeneratorConformance):
    """The noise of every step belongs to its sample too."""

    sample_options: ClassVar[dict[str, object]] = {"steps": 4, "method": "sde"}

    def make(self, spec: LatentSpec) -> LightningDiT:
        return LightningDiT(LightningDiTConfig(**SMALL, transport=Transport(shift=2.0, time="logit_normal")), spec)


@pytest.fixture
def model() -> LightningDiT:
    torch.manual_seed(0)
    model = LightningDiT(LightningDiTConfig(**SMALL), SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    "options", [{}, {"prediction": "noise"}, {"prediction": "data"}, {"path": "gvp"}, {"path": "vp"}]
)
@pytest.mark.parametrize("method", ["euler", "dpm++2m", "sde"])
def test_a_perfect_network_samples_its_one_datum(options: dict[str, str], method: str) -> None:
    """With one datum z*, the best prediction of each kind has a closed form, and every sampler must reach z*."""
    transport = Transport(**options)
    datum = torch.randn(SPEC.shape, generator=torch.Generator().manual_seed(3))

    class Perfect(SiT):
        def forward(self, z: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            at = transport.coefficients(t, z)
            noise = (z - at.alpha * datum) / at.sigma.clamp_min(1e-6)
            return {"velocity": at.velocity(datum, noise), "noise": noise, "data": datum.expand_as(z)}[
                transport.prediction
            ]

    model = Perfect(SiTConfig(**SMALL, transport=transport), SPEC)
    z = model.sample([0, 1], random=SlotRandom(0, [0, 1]), method=method, steps=100, last_step="tweedie")
    # The paths that stop short of t = 0 keep sigma(0.001) of noise: 0.01 on vp.
    torch.testing.assert_close(z, datum.expand_as(z), atol=0.05, rtol=0)


def test_adaptive_sampling_does_not_depend_on_the_batch(model: LightningDiT) -> None:
    pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    options = {"method": "dopri5", "guidance": 3.0, "atol": 1e-3, "rtol": 1e-3}
    whole = model.sample([0, 2], random=SlotRandom(1, [0, 1]), **options)
    alone = model.sample([2], random=SlotRandom(1, [1]), **options)
    torch.testing.assert_close(whole[1:], alone, atol=1e-5, rtol=1e-5)


def test_no_condition_means_the_null_label(model: LightningDiT) -> None:
    random = SlotRandom(0, range(2))
    null = torch.full((2,), model.config.classes)
    assert torch.equal(model.sample(None, random=random, steps=3), model.sample(null, random=random, steps=3))


def test_guidance_one_equals_no_guidance_and_costs_no_null_label() -> None:
    model = LightningDiT(LightningDiTConfig(**SMALL, class_dropout=0.0), SPEC)
    random = SlotRandom(0, [0])
    assert torch.isfinite(model.sample([1], random=random, steps=2, guidance=1.0)).all()
    with pytest.raises(FAEError, match="no null label"):
        model.sample([1], random=random, steps=2, guidance=2.0)
    with pytest.raises(FAEError, match="no null label"):
        model.sample(None, random=random, steps=2)


@pytest.mark.parametrize("method", ["euler", "sde"])
@pytest.mark.parametrize("rows", [(1, 3, 3), (3, 1, 1), (3, 3, 1), (3, 3, 2), (3, 1, 3)])
def test_noise_conditions_and_slots_are_as_many(model: LightningDiT, rows: tuple[int, int, int], method: str) -> None:
    """One row of any of them would be taken for all samples: one noise for three, or one path of the SDE."""
    noises, labels, slots = rows
    noise = torch.randn(noises, *model.spec.shape)
    with pytest.raises(FAEError, match=r"(noise has|random has) \d (rows|slots) for a batch of \d"):
        model.sample([0] * labels, noise=noise, random=SlotRandom(0, range(slots)), method=method, steps=2)


def test_autoguidance_with_oneself_changes_nothing(model: LightningDiT) -> None:
    random = SlotRandom(0, [0])
    guided = model.sample([1], random=random, steps=3, guidance=4.0, weak=model)
    torch.testing.assert_close(guided, model.sample([1], random=random, steps=3), atol=1e-5, rtol=1e-5)


def test_the_weak_model_of_autoguidance_may_be_a_folder(model: LightningDiT, tmp_path: Path) -> None:
    torch.manual_seed(1)
    weak = SiT(SiTConfig(**{**SMALL, "depth": 1}), SPEC).eval()
    weak.save_pretrained(tmp_path / "weak")
    random = SlotRandom(0, [0])
    guided = model.sample([1], random=random, steps=3, guidance=2.0, weak=weak)
    for _ in range(2):
        again = model.sample([1], random=random, steps=3, guidance=2.0, weak=str(tmp_path / "weak"))
        assert torch.equal(again, guided)
    assert not torch.equal(guided, model.sample([1], random=random, steps=3))
    other = SiT(SiTConfig(**SMALL), SPEC).eval()
    torch.nn.init.normal_(other.final.linear.weight, std=0.1)  # zeros before training
    other.save_pretrained(tmp_path / "weak", overwrite=True)  # while it trains on
    again = model.sample([1], random=random, steps=3, guidance=2.0, weak=str(tmp_path / "weak"))
    assert torch.equal(again, model.sample([1], random=random, steps=3, guidance=2.0, weak=other))
    SiT(SiTConfig(**SMALL), LatentSpec(4, 2, 2, 32, "toy/backbone")).save_pretrained(tmp_path / "foreign")
    with pytest.raises(LatentSpecMismatch):
        model.sample([1], random=random, steps=3, guidance=2.0, weak=tmp_path / "foreign")


@pytest.mark.parametrize(
    ("other", "names", "said"),
    [
        ({"classes": 2}, None, "numbers of classes differ: 3 of this model, 2 of the other"),
        ({"classes": 1000}, None, "numbers of classes differ"),
        ({"transport": {"path": "gvp"}}, None, "paths differ: linear of this model, gvp"),
        ({}, ("b", "a", "c"), "class names or the order of these differ"),
        ({"transport": {"prediction": "data"}}, ("a", "b", "c"), None),  # its velocities are about the same
        ({}, None, None),
    ],
)
def test_a_weak_model_has_the_same_conditions_and_path(
    model: LightningDiT, other: dict, names: tuple | None, said: str | None, tmp_path: Path
) -> None:
    model.class_names = ("a", "b", "c")
    weak = SiT(SiTConfig(**{**SMALL, **other}), SPEC).eval()
    weak.class_names = names
    weak.save_pretrained(tmp_path / "weak")
    for given in (weak, tmp_path / "weak"):
        with nullcontext() if said is None else pytest.raises(FAEError, match=said):
            model.sample([1], random=SlotRandom(0, [0]), steps=2, guidance=2.0, weak=given)


def test_a_weak_model_reads_what_the_model_reads(model: LightningDiT) -> None:
    def text(fingerprint: str) -> MMDiT:
        fields = {"text_width": 8, "text_encoder": {"name": "encoder", "fingerprint": fingerprint}}
        return MMDiT(MMDiTConfig(**{k: v for k, v in SMALL.items() if k != "classes"}, **fields), SPEC)

    with pytest.raises(FAEError, match="numbers of classes differ"):
        require_guides(text("a"), model)
    with pytest.raises(FAEError, match="text encoders differ"):
        require_guides(text("a"), text("b"))
    require_guides(text("a"), text("a"))


def test_a_weak_model_needs_a_scale(model: LightningDiT) -> None:
    random = SlotRandom(0, [0])
    for options in ({}, {"guidance": {"interval": [0.0, 0.5]}}, {"sampling": "rae"}):
        with pytest.raises(FAEError, match="guides at a scale other than 1"):
            model.sample([1], random=random, steps=2, weak=model, **options)
    model.sample([1], random=random, steps=2, weak=model, guidance=1.0)  # said: a point of a search


@pytest.mark.slow
def test_compiled_blocks_sample_the_same(model: LightningDiT) -> None:
    random = SlotRandom(0, range(2))
    eager = model.sample([1, 2], random=random, steps=2, guidance=2.0)
    compiled = model.sample([1, 2], random=random, steps=2, guidance=2.0, compile=True)
    assert all(block._compiled_call_impl is not None for block in model.blocks)
    torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-5)


def test_bf16_rounds_the_network_and_not_the_state(model: LightningDiT) -> None:
    labels, noise = torch.tensor([0, 1, 2]), torch.randn(3, *SPEC.shape)
    whole, rounded = (
        model.sample(labels, noise=noise, steps=8, guidance=2.0, precision=precision) for precision in ("fp32", "bf16")
    )
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, rounded.to(torch.bfloat16).float())
    difference = (rounded - whole).norm() / whole.norm()
    assert 0 < difference < 0.02
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_one_label_alone_no_label_and_blocks_that_are_none_are_refused(model: LightningDiT) -> None:
    for alone in (1, torch.tensor(1), np.array(1)):
        with pytest.raises(FAEError, match="one per sample"):
            model.sample(alone, steps=2)
    for none in ([], torch.tensor([], dtype=torch.long)):
        with pytest.raises(FAEError, match="the batch is empty"):
            model.sample(none, steps=2)
    for block in (-1, model.config.block_count):
        with pytest.raises(FAEError, match=f"no block {block} to skip: this network has {model.config.block_count}"):
            model.velocity(torch.randn(1, *SPEC.shape), 0.5, torch.tensor([0]), skip=[block])


@pytest.mark.parametrize("shape", [(8, 4, 6), (8, 2, 12), (8, 5, 5), (6, 4, 6), (4, 6)])
def test_latents_of_another_grid_are_refused_even_of_as_many_tokens(shape: tuple[int, ...]) -> None:
    spec = LatentSpec(channels=8, height=6, width=4, image_size=(96, 64), backbone="x")
    model = LightningDiT.from_preset("lightningdit-tiny", spec=spec, classes=5).eval()
    times, labels = torch.full((2,), 0.5), torch.tensor([0, 1])
    assert model.velocity(torch.randn(2, 8, 6, 4), times, labels).shape == (2, 8, 6, 4)
    for door in (model, model.velocity):
        with pytest.raises(FAEError, match=r"expected latents of shape \(B, 8, 6, 4\)"):
            door(torch.randn(2, *shape), times, labels)


def test_an_explicit_grid_is_the_steps_that_it_says(model: LightningDiT) -> None:
    random = SlotRandom(0, [0])
    assert torch.equal(
        model.sample([1], random=random, times=[1.0, 0.75, 0.5, 0.25, 0.0]), model.sample([1], random=random, steps=4)
    )
    assert not torch.equal(
        model.sample([1], random=random, times=[1.0, 0.4, 0.0]), model.sample([1], random=random, steps=2)
    )


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ({"steps": 3}, 3),
        ({"steps": 3, "method": "heun"}, 6),
        ({"steps": 3, "guidance": 2.0}, 6),
        ({"steps": 4, "guidance": {"scale": 2.0, "interval": (0.3, 0.6)}}, 4 + 1),  # at t = 0.5
        ({"steps": 3, "guidance": {"scale": 2.0, "skip": {"blocks": [1], "scale": 1.0, "interval": (0.0, 1.0)}}}, 9),
        ({"times": [1.0, 0.5, 0.0]}, 2),
    ],
    ids=str,
)
def test_evaluations_are_counted(model: LightningDiT, options: dict[str, object], each: float) -> None:
    model.sample([1, 2], random=SlotRandom(0, range(2)), **options)
    assert model.evaluations == 2 * each
    model.sample([1], random=SlotRandom(0, [0]), **options)
    assert model.evaluations == 3 * each


@pytest.mark.parametrize(
    "options",
    [{}, {"swiglu": False}, {"rope": False}, {"rms_norm": False, "qk_norm": True}, {"wo_shift": True, "qk_norm": True}],
)
def test_answers_are_the_same_where_nothing_is_differentiated(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model = LightningDiT(LightningDiTConfig(**SMALL, **options), SPEC).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    z, labels = torch.randn(2, *SPEC.shape), torch.tensor([0, 2])
    want = model(z, 0.3, labels)
    with torch.inference_mode():
        torch.testing.assert_close(model(z, 0.3, labels), want.detach(), atol=1e-5, rtol=1e-5)


def test_options_of_a_call_replace_those_of_the_config(model: LightningDiT) -> None:
    random = SlotRandom(0, [0])
    default = model.sample([1], random=random)
    assert torch.equal(default, model.sample([1], random=random, steps=model.config.sampling.steps, method="euler"))
    assert not torch.equal(default, model.sample([1], random=random, guidance=Guidance(scale=3.0)))
    with pytest.raises(FAEError, match="stepz"):
        model.sample([1], random=random, stepz=3)


def test_exploding_samples_are_reported(model: LightningDiT) -> None:
    noise = torch.zeros(2, *SPEC.shape)
    noise[1, 0, 0, 0] = torch.nan
    with pytest.raises(FAEError, match="1 of 2 samples are not finite"):
        model.sample([0, 1], noise=noise, steps=2)
    noise[1, 0, 0, 0] = 1e30  # finite, and no latent
    with pytest.raises(FAEError, match=r"1 of 2 samples exploded \(sample 7 first"):
        model.sample([0, 1], noise=noise, random=SlotRandom(0, [3, 7]), steps=2)


def test_foreign_labels_are_refused(model: LightningDiT) -> None:
    with pytest.raises(FAEError, match=r"0\.\.2"):
        model.sample([0, 7], random=SlotRandom(0, [0, 1]))
    with pytest.raises(FAEError, match="2 integer class labels"):
        model.loss(torch.zeros(2, *SPEC.shape), torch.zeros(3, dtype=torch.long))


def test_class_dropout_happens_in_training_only(model: LightningDiT) -> None:
    z, labels = toy_latents(SPEC, 64)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    model.eval().loss(z, labels, random=SlotRandom(0, range(64)))
    model.train().loss(z, labels, random=SlotRandom(0, range(64)))
    assert torch.equal(seen[0], labels)
    dropped = (seen[1] == model.config.classes).sum()
    assert 0 < dropped < 20 and torch.equal(seen[1][seen[1] < 3], labels[seen[1] < 3])


def test_noise_level_quarters_average_to_the_loss(model: LightningDiT) -> None:
    z, labels = toy_latents(SPEC, 64)
    terms = model.loss(z, labels, random=SlotRandom(0, range(64)))
    quarters = torch.stack([terms[f"loss_q{i}"] for i in range(1, 5)])
    torch.testing.assert_close(quarters.mean(), terms["loss"])
    assert (quarters > 0).all()


def test_velocity_accepts_one_time_for_all(model: LightningDiT) -> None:
    z = torch.randn(2, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    assert torch.equal(model(z, 0.3, labels), model(z, torch.full((2,), 0.3), labels))


def test_samples_may_be_differentiated_afterwards(model: LightningDiT) -> None:
    z = model.sample([0], random=SlotRandom(0, [0]), steps=2)
    weight = torch.ones((), requires_grad=True)
    (weight * z).square().sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("method", ["euler", "heun", "dpm++2m", "sde", "sde-heun", "dopri5"])
def test_an_observer_sees_every_time_of_the_grid_and_last_the_sample(model: LightningDiT, method: str) -> None:
    if method == "dopri5":
        pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    seen = []
    options = {"steps": 4, "method": method, "random": SlotRandom(0, range(2))}
    z = model.sample(torch.tensor([0, 1]), observe=seen.append, **options)
    states = [step for step in seen if step.z is not None]
    assert [step.done for step in states] == [0, 0.25, 0.5, 0.75, 1]
    assert states[0].name == "t = 1" and states[-1].name == "t = 0"
    assert torch.equal(states[-1].z, z) and not torch.equal(states[-2].z, z)
    assert torch.equal(model.sample(torch.tensor([0, 1]), **options), z)
    # Between its states an adaptive method tells of its evaluations, so that it can be ended there.
    assert (len(seen) > len(states)) == (method == "dopri5")


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("saved", [torch.float64, torch.float32, torch.bfloat16])
def test_a_model_comes_back_as_it_was_saved_whatever_the_default_dtype(
    saved: torch.dtype, default: torch.dtype, tmp_path: Path
) -> None:
    model = SiT.from_preset("sit-tiny", seed=0).to(saved)
    model.save_pretrained(tmp_path / "model")
    torch.set_default_dtype(default)
    try:
        loaded = SiT.from_pretrained(tmp_path / "model")
    finally:
        torch.set_default_dtype(torch.float32)
    wide = torch.float64 if saved == torch.float64 else torch.float32
    assert {p.dtype for p in loaded.parameters()} == {wide}
    assert all(torch.equal(p, q.to(wide)) for p, q in zip(loaded.parameters(), model.parameters(), strict=True))
