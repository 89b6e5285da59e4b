"""MeanFlow: its target against finite differences, an exact solution in one step, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd import forward_ad

from fae_core import LatentSpec, SlotRandom
from fae_core.errors import FAEError
from fae_core.models.draw import check_options
from fae_diffusion import LightningDiT
from fae_diffusion.mean_flow import interval, mean_flow_loss
from fae_diffusion.models.config import HeadConfig, MeanFlow

SPEC = LatentSpec(4, 4, 4, 32, "test", fingerprint="feed")


def make(depth: int = 2, **mean_flow) -> LightningDiT:
    torch.manual_seed(0)
    settings = {"transport": {"time": "logit_normal"}, "classes": 3, "mean_flow": mean_flow, "depth": depth}
    model = LightningDiT.from_preset("lightningdit-tiny", spec=SPEC, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def batch(model: LightningDiT, count: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    z0, noise = torch.randn(2, count, *SPEC.shape, generator=generator).unbind()
    first, second, choice = torch.rand(3, count, generator=generator).unbind()
    t, until = interval(MeanFlow(share=0.5), first, second, choice)
    at = model.transport.coefficients(t, z0)
    return at.state(z0, noise), at.velocity(z0, noise), t, until, torch.arange(count) % 3


def test_an_interval_has_ordered_ends_and_its_share_has_length() -> None:
    first, second, choice = torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)).unbind()
    t, until = interval(MeanFlow(share=0.25), first, second, choice)
    assert (until <= t).all() and torch.equal(t, torch.maximum(first, second))
    assert (until < t).float().mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_target_is_that_of_the_equation_by_finite_differences(guidance: float) -> None:
    model = make(guidance=guidance, weight_power=0).double()
    x, v, t, until, labels = (part.double() if part.is_floating_point() else part for part in batch(model))
    labels[0] = 3  # without a class: learned unguided
    null = torch.full_like(labels, 3)
    terms = mean_flow_loss(model, model.mean_flow, x, v, t, until, labels, null)
    with torch.no_grad():
        if guidance != 1:
            guided = guidance * v + (1 - guidance) * model(x, t, null)
            v = torch.where((labels != 3).view(-1, 1, 1, 1), guided, v)
        h = 1e-4  # times are embedded in single precision
        slope = (model(x + h * v, t + h, labels, until) - model(x - h * v, t - h, labels, until)) / (2 * h)
        target = v - (t - until).view(-1, 1, 1, 1) * slope
        expected = (model(x, t, labels, until) - target).square().flatten(1).mean(1)
    assert terms["mse"].double() == pytest.approx(expected, rel=3e-3)
    assert (until < t).any() and (until == t).any()


def test_the_derivative_goes_through_no_compiled_block() -> None:
    """Compiled code has no derivative in forward mode, and on torch 2.11 it does not say so."""
    duals = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        def run(*inputs: torch.Tensor) -> object:
            duals.append(any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in inputs))
            return graph(*inputs)

        return run

    found = []
    for compiled in (False, True):
        model = make(share=1.0)
        for block in model.blocks if compiled else ():
            block.compile(backend=backend)
        z, labels = torch.ones(4, *SPEC.shape), torch.arange(4) % 3
        found.append(model.loss(z, labels, random=SlotRandom(0, range(4)))["mse"].item())
    assert duals and not any(duals)
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_compiled_loss_is_the_same_and_has_the_same_gradient() -> None:
    torch._dynamo.reset()
    z, labels, found = torch.ones(4, *SPEC.shape), torch.arange(4) % 3, []
    for compiled in (False, True):
        model = make(depth=1, share=0.5)
        loss = torch.compile(model.loss, backend="eager") if compiled else model.loss
        terms = loss(z, labels, random=SlotRandom(0, range(4)))
        terms["loss"].backward()
        found.append([terms["mse"].item(), *(p.grad.norm().item() for p in model.parameters() if p.grad is not None)])
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_quarters_of_the_loss_are_those_of_the_later_time() -> None:
    model = make(weight_power=0).eval()
    with torch.no_grad():
        for parameter in model.final.parameters():
            parameter.zero_()  # nothing is predicted: the error is the velocity, noise - z
    random = SlotRandom(0, range(4000))
    later = torch.maximum(*(random.uniform((), name) for name in ("time", "second_time")))
    z = later.view(-1, 1, 1, 1).expand(-1, *SPEC.shape)
    with torch.no_grad():
        terms = model.loss(z, torch.zeros(4000, dtype=torch.long), random=random)
    # The square of the later time is uniform, and the noise adds 1 to it.
    quarters = [terms[f"loss_q{quarter}"].item() for quarter in range(1, 5)]
    assert quarters == pytest.approx([1.125, 1.375, 1.625, 1.875], rel=0.07)


def test_no_gradient_goes_through_the_target() -> None:
    model = make(share=1.0)
    x, v, t, until, labels = batch(model)
    terms = mean_flow_loss(model, model.mean_flow, x, v, t, until * 0.5, labels, None)
    terms["loss"].sum().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    error = terms["mse"]
    out = model(x, t, labels, until * 0.5)
    # The gradient of the weighted square at the same error, with the target taken as a constant.
    with torch.no_grad():
        h = 1e-3
        ends = (labels, until * 0.5)
        slope = (model(x + h * v, t + h, *ends) - model(x - h * v, t - h, *ends)) / (2 * h)
        target = v - (t - until * 0.5).view(-1, 1, 1, 1) * slope
    ((out - target).square().flatten(1).sum(1) / (error * out[0].numel() + 1e-3)).sum().backward()
    again = [p.grad for p in model.parameters() if p.grad is not None]
    size = torch.stack([g.norm() for g in again]).norm()
    assert torch.stack([(a - b).norm() for a, b in zip(found, again, strict=True)]).norm() < 0.01 * size


def test_the_wide_head_knows_the_interval_too() -> None:
    model = make(share=1.0)
    config = model.config.model_copy(update={"head": HeadConfig(width=64, depth=1, heads=2)})
    model = LightningDiT(config, SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        for block in model.blocks[: config.depth]:  # the blocks before the head see no condition
            block.modulation.weight.zero_()
        z, labels = torch.randn(2, *SPEC.shape), torch.tensor([0, 2])
        assert not torch.allclose(model(z, 0.4, labels, 0.4), model(z, 0.4, labels, 0.1))


def test_without_intervals_it_is_flow_matching() -> None:
    model = make(share=0.0, weight_power=0).eval()
    random = SlotRandom(0, range(5))
    z, labels = torch.randn(5, *SPEC.shape), torch.arange(5) % 3
    found = model.loss(z, labels, random=random)
    uniform, second = (random.uniform((), stream) for stream in ("time", "second_time"))
    t = torch.maximum(model.transport.times(uniform), model.transport.times(second))
    noise = random.normal(SPEC.shape, "noise")
    at = model.transport.coefficients(t, z)
    expected = model.transport.loss(model(at.state(z, noise), t, labels), z, noise, t)["mse"].mean()
    assert found["mse"] == pytest.approx(expected.item(), rel=1e-5)


def test_one_step_of_the_mean_velocity_of_a_straight_line_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    noise, goal = torch.randn(2, 3, *SPEC.shape).unbind()

    def mean_velocity(z, t, labels, until=None):  # of the path from goal to noise: the same at all times
        return noise - goal

    monkeypatch.setattr(model, "forward", mean_velocity)
    for steps in (1, 3):
        z = model.sample(torch.zeros(3, dtype=torch.long), noise=noise, method="mean_flow", steps=steps)
        assert torch.allclose(z, goal, atol=1e-5)


def test_a_sample_depends_on_its_slot_alone_and_guidance_takes_the_same_intervals() -> None:
    model = make().eval()
    labels = torch.tensor([0, 1, 2, 1])
    options: dict = {"method": "mean_flow", "steps": 2, "guidance": 2.0}
    whole = model.sample(labels, random=SlotRandom(0, range(4)), **options)
    parts = [model.sample(labels[i : i + 2], random=SlotRandom(0, range(i, i + 2)), **options) for i in (0, 2)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)
    noise = SlotRandom(0, range(4)).normal(SPEC.shape, "noise")
    z, null = noise, torch.full_like(labels, 3)
    for t, s in ((1.0, 0.5), (0.5, 0.0)):
        with torch.no_grad():
            u, other = model(z, t, labels, s), model(z, t, null, s)
        z = z - (t - s) * (other + 2.0 * (u - other))
    assert torch.allclose(whole, z, atol=1e-4)


def test_other_samplers_take_the_velocity_of_an_empty_interval() -> None:
    model = make().eval()
    z, labels = torch.randn(2, *SPEC.shape), torch.tensor([0, 2])
    with torch.no_grad():
        assert torch.equal(model(z, 0.4, labels), model(z, 0.4, labels, 0.4))
        assert not torch.allclose(model(z, 0.4, labels), model(z, 0.4, labels, 0.1))
    check_options(model, {"method": "euler", "steps": 2})
    model.sample(labels, random=SlotRandom(0, range(2)), method="euler", steps=2)


def test_what_does_not_fit_is_refused() -> None:
    plain = LightningDiT.from_preset("lightningdit-tiny", spec=SPEC)
    with pytest.raises(FAEError, match="trained without mean_flow"):
        plain(torch.zeros(1, *SPEC.shape), 0.5, torch.zeros(1, dtype=torch.long), 0.1)
    with pytest.raises(FAEError, match="needs a network trained with mean_flow"):
        plain.sample(torch.zeros(1, dtype=torch.long), random=SlotRandom(0, [0]), method="mean_flow")
    for fields, reason in (
        ({"sampling": {"method": "mean_flow"}}, "needs a network trained with mean_flow"),
        ({"mean_flow": {}, "transport": {"prediction": "noise"}}, "needs the prediction velocity"),
        ({"mean_flow": {}, "transport": {"cosine": 1.0}}, "no cosine term"),
        ({"mean_flow": {"guidance": 2.0}, "class_dropout": 0.0}, "needs class_dropout"),
    ):
        with pytest.raises(FAEError, match=reason):
            LightningDiT.from_preset("lightningdit-tiny", spec=SPEC, **fields)
