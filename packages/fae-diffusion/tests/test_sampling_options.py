"""Sampling options of the diffusion models: what is given is used, None included; what is wrong ends in one line."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.models.draw import check_options
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_diffusion import LightningDiT, LightningDiTConfig, MMDiT, MMDiTConfig, SiT, SiTConfig, Transport
from fae_diffusion.guidance import Guidance, SkippedBlocks
from fae_diffusion.integration import grid_of
from fae_diffusion.models.config import TransformerConfig

SPEC = LatentSpec(4, 2, 4, (32, 64), "toy/backbone")
SMALL = {"width": 32, "depth": 1, "heads": 2, "classes": 3}
TWO = SlotRandom(0, range(2))


def make(kind: Any = LightningDiT, **fields: Any) -> Any:
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**SMALL, **fields}), SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("kind", [SiT, LightningDiT])
@pytest.mark.parametrize(
    ("name", "configured", "options"),
    [("last_step", "mean", {"method": "sde"}), ("last_step", "euler", {"method": "sde-heun"}), ("shift", 3.0, {})],
)
def test_none_in_a_call_is_what_none_in_the_configuration_is(kind, name: str, configured: Any, options) -> None:
    other, same = make(kind, sampling={name: configured}), make(kind, sampling={name: None})
    wanted = same.sample([0, 1], random=TWO, steps=4, **options)
    assert torch.equal(other.sample([0, 1], random=TWO, steps=4, **{name: None}, **options), wanted)
    assert not torch.equal(other.sample([0, 1], random=TWO, steps=4, **options), wanted)


@pytest.mark.parametrize(
    "name", ["steps", "guidance", "method", "last_step_size", "diffusion", "atol", "precision", "compile"]
)
def test_none_is_refused_where_it_means_nothing(name: str) -> None:
    with pytest.raises(InvalidFile, match=f"sampling options: {name}"):
        make().sample([0], random=SlotRandom(0, [0]), **{name: None})


class Oracle(SiT):
    """Predicts what it should for one datum, so that every sampler must arrive there."""

    datum = torch.linspace(-1, 1, 32).view(1, 4, 2, 4)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        at = self.transport.coefficients(t.expand(len(z)), z)
        noise = (z - at.alpha * self.datum) / at.sigma.clamp_min(1e-12)
        return {"velocity": at.velocity(self.datum, noise), "noise": noise, "data": self.datum.expand_as(z)}[
            self.transport.prediction
        ]


@pytest.mark.parametrize("prediction", ["velocity", "noise", "data"])
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_every_path_and_prediction_samples_without_a_last_step(path: str, prediction: str) -> None:
    """A last step of size 0, of less than the margin, of the margin and above, for both SDE methods and every rule."""
    oracle = Oracle(SiTConfig(**SMALL, transport=Transport(path=path, prediction=prediction)), SPEC)
    for method, size, rule in itertools.product(
        ("sde", "sde-heun"), (0.0, 0.0005, 0.001, 0.04), ("mean", "tweedie", "euler", None)
    ):
        options = {"method": method, "last_step_size": size, "last_step": rule, "steps": 60}
        z = oracle.sample([0], random=SlotRandom(0, [0]), **options)
        if method == "sde":  # the other's second evaluation lies where the score is steepest
            assert (z - oracle.datum).abs().mean() < (0.6 if rule is None else 0.3), options


BAD = [
    {"steps": 0},
    {"steps": 10**9},
    {"steps": 1.5},
    {"steps": "many"},
    {"method": "eulr"},
    {"guidance": float("nan")},
    {"guidance": float("inf")},
    {"guidance": 1e12},
    {"guidance": {"scale": 2.0, "interval": [0.9, 0.1]}},
    {"guidance": {"chanels": 3}},
    {"last_step_size": 1.0},
    {"last_step_size": -0.1},
    {"last_step_size": float("nan")},
    {"last_step": "middle"},
    {"shift": 0.0},
    {"shift": -1.0},
    {"shift": 1e30},
    {"diffusion": "beta"},
    {"diffusion_norm": -1.0},
    {"atol": 0.0},
    {"rtol": 1e-30},
    {"precision": "fp8"},
    {"compile": "perhaps"},
    {"times": [1.0, float("nan")]},
    {"times": [0.0, 1.0]},
    {"times": [5.0, 0.0]},
    {"times": "all"},
    {"weak": 3},
    {"gidance": 2.0},
    {"noise": 1},
]


@pytest.mark.parametrize("kind", [SiT, LightningDiT, MMDiT])
@pytest.mark.parametrize("options", BAD, ids=str)
def test_an_option_that_cannot_be_is_refused_by_the_class_alone(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(FAEError) as raised:
        check_options(kind, options)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("options", [o for o in BAD if "weak" not in o and "noise" not in o], ids=str)
def test_a_call_refuses_it_too(options: dict[str, Any]) -> None:
    with pytest.raises(FAEError):
        make().sample([0], random=SlotRandom(0, [0]), **options)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gidance", r"did you mean guidance\?"), ("xy", "known: atol, .*guidance, .*times, to_zero, weak")],
)
def test_an_unknown_option_names_the_nearest_or_those_that_there_are(name: str, hint: str) -> None:
    for call in (
        lambda: check_options(LightningDiT, {name: 2.0}),
        lambda: make().sample([0], random=SlotRandom(0, [0]), **{name: 2.0}),
    ):
        with pytest.raises(InvalidFile, match=f"'{name}' of LightningDiT; {hint}"):
            call()


def test_good_options_pass_as_they_are() -> None:
    options = {"steps": 3, "guidance": {"parts": [[1.0, 0.5, 2.0]]}, "times": [1.0, 0.5, 0.0], "shift": None}
    assert check_options(MMDiT, options) == options
    model = make()
    explicit = model.sample([0, 1], random=TWO, times=[1.0, 0.5, 0.0])
    assert torch.equal(explicit, model.sample([0, 1], random=TWO, times=torch.tensor([1.0, 0.5, 0.0])))
    assert torch.equal(explicit, model.sample([0, 1], random=TWO, steps=2, shift=1.0))


@pytest.mark.parametrize("method", ["euler", "heun", "dpm++2m", "sde", "sde-heun", "dopri5", "bosh3", "adaptive_heun"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_samples_that_are_lost_are_told_whatever_the_method(method: str, bad: float) -> None:
    if method in ("dopri5", "bosh3", "adaptive_heun"):
        pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    model = make()
    with torch.no_grad():
        model.final.linear.bias[0] = bad
    with pytest.raises(FAEError, match="lower the guidance scale") as raised:
        model.sample([0], random=SlotRandom(0, [0]), method=method, steps=4)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [SiT, LightningDiT])
def test_the_null_label_is_no_label_of_data(kind: Any) -> None:
    model, z = make(kind), torch.zeros(2, *SPEC.shape)
    for labels in ([1, 3], [3, 3], [-1, 0], [0, 10**12], [True, False], [0.0, 1.0], [[0], [1]], [0, 1, 2]):
        with pytest.raises(FAEError, match=r"class labels|0\.\.2"):
            model.train().loss(z, torch.tensor(labels), random=TWO)
    assert torch.isfinite(model.loss(z, torch.tensor([0, 2]), random=TWO)["loss"])
    for labels in ([4, 0], [-1, 0], [0.5, 1]):
        with pytest.raises(FAEError):
            model.sample(labels, random=TWO, steps=1)
    with pytest.raises(FAEError, match=r"0\.\.2"):  # without dropout there is no null label at all
        make(kind, class_dropout=0.0).sample([3], random=SlotRandom(0, [0]), steps=1)


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (TransformerConfig, {"width": 10**9}),
        (TransformerConfig, {"depth": 10**6}),
        (TransformerConfig, {"classes": 10**12}),
        (TransformerConfig, {"mlp_ratio": 1e9}),
        (TransformerConfig, {"patch_size": 10**9}),
        (LightningDiTConfig, {"heads": 10**6, "width": 4 * 10**6}),
        (SiTConfig, {"sampling": {"steps": 10**9}}),
        (SiTConfig, {"transport": {"shift": 1e20}}),
        (SiTConfig, {"transport": {"time_std": 0.0}}),
        (MMDiTConfig, {"width": 10**9}),
        (MMDiTConfig, {"null_length": 10**9}),
        (MMDiTConfig, {"registers": 10**9}),
        (MMDiTConfig, {"text_width": 10**9}),
        (MMDiTConfig, {"position_size": 10**6}),
        (MMDiTConfig, {"projection_dims": [10**9]}),
        (MMDiTConfig, {"text_encoder": {"name": "t5", "max_length": 10**9}}),
        (MMDiTConfig, {"time_scale": 1e300}),
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_memory_is_taken(config: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidFile) as raised:
        parse_config(config, fields, "model settings")
    assert "\n" not in str(raised.value)


def test_the_times_of_sd3_end_with_a_step_to_zero() -> None:
    model = make(SiT)
    times = grid_of(model.config.sampling_settings({"sampling": "sd3"}), model.transport).tolist()
    first = [1 + (0.003 / 1.002 - 1) * i / 27 for i in range(28)]
    assert times == pytest.approx([*(3 * t / (1 + 2 * t) for t in first), 0.0], abs=1e-12)
    with pytest.raises(FAEError, match="two steps"):
        model.sample([0], random=SlotRandom(0, [0]), sampling="sd3", steps=1)


def test_the_last_step_to_zero_of_an_sde_begins_where_the_grid_ends() -> None:
    model = make(SiT)
    for end in (0.1, 0.3):
        settings = model.config.sampling_settings({"method": "sde", "to_zero": True, "end": end, "steps": 4})
        assert grid_of(settings, model.transport).tolist() == pytest.approx([*torch.linspace(1, end, 4).tolist(), 0.0])


def test_settings_by_name_are_those_of_appendix_d_and_options_go_over_them() -> None:
    spec = LatentSpec(4, 4, 4, 32, "toy/backbone")
    torch.manual_seed(0)
    model = SiT.from_preset("sit-tiny", spec=spec, classes=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    labels, random = torch.tensor([0, 2]), SlotRandom(0, [0, 1])
    unguided = {"method": "sde", "diffusion": "sigma", "last_step": "mean", "last_step_size": 0.04, "guidance": 1.0}
    parts = [[1.0, 0.9, 0.9], [0.9, 0.7, 1.0], [0.7, 0.0, 2.5]]
    for name, options in (
        ("paper-unguided", unguided),
        ("paper-guided", {"method": "euler", "guidance": {"parts": parts}}),
        ("fast", {"method": "dpm++2m"}),
    ):
        by_name = model.sample(labels, random=random, sampling=name, steps=7)
        assert torch.equal(by_name, model.sample(labels, random=random, steps=7, **options))
    assert {name: SiT.named_sampling[name]["steps"] for name in ("paper-guided", "paper-unguided", "fast")} == {
        "paper-guided": 250,
        "paper-unguided": 250,
        "fast": 25,
    }
    assert MMDiT.named_sampling["paper-guided"]["guidance"] == Guidance(scale=1.5, interval=(0.0, 0.9))
    with pytest.raises(FAEError, match="sampling option sampling"):
        check_options(model, {"sampling": "papre-guided"})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"guidance": 3}, {"scale": 3.0}),
        ({"guidance": {"channels": None}}, {"channels": None}),
        ({"guidance": {"interval": (0.0, 0.5)}}, {"interval": (0.0, 0.5)}),
        ({"guidance": {"skip": {"scale": 1.0}}}, {"skip": SkippedBlocks(blocks=(0,), scale=1.0)}),
        (
            {"guidance": {"parts": [[1.0, 0.0, 4.0]]}},
            {"parts": ((1.0, 0.0, 4.0),), "scale": 1.0, "interval": (0.0, 1.0)},
        ),
    ],
    ids=str,
)
def test_what_is_given_of_guidance_leaves_the_rest_of_it(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    own = Guidance(scale=2.0, interval=(0.0, 0.8), channels=3, skip=SkippedBlocks(blocks=(0,), scale=2.0))
    model = make(sampling={"guidance": own})
    assert check_options(model, given) == given
    assert model.config.sampling_settings(given).guidance == own.model_copy(update=wanted)


def test_a_scale_replaces_parts_and_a_guidance_or_a_name_replaces_all() -> None:
    config = make(sampling={"guidance": {"parts": [[1.0, 0.5, 2.0]], "channels": 2}}).config
    for options, guidance in (
        ({"guidance": 3.0}, Guidance(scale=3.0, channels=2)),
        ({"guidance": Guidance(scale=3.0)}, Guidance(scale=3.0)),
        ({"sampling": "repa"}, Guidance(scale=1.8, interval=(0.0, 0.7))),
        ({"sampling": "repa", "guidance": 3.0}, Guidance(scale=3.0, interval=(0.0, 0.7))),
        ({"sampling": "fast", "guidance": {"channels": 1}}, Guidance(parts=((1.0, 0.5, 2.0),), channels=1)),
    ):
        assert config.sampling_settings(options).guidance == guidance
    with pytest.raises(FAEError, match="give parts, or a scale and an interval"):  # there is no scale in parts
        config.sampling_settings({"guidance": {"interval": [0.0, 0.5]}})
