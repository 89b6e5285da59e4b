"""STARFlow conforms to the Generator protocol, with and without its denoising step."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from fae_core import LatentSpec
from fae_core.testing import GeneratorConformance
from fae_flow import STARFlow, STARFlowConfig


class TestClassConditional(GeneratorConformance):
    def make(self, spec: LatentSpec) -> STARFlow:
        fields = {"width": 32, "layers": (1, 2), "head_dim": 16, "noise_std": 0.1}
        return STARFlow(STARFlowConfig(classes=self.classes, **fields), spec)


class TestGuidedTopBlockWithoutDenoising(TestClassConditional):
    sample_options: ClassVar[dict[str, object]] = {"guidance": 2.0, "denoise": False}

    def make(self, spec: LatentSpec) -> STARFlow:
        fields = {"width": 32, "layers": (1, 2), "head_dim": 16, "noise_std": 0.1, "sos": False, "scale": "softplus"}
        return STARFlow(STARFlowConfig(classes=self.classes, condition_top_only=True, **fields), spec)


class TestJacobi(TestClassConditional):
    sample_options: ClassVar[dict[str, object]] = {"jacobi": {"stretch": 5, "tolerance": 1e-3}, "guidance": 1.5}


def test_samples_can_be_made_where_the_caller_is_in_inference_mode(build, spec) -> None:
    flow = build(classes=3, denoise=True)
    noise = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(0))
    outside = flow.sample(torch.tensor([0, 1]), noise=noise)
    with torch.inference_mode():
        assert torch.equal(flow.sample(torch.tensor([0, 1]), noise=noise), outside)


def test_training_steps_differ_only_by_their_random_streams(build, spec, latents_for) -> None:
    from fae_core import SlotRandom

    flow = build(classes=3, label_dropout=0.5).train()
    z, labels = latents_for(spec, 8), torch.arange(8) % 3
    first, again, other = (flow.loss(z, labels, random=SlotRandom(0, range(8), step=s))["loss"] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_changes_no_gradient(build, spec, latents_for, checkpointing) -> None:
    gradients = []
    for on in (False, checkpointing):
        flow = build(gradient_checkpointing=on, noise_std=0.0).train()
        flow.loss(latents_for(spec, 2))["loss"].backward()
        gradients.append([p.grad for p in flow.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
