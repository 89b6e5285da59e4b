"""STARFlow's sampling options and conditions: impossible ones are refused by the class, lost samples reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fae_core.config import parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.models.draw import check_options
from fae_core.random import SlotRandom
from fae_flow import FlowSampler, STARFlow, STARFlowConfig
from fae_flow.sampling.jacobi import Jacobi

BAD = [
    {"gidance": 2.0},
    {"steps": 10},
    {"guidance": float("nan")},
    {"guidance": float("inf")},
    {"guidance": -1.0},
    {"guidance": 1e9},
    {"guidance": "much"},
    {"guidance": None},
    {"denoise": "perhaps"},
    {"guide_top_only": 7},
    {"jacobi": 3},
    {"jacobi": {"stretch": 0}},
    {"jacobi": {"stretch": "x"}},
    {"jacobi": {"strech": 4}},
    {"jacobi": {"stretch": 1.5}},
    {"jacobi": {"tolerance": float("nan")}},
    {"cuda_graph": "x"},
    {"noise": 1},
]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_an_option_that_cannot_be_is_refused_by_the_class_alone(options: dict[str, Any]) -> None:
    with pytest.raises(FAEError) as raised:
        check_options(STARFlow, options)
    assert "\n" not in str(raised.value)
    if options == {"gidance": 2.0}:
        assert "'gidance' of STARFlow; did you mean guidance" in str(raised.value)


def test_good_options_pass() -> None:
    given = {"guidance": 2, "denoise": None, "jacobi": {"stretch": 4, "tolerance": 0}, "guide_top_only": True}
    assert check_options(STARFlow, given) == {**given, "jacobi": Jacobi(stretch=4, tolerance=0)}


@pytest.mark.parametrize("guidance", [1e4, 1e6])
@pytest.mark.parametrize("denoise", [False, True])
def test_a_guidance_that_loses_the_samples_says_so(build, spec, guidance: float, denoise: bool) -> None:
    flow = build(classes=3)
    with torch.no_grad():  # a model that makes much of its condition
        for block in flow.blocks:
            block.proj_out.weight.mul_(40)
    labels, random = torch.tensor([0, 1]), SlotRandom(0, range(2))
    with pytest.raises(FAEError, match=r"of 2 samples (are not finite|exploded).*lower the guidance scale"):
        flow.sample(labels, random=random, guidance=guidance, denoise=denoise)
    noise = random.normal(spec.shape, "noise")
    with pytest.raises(FAEError, match="lower the guidance scale"):
        FlowSampler(flow).sample(labels, noise, guidance=guidance)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), -0.5])
def test_a_guidance_that_is_no_scale_is_refused(build, spec, guidance: float) -> None:
    with pytest.raises(FAEError, match="guidance must be finite"):
        build(classes=3).sample(torch.tensor([0]), random=SlotRandom(0, [0]), guidance=guidance)


@pytest.mark.parametrize("guidance", [np.float32(2), np.int64(2), np.array(2), torch.tensor(2.0), torch.tensor(2)])
def test_a_number_of_any_library_is_a_scale(build, spec, latents_for, guidance: Any) -> None:
    flow, noise = build(classes=3), latents_for(spec, 2)
    expected = flow.sample([0, 1], noise=noise, guidance=2.0)
    assert torch.equal(flow.sample([0, 1], noise=noise, guidance=guidance), expected)


@pytest.mark.parametrize("guidance", [torch.ones(2), np.ones(2), "much", None, [2.0]], ids=str)
def test_what_is_no_number_is_no_scale(build, spec, latents_for, guidance: Any) -> None:
    with pytest.raises(FAEError, match="guidance must be finite"):
        build(classes=3).sample([0, 1], noise=latents_for(spec, 2), guidance=guidance)


def test_one_label_alone_and_none_at_all_are_refused(build, spec, latents_for) -> None:
    flow = build(classes=3)
    for alone in (1, torch.tensor(1), np.array(1)):
        with pytest.raises(FAEError, match="one per sample"):
            flow.sample(alone)
    for none in ([], torch.tensor([], dtype=torch.long)):
        with pytest.raises(FAEError, match="the batch is empty"):
            flow.sample(none)
    with pytest.raises(FAEError, match="the batch is empty"):
        FlowSampler(flow).sample(None, latents_for(spec, 1)[:0])


def test_the_null_label_is_no_label_of_data(build, spec, latents_for) -> None:
    flow, z, random = build(classes=3), latents_for(spec, 2), SlotRandom(0, range(2))
    for labels in ([1, 3], [3, 3], [-1, 0], [True, False], [0.0, 1.0]):
        with pytest.raises(FAEError, match=r"class labels|0\.\.2"):
            flow.train().loss(z, torch.tensor(labels), random=random)
    assert torch.isfinite(flow.loss(z, torch.tensor([0, 2]), random=random)["loss"])
    with pytest.raises(FAEError, match=r"0\.\.2"):  # without dropout its row is there, but nobody trained it
        build(classes=3, label_dropout=0.0).log_prob(z, torch.tensor([0, 3]))


@pytest.mark.parametrize(
    "fields",
    [{"width": 10**9}, {"layers": [10**6]}, {"layers": [1] * 1000}, {"classes": 10**12},
     {"text_dim": 10**9, "text_tokens": 4}, {"text_dim": 8, "text_tokens": 10**9}, {"head_dim": 10**6},
     {"noise_std": 1e30}, {"rope_length": 1e30}, {"mlp_ratio": 1e6}],
    ids=str,
)  # fmt: skip
def test_absurd_sizes_are_refused_before_memory_is_taken(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidFile) as raised:
        parse_config(STARFlowConfig, fields, "model settings")
    assert "\n" not in str(raised.value)
