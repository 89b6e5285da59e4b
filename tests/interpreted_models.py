"""Every package's models through the Triton kernels. `test_models_through_kernels.py` runs this file with
TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fae_core import LatentSpec, ops
from fae_core.ops import triton
from fae_decoders import FeatureDecoder, PixelDecoder
from fae_diffusion import LightningDiT, MMDiT, MMDiTConfig, TextCondition
from fae_encoder import AdapterConfig, create_adapter
from fae_flow import STARFlow, STARFlowConfig

assert triton.INTERPRETED, "set TRITON_INTERPRET=1"

SPEC = LatentSpec(8, 3, 4, (48, 64), "toy/backbone")
SQUARE = LatentSpec(16, 4, 4, (32, 32), "toy/backbone")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lightningdit(**fields: object) -> tuple[torch.nn.Module, Callable[..., object]]:
    model = LightningDiT.from_preset("lightningdit-tiny", spec=SPEC, depth=2, **fields)
    return model, lambda m: m(randn(2, 8, 3, 4), torch.tensor([0.2, 0.7]), torch.tensor([0, 1]))


def mmdit() -> tuple[torch.nn.Module, Callable[..., object]]:
    config = MMDiTConfig(width=128, depth=2, heads=2, text_width=12, qk_norm="rms", rms_norm=True)
    text = TextCondition(randn(2, 5, 12), torch.arange(5)[None] < torch.tensor([[5], [3]]))
    return MMDiT(config, SPEC), lambda m: m(randn(2, 8, 3, 4), torch.tensor([0.2, 0.7]), text)


def feature_decoder() -> tuple[torch.nn.Module, Callable[..., object]]:
    return FeatureDecoder.from_preset("feature-decoder-tiny", spec=SQUARE, feature_dim=24), lambda m: m(
        randn(2, 16, 4, 4)
    )


def pixel_decoder() -> tuple[torch.nn.Module, Callable[..., object]]:
    model = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=24)
    return model, lambda m: m(randn(1, m.config.grid[0] * m.config.grid[1], 24))


def adapter() -> tuple[torch.nn.Module, Callable[..., object]]:
    config = AdapterConfig(heads=1, hidden=256, rope=True, input_norm="rms")
    return create_adapter(config, 16, 3), lambda m: m(randn(2, 6, 16), (2, 3))[0]


def starflow() -> tuple[torch.nn.Module, Callable[..., object]]:
    config = STARFlowConfig(
        width=64,
        layers=(1, 1),
        head_dim=32,
        heads=2,
        kv_heads=1,
        norm="rms",
        qk_norm=True,
        mlp="swiglu",
        rope_layout="half",
    )
    return STARFlow(config, SQUARE), lambda m: m.log_prob(randn(2, 16, 4, 4))


MODELS = {
    "lightningdit": lambda: lightningdit(width=128),
    "lightningdit 72": lambda: lightningdit(width=144, qk_norm=True),
    "ditdh": lambda: lightningdit(width=64, head={"width": 128, "depth": 1, "heads": 2}, time_embedding="gaussian"),
    "mmdit": mmdit,
    "feature decoder": feature_decoder,
    "pixel decoder": pixel_decoder,
    "adapter": adapter,
    "starflow": starflow,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_same_through_the_kernels(name: str) -> None:
    torch.manual_seed(0)
    model, run = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = []
    for backend in ("sdpa", "triton"):
        with ops.backend(backend):
            out = run(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        ahead = randn(*out.shape, seed=3)
        found.append([out, *torch.autograd.grad((out * ahead).sum(), parameters, allow_unused=True)])
    scale = torch.stack([g.norm() for g in found[0][1:] if g is not None]).mean()
    for got, want in zip(found[1], found[0], strict=True):
        assert (got is None) == (want is None)
        # Gradients that are small beside the others carry the rounding of the larger ones.
        assert got is None or (got - want).norm() <= 1e-5 * (want.norm() + scale)
