"""Every preset builds without memory, and those of the paper have its parameter counts."""

from __future__ import annotations

import pytest
import torch

from fae_core.cli.info import resolved_settings
from fae_core.config import parse_config
from fae_core.models.presets import load_preset, preset_files
from fae_decoders import ConvVAE, FeatureDecoder, PixelDecoder
from fae_decoders.fae.pixel_decoder import PixelDecoderConfig
from fae_decoders.losses import PixelLossConfig
from fae_decoders.losses.pixel import PixelLoss
from fae_decoders.stages import AutoencoderConfig, PixelFinetuneConfig, PixelNoiseConfig, VAEConfig

MODELS = {"conv-vae": ConvVAE, "feature-decoder": FeatureDecoder, "pixel-decoder": PixelDecoder}
STAGES = {
    "conv-vae": {"vae": VAEConfig},
    "feature-decoder": {"autoencoder": AutoencoderConfig},
    "pixel-decoder": {"noise": PixelNoiseConfig, "finetune": PixelFinetuneConfig},
}
PRESETS = sorted(name for name in preset_files() if load_preset(name).get("model_type") in MODELS)


def count(name: str, **overrides: object) -> int:
    with torch.device("meta"):
        model = MODELS[load_preset(name)["model_type"]].from_preset(name, **overrides)
    assert all(p.is_meta for p in model.parameters())
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds_on_meta_and_has_its_stated_count(name: str) -> None:
    assert count(name) == load_preset(name)["parameters"]


@pytest.mark.parametrize(
    ("name", "final_norm", "parameters", "printed"),
    [
        ("feature-decoder-1536", False, 170_426_880, 170.43),
        ("feature-decoder-1536", True, 170_428_416, 170.43),
        ("pixel-decoder-l", False, 305_358_848, 305.36),
        ("pixel-decoder-l", True, 305_360_896, 305.36),
    ],
)
def test_paper_models_have_the_printed_size(name: str, final_norm: bool, parameters: int, printed: float) -> None:
    counted = count(name, final_norm=final_norm)
    assert counted == parameters
    assert round(counted / 1e6, 2) == printed


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("pixel-decoder")])
@pytest.mark.parametrize("stage", ["noise", "finetune"])
def test_a_preset_s_discriminator_takes_the_decoder_s_images(name: str, stage: str) -> None:
    preset = load_preset(name)
    losses = {key: value for key, value in preset[stage]["losses"].items() if not key.startswith("perceptual")}
    chosen = {**losses, "l1": 1.0, "perceptual": "none", "adversarial_backbone_weights": None}
    size = parse_config(PixelDecoderConfig, preset["model"], name).image_shape
    discriminator = PixelLoss(parse_config(PixelLossConfig, chosen, name), size).discriminator
    if losses.get("adversarial", "none") == "none":
        assert discriminator is None
    else:
        assert discriminator is not None
        assert discriminator(torch.rand(1, 3, *size)).shape[:2] == (1, 1)


@pytest.mark.parametrize(("size", "channels"), [(256, 32), (384, 64)])
def test_presets_make_siglip2_s_whole_tokenizer(size: int, channels: int) -> None:
    """Encoder, feature decoder and pixel decoder fit each other, with the paper's training."""
    feature, pixel = load_preset(f"feature-decoder-1536-siglip2-{size}"), load_preset(f"pixel-decoder-l-siglip2-{size}")
    encoder, spec = load_preset(feature["encoder"]["preset"])["model"], feature["spec"]
    assert encoder["backbone"]["name"] == f"timm/vit_giantopt_patch16_siglip_{size}.v2_webli" == spec["backbone"]
    assert encoder["channels"] == spec["channels"] == channels
    assert load_preset(pixel["encoder"]["preset"])["model"]["backbone"] == encoder["backbone"]
    grid = [size // 16] * 2
    assert pixel["model"]["grid"] == [spec["height"], spec["width"]] == grid
    assert encoder["image_size"] == spec["image_size"] == pixel["model"]["image_size"] == size
    for preset, paper in ((feature, "feature-decoder-1536"), (pixel, "pixel-decoder-l")):
        assert preset["training"] == load_preset(paper)["training"]


def test_the_prior_work_s_losses_are_titok_s() -> None:
    """The released second stage of TiTok-B-64: L2 1, ConvNeXt-S 0.1, GAN 0.01 from 20,000 on, LeCam 1e-3, mirroring."""
    preset = load_preset("pixel-decoder-l-titok")
    for stage in ("noise", "finetune"):
        losses = parse_config(PixelLossConfig, preset[stage]["losses"], stage)
        assert (losses.l1, losses.l2, losses.perceptual, losses.perceptual_weight) == (0, 1, "convnext", 0.1)
        assert (losses.adversarial_weight, losses.lecam, losses.adaptive) == (0.01, 1e-3, "none")
        assert losses.discriminator_start == losses.adversarial_start == 20_000
        assert preset[stage]["data"]["flip"] is True


@pytest.mark.parametrize(
    "name", [name for name in PRESETS if MODELS[load_preset(name)["model_type"]].config_class.stage_configs]
)
def test_info_prints_a_preset_s_stages_with_their_defaults(name: str) -> None:
    """... and `fae config` a file that says the same as the preset."""
    preset, resolved = load_preset(name), resolved_settings(name)
    for stage, config_class in STAGES[preset["model_type"]].items():
        own = {key: value for key, value in preset.get(stage, {}).items() if key != "training"}
        printed = {key: value for key, value in resolved[stage].items() if key != "training"}
        assert printed.keys() == config_class.model_fields.keys()
        assert parse_config(config_class, printed, name) == parse_config(config_class, own, name)
        assert resolved[stage].get("training") == preset[stage].get("training")
