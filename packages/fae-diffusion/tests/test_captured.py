"""Sampling through captured evaluations gives what sampling without them gives; on the CPU a replay is the call."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fae_core import LatentSpec
from fae_core.errors import FAEError
from fae_diffusion import LightningDiT, MMDiT, MMDiTConfig, TextCondition
from fae_diffusion.samplers.captured import CapturedNetwork, is_plain

SPEC = LatentSpec(4, 2, 2, (32, 32), "toy/backbone")


def replayed(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    result = call()
    return lambda: result.copy_(call()), result


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(kind: str) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    if kind == "labels":
        model = LightningDiT.from_preset("lightningdit-tiny", spec=SPEC, depth=2, width=64)
        condition: object = torch.tensor([0, 1, 1])
    else:
        model = MMDiT(MMDiTConfig(width=64, depth=2, heads=2, text_width=12), SPEC)
        condition = TextCondition(randn(3, 5, 12), torch.arange(5)[None] < torch.tensor([[5], [3], [2]]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), condition


@pytest.mark.parametrize("kind", ["labels", "text"])
@pytest.mark.parametrize("bf16", [False, True])
def test_captured_evaluations_are_those_of_the_network_to_the_bit(kind: str, bf16: bool) -> None:
    model, condition = network(kind)
    captured = CapturedNetwork(model, model.velocity, bf16, capture=replayed)
    parameters = list(model.parameters())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for step in range(3):
            captured.renew()
            z, t = randn(3, 4, 2, 2, seed=step), torch.full((3,), 0.9 - 0.3 * step)
            assert torch.equal(captured(z, t, condition), model.velocity(z, t, condition))
    with torch.no_grad():  # as training between two previews does
        model.blocks[0].get_parameter(next(n for n, _ in model.blocks[0].named_parameters())).mul_(1.5)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        captured.renew()
        assert torch.equal(captured(z, t, condition), model.velocity(z, t, condition))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


class Quantised(torch.Tensor):
    """A weight that computes in its own way, as those of torchao do, and cannot be cast."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.empty_like:
            raise NotImplementedError(function)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_quantised_weights_are_left_to_themselves() -> None:
    model, condition = network("labels")
    for block in model.blocks:
        block.mlp.down.weight = torch.nn.Parameter(block.mlp.down.weight.detach().as_subclass(Quantised))
    captured = CapturedNetwork(model, model.velocity, True, capture=replayed)
    z, t = randn(3, 4, 2, 2), torch.full((3,), 0.5)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        captured.renew()
        assert captured._casts
        assert torch.equal(captured(z, t, condition), model.velocity(z, t, condition))


class Adapted(torch.nn.Module):
    """A layer with an adapter that can be switched off, as those of peft."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base, self.on = base, True

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * (1.5 if self.on else 1.0)


def frozen(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """As a graph, which does not ask again what modules do now."""
    result = call()
    return lambda: None, result


def test_switched_adapters_and_hooks_are_followed() -> None:
    model, condition = network("labels")
    assert is_plain(model)
    adapted = model.blocks[0].mlp.down = Adapted(model.blocks[0].mlp.down)
    assert not is_plain(model)
    captured = CapturedNetwork(model, model.velocity, False, capture=frozen)
    z, t, seen = randn(3, 4, 2, 2), torch.full((3,), 0.5), []
    with torch.inference_mode():
        for on in (True, False, True):
            adapted.on = on
            captured.renew()
            seen.append(captured(z, t, condition))
            assert torch.equal(seen[-1], model.velocity(z, t, condition))
    assert not torch.equal(seen[0], seen[1])
    model.blocks[0].mlp.down = adapted.base
    assert is_plain(model)
    model.blocks[0].register_forward_hook(lambda *_: None)
    assert not is_plain(model)


def test_a_sampler_uses_what_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, labels = network("labels")
    noise = randn(3, 4, 2, 2)
    want = model.sample(labels, noise=noise, steps=4, guidance=2.0)
    kept = CapturedNetwork(model, model.velocity, False, capture=replayed)
    monkeypatch.setattr(model, "_network", lambda *_: (kept.renew(), kept)[1])
    assert torch.equal(model.sample(labels, noise=noise, steps=4, guidance=2.0), want)
    assert len(kept._captured._graphs) == 1
    model._captured = kept
    assert copy.deepcopy(model) is not model


def test_cuda_graphs_are_refused_where_there_is_no_cuda_and_never_chosen_there() -> None:
    model, labels = network("labels")
    with pytest.raises(FAEError, match="cuda_graph needs a model on cuda, this one is on cpu"):
        model.sample(labels, noise=randn(3, 4, 2, 2), steps=1, cuda_graph=True)
    model.sample(labels, noise=randn(3, 4, 2, 2), steps=1)
    assert model._captured is None
    assert not model._blocks_compiled
