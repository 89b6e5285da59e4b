"""Every model of the house computes the same after a detour through half precision, once it has its weights again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fae_core import LatentSpec
from fae_core.layers import AxialRope
from fae_decoders import ConvVAE, FeatureDecoder, PixelDecoder
from fae_decoders.baselines.conv_vae import ConvVAEConfig
from fae_decoders.fae.rae_decoder import RAEDecoder, RAEDecoderConfig
from fae_decoders.losses.discriminator import PatchDiscriminator
from fae_diffusion import LightningDiT, MMDiT, MMDiTConfig, SiT, TextCondition
from fae_encoder import AdapterConfig, create_adapter, create_backbone
from fae_encoder.feature_norm import FeatureNorm
from fae_flow import STARFlow, STARFlowConfig

SPEC = LatentSpec(8, 4, 4, (64, 64), "toy/backbone")
DETOURS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bfloat16": lambda m: m.to(torch.bfloat16).to(torch.float32),
    "half, then a copy": lambda m: copy.deepcopy(m.half()).float(),
    "double": lambda m: m.double().float(),
    "two casts": lambda m: m.half().bfloat16().float(),
    "meta": lambda m: m.to("meta").to_empty(device="cpu"),
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _norm() -> FeatureNorm:
    norm = FeatureNorm(5)
    norm.set_statistics(randn(5), 0.1 + randn(5).abs())
    return norm


def _discriminator() -> PatchDiscriminator:
    judge = PatchDiscriminator((32, 32), width=8)
    judge.note(randn(4), randn(4, seed=1))
    judge.begin_step(1001)  # no number of bfloat16
    judge.note(randn(4, seed=2), randn(4, seed=3))
    return judge


TEXT = TextCondition(randn(2, 3, 12))
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "rope": (lambda: AxialRope(5, 7, 64), lambda m: torch.stack(m())),
    "sit": (
        lambda: SiT.from_preset("sit-tiny", spec=SPEC, depth=2),
        lambda m: m(randn(2, 8, 4, 4), 0.3, torch.tensor([0, 1])),
    ),
    "lightningdit": (
        lambda: LightningDiT.from_preset("lightningdit-tiny", spec=SPEC, depth=2),
        lambda m: m(randn(2, 8, 4, 4), 0.3, torch.tensor([0, 1])),
    ),
    "mmdit": (
        lambda: MMDiT(MMDiTConfig(width=64, depth=2, heads=2, text_width=12, position_size=9), SPEC),
        lambda m: m(randn(2, 8, 4, 4), 0.3, TEXT),
    ),
    "starflow": (
        lambda: STARFlow(STARFlowConfig(width=64, layers=(1, 1), head_dim=32, classes=3), SPEC),
        lambda m: m(randn(2, 8, 4, 4), torch.tensor([0, 1])).noise,
    ),
    "feature decoder": (
        lambda: FeatureDecoder.from_preset("feature-decoder-tiny", spec=SPEC, feature_dim=24),
        lambda m: m(randn(2, 8, 4, 4)),
    ),
    "pixel decoder": (
        lambda: PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=24),
        lambda m: m(randn(1, m.config.grid[0] * m.config.grid[1], 24)),
    ),
    "rae decoder": (
        lambda: RAEDecoder(
            RAEDecoderConfig(
                feature_dim=24, width=32, depth=1, heads=2, mlp_hidden=48, grid=(3, 4), image_size=(48, 64)
            )
        ),
        lambda m: m(randn(1, 12, 24)),
    ),
    "conv vae": (
        lambda: ConvVAE(ConvVAEConfig(image_size=32, channels=4, widths=(16, 16), norm_groups=8)),
        lambda m: m.posterior(randn(1, 3, 32, 32).sigmoid()).mean,
    ),
    "adapter": (
        lambda: create_adapter(AdapterConfig(heads=1, hidden=64, rope=True), 16, 3),
        lambda m: m(randn(2, 6, 16), (2, 3))[0],
    ),
    "backbone": (
        lambda: create_backbone("timm/vit_tiny_patch16_224", weights=None, image_size=32),
        lambda m: m(randn(1, 3, 32, 32).sigmoid()),
    ),
    "backbone that rotates": (
        lambda: create_backbone("timm/eva02_tiny_patch14_224", weights=None, image_size=56),
        lambda m: m(randn(1, 3, 56, 56).sigmoid()),
    ),
    "feature norm": (_norm, lambda m: m(randn(2, 3, 5))),
    "discriminator": (_discriminator, lambda m: m(randn(1, 3, 32, 32).sigmoid())),
}


def _built(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    for parameter in model.parameters():
        if parameter.requires_grad:  # fresh models begin with zeros, behind which nothing shows
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("detour", DETOURS)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_with_its_weights_again_computes_the_same(name: str, detour: str) -> None:
    model = _built(name)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    buffers = {key: value.clone() for key, value in model.named_buffers() if value.is_floating_point()}
    with torch.no_grad():
        before = MODELS[name][1](model)
        back = DETOURS[detour](model)
        if detour != "meta":  # measured statistics are in the weights' file; tables that are in none are made anew
            for key, value in back.named_buffers():
                assert not value.is_floating_point() or torch.equal(value, buffers[key]), key
        back.load_state_dict(weights)
        assert torch.equal(before, MODELS[name][1](back))


@pytest.mark.parametrize("name", ["lightningdit", "mmdit", "rae decoder", "pixel decoder", "feature norm"])
def test_a_model_in_half_precision_computes_with_tables_that_are_not(name: str) -> None:
    model = _built(name)
    with torch.no_grad():
        exact, rounded = MODELS[name][1](model), MODELS[name][1](model.bfloat16())
    assert 0 <= (rounded.float() - exact).norm() < 0.1 * exact.norm()
