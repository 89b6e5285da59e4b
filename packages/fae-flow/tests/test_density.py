"""The density is exact: inversion, Jacobians, closed forms, and the terms of the loss."""

from __future__ import annotations

import math

import pytest
import torch

from fae_core import LatentSpec, SlotRandom
from fae_core.errors import FAEError
from fae_flow.block import log_softplus


def test_sampling_inverts_the_density(flow, spec, condition_for, latents_for) -> None:
    z, condition = latents_for(spec, 3), condition_for(flow, 3)
    noise, _ = flow(z, condition)
    back = flow.sample(condition, noise=noise.detach(), denoise=False)
    torch.testing.assert_close(back, z, atol=1e-5, rtol=1e-5)


def test_logdet_is_that_of_autograds_jacobian(flow, spec, condition_for) -> None:
    # fp64 weights would be cast to fp32 in the affine maps, so the tolerance is fp32's for a 72 x 72 determinant.
    z = torch.randn(1, *spec.shape, generator=torch.Generator().manual_seed(3))
    condition = condition_for(flow, 1)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, condition).noise, z).reshape(z.numel(), z.numel())
    torch.testing.assert_close(flow(z, condition).logdet[0], torch.linalg.slogdet(jacobian)[1], atol=2e-4, rtol=1e-5)


def test_each_token_depends_on_those_before_it_in_the_blocks_direction(build, spec) -> None:
    for order, expected in (("R2L", "lower"), ("L2R", "upper")):
        flow = build(layers=(2,), order=order)
        z = torch.randn(1, *spec.shape, generator=torch.Generator().manual_seed(3))

        def tokens_to_noise(tokens: torch.Tensor, flow=flow) -> torch.Tensor:
            return flow.patchify(flow(flow.unpatchify(tokens, spec.height, spec.width)).noise)

        jacobian = torch.autograd.functional.jacobian(tokens_to_noise, flow.patchify(z))[0, :, :, 0].abs().amax((1, 3))
        dependent = jacobian > 0
        strict = dependent.triu(1) if expected == "lower" else dependent.tril(-1)
        assert not strict.any()
        assert dependent.sum() == dependent.shape[0] * (dependent.shape[0] + 1) // 2


def test_an_identity_flow_has_the_standard_normals_density(spec) -> None:
    from fae_flow import STARFlow, STARFlowConfig

    flow = STARFlow(STARFlowConfig(width=32, head_dim=16, layers=(1, 1), noise_std=0.0), spec)
    z = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(flow.log_prob(z), expected)
    torch.testing.assert_close(flow.bits_per_dim(z), -expected / (z[0].numel() * math.log(2)))


def test_bits_per_dim_counts_the_noise_it_adds(build, spec, latents_for) -> None:
    flow, z, random = build(noise_std=0.25), latents_for(spec, 2), SlotRandom(7, range(2))
    noisy = z + 0.25 * random.normal(spec.shape, "noise")
    bits = flow.bits_per_dim(z, random=random)
    torch.testing.assert_close(bits, -flow.log_prob(noisy) / (z[0].numel() * math.log(2)))
    floor = torch.distributions.Normal(0.0, 0.25).entropy() / math.log(2)
    torch.testing.assert_close(bits - flow.bits_per_dim(z, random=random, above_noise=True), floor.expand(2))


def test_the_loss_is_the_negative_log_likelihood_of_noisy_latents(build, spec, latents_for) -> None:
    flow, z, random = build(noise_std=0.25, regularization=0.1), latents_for(spec, 4), SlotRandom(7, range(4))
    terms = flow.loss(z, random=random)
    noisy = z + 0.25 * random.normal(spec.shape, "noise")
    nll = -flow.log_prob(noisy).mean() / z[0].numel() - 0.5 * math.log(2 * math.pi)
    squares = sum(state.square().mean() for state in flow.trace(noisy).states[:-1])
    torch.testing.assert_close(terms["loss"], nll + 0.1 * squares)
    torch.testing.assert_close(terms["bits_per_dim"], flow.bits_per_dim(z, random=random).mean())


def test_labels_are_dropped_in_training_only(build, spec, latents_for) -> None:
    flow, z, random = build(classes=3, label_dropout=1.0), latents_for(spec, 3), SlotRandom(0, range(3))
    labels = torch.tensor([0, 1, 2])
    kept = flow.eval().loss(z, labels, random=random)["loss"]
    dropped = flow.train().loss(z, labels, random=random)["loss"]
    torch.testing.assert_close(dropped, flow.loss(z, None, random=random)["loss"])
    assert not torch.allclose(kept, dropped)


def test_no_condition_is_the_null_condition(build, spec, latents_for) -> None:
    flow, z = build(classes=3), latents_for(spec, 2)
    torch.testing.assert_close(flow.log_prob(z), flow.log_prob(z, torch.tensor([3, 3])))


def test_null_text_is_zeros_and_masked_words_do_not_count(build, spec, latents_for) -> None:
    flow, z = build(text_dim=5, text_tokens=4), latents_for(spec, 2)
    text = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    torch.testing.assert_close(flow.log_prob(z, (text, mask)), flow.log_prob(z, text * mask[..., None]))
    torch.testing.assert_close(
        flow.sample(None, noise=z, denoise=False), flow.sample(torch.zeros(2, 4, 5), noise=z, denoise=False)
    )


@pytest.mark.parametrize("filling", [7.0, 1e30, float("inf"), float("nan")])
def test_what_stands_at_masked_words_is_not_read(build, spec, latents_for, filling: float) -> None:
    flow, z = build(text_dim=5, text_tokens=4, label_dropout=0.1), latents_for(spec, 2)
    text = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    filled = torch.where(mask[..., None], text, torch.tensor(filling))
    wanted = flow.log_prob(z, (text, mask))
    additive = torch.zeros(2, 4).masked_fill(~mask, float("-inf"))
    for given in (mask, mask.long(), mask.float(), additive):
        assert torch.equal(flow.log_prob(z, (filled, given)), wanted)
        assert torch.equal(flow.log_prob(z, [filled, given]), wanted)
    noise = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(0))
    options = {"noise": noise, "guidance": 2.0, "denoise": False}
    assert torch.equal(flow.sample((filled, mask), **options), flow.sample((text, mask), **options))
    assert len(flow.sample([text, mask], denoise=False)) == 2
    for wrong in (torch.zeros(2, 4), torch.rand(2, 4), mask.T, mask[:1], mask[..., None], [True] * 4):
        with pytest.raises(FAEError):
            flow.log_prob(z, (text, wrong))


def test_denoising_one_gaussian_gives_its_posterior_mean(spec) -> None:
    # Clean latents N(0, 1 - s^2) with noise s are N(0, 1), the identity flow; the posterior mean is (1 - s^2) z.
    from fae_flow import STARFlow, STARFlowConfig

    flow = STARFlow(STARFlowConfig(width=32, head_dim=16, layers=(1, 1), noise_std=0.6), spec)
    z = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.denoise(z), 0.64 * z)


def test_log_softplus_is_exact_and_differentiable_in_both_tails() -> None:
    x = torch.tensor([-200.0, -30.0, -15.5, -14.5, 0.0, 30.0], dtype=torch.float32, requires_grad=True)
    exact = torch.nn.functional.softplus(x.detach().double(), threshold=1000).log()
    torch.testing.assert_close(log_softplus(x).double(), exact, atol=1e-5, rtol=1e-6)
    (gradient,) = torch.autograd.grad(log_softplus(x).sum(), x)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(gradient[:3], torch.ones(3))


def test_a_grid_of_another_shape_is_read_and_inverted(build, latents_for) -> None:
    flow = build(classes=3)
    other = LatentSpec(3, 6, 2, 64, "toy/backbone")
    z, labels = latents_for(other, 2), torch.tensor([0, 1])
    back = flow.sample(labels, noise=flow(z, labels).noise.detach(), denoise=False)
    torch.testing.assert_close(back, z, atol=1e-5, rtol=1e-5)


def test_conditions_that_do_not_fit_are_refused(build, spec, latents_for) -> None:
    z = latents_for(spec, 2)
    with pytest.raises(FAEError, match=r"0\.\.2"):
        build(classes=3).log_prob(z, torch.tensor([0, 4]))
    with pytest.raises(FAEError, match="no null condition"):
        build(classes=3, label_dropout=0.0).log_prob(z)
    with pytest.raises(FAEError, match="class labels of shape"):
        build(classes=3).log_prob(z, torch.zeros(2))
    with pytest.raises(FAEError, match=r"\(B, L, 5\)"):
        build(text_dim=5, text_tokens=4).log_prob(z, torch.zeros(2, 4, 6))
    with pytest.raises(FAEError, match="3 conditions do not fit 2 latents"):
        build(classes=3).sample(torch.tensor([0, 1, 2]), noise=z)
    with pytest.raises(FAEError, match="patches of 2"):
        build(patch_size=2)(torch.zeros(1, 3, 4, 5))
    with pytest.raises(FAEError, match="expected latents of shape"):
        build(rope=False)(torch.zeros(1, 3, 6, 4))


def test_gradients_of_each_sample_by_vmap(build, spec, latents_for) -> None:
    flow, z, labels = build(classes=3), latents_for(spec, 3), torch.tensor([0, 2, 1])
    weights = {name: weight.detach() for name, weight in flow.named_parameters()}

    def logdet(weights: dict[str, torch.Tensor], z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(flow, weights, (z[None], label[None])).logdet.sum()

    found = torch.func.vmap(torch.func.grad(logdet), in_dims=(None, 0, 0))(weights, z, labels)
    for row in range(3):
        flow.zero_grad()
        flow(z[row : row + 1], labels[row : row + 1]).logdet.sum().backward()
        for name, weight in flow.named_parameters():
            wanted = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.testing.assert_close(found[name][row], wanted, atol=1e-4, rtol=1e-3)


def test_the_density_is_exported_for_any_batch(build, spec, latents_for) -> None:
    """Labels are checked by value, which nothing can be while a model is traced."""
    flow, batch = build(classes=3), torch.export.Dim("batch", min=1, max=8)

    class Density(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = flow

        def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.flow.log_prob(z, labels)

    z, labels = latents_for(spec, 5), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        shapes = {"z": {0: batch}, "labels": {0: batch}}
        program = torch.export.export(Density(), (z[:2], labels[:2]), dynamic_shapes=shapes).module()
        torch.testing.assert_close(program(z, labels), flow.log_prob(z, labels))
