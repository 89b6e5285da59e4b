"""Claims about backbones from transformers: small random models of each family, saved to a folder and loaded from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fae_core.errors import CheckpointError, FAEError
from fae_encoder import create_backbone

transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
FAMILIES = {
    "dinov2": lambda: transformers.Dinov2Config(**SMALL, image_size=28, patch_size=14),
    "dinov2-registers": lambda: transformers.Dinov2WithRegistersConfig(**SMALL, image_size=28, patch_size=14),
    "dinov3": lambda: transformers.DINOv3ViTConfig(**SMALL, image_size=32, patch_size=16, num_register_tokens=4),
    "siglip": lambda: transformers.SiglipVisionConfig(**SMALL, image_size=32, patch_size=16),
    "vit": lambda: transformers.ViTConfig(**SMALL, image_size=32, patch_size=16),
    "mae": lambda: transformers.ViTMAEConfig(**SMALL, image_size=32, patch_size=16),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
}


def save(folder: Path, family: str, size: int = 56) -> torch.nn.Module:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(FAMILIES[family]()).eval()
    model.save_pretrained(folder)
    processor = {"size": {"height": size, "width": size}, "image_mean": [0.4] * 3, "image_std": [0.3] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_models_own_last_hidden_state(tmp_path: Path, family: str) -> None:
    size = 32 if family in ("vit", "mae", "siglip", "dinov3") else 56
    model = save(tmp_path, family, size)
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained")
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    x = (images - 0.4) / 0.3
    assert backbone.image_size == (size, size)
    patches = backbone.grid[0] * backbone.grid[1]
    with torch.no_grad():
        if family == "mae":
            model.config.mask_ratio = 0.0
            expected = model(pixel_values=x, noise=torch.arange(4.0).expand(2, -1)).last_hidden_state[:, 1:]
        else:
            expected = model(pixel_values=x).last_hidden_state
            expected = expected.flatten(2).mT if expected.ndim == 4 else expected[:, -patches:]
    features = backbone(images)
    assert features.shape == (2, patches, backbone.dim)
    torch.testing.assert_close(features, expected)
    if family == "dinov2":
        torch.testing.assert_close(backbone.class_token(images), model(pixel_values=x).last_hidden_state[:, 0])


def test_maes_patches_keep_their_places(tmp_path: Path) -> None:
    save(tmp_path, "mae", 32)
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained", layers=(0,), final_norm=False)
    images = torch.zeros(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 16:, :16] = 1.0  # the third of four patches
    difference = (backbone(changed) - backbone(images)).abs().sum(-1)[0]
    assert difference.argmax() == 2
    assert torch.equal(backbone(images), backbone(images))


def test_other_layers_and_other_resolutions(tmp_path: Path) -> None:
    model = save(tmp_path, "siglip", 32)
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained", layers=(0, 2), image_size=(32, 64))
    assert (backbone.grid, backbone.dim) == ((2, 4), 64)
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        own = model(pixel_values=(images - 0.4) / 0.3, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(backbone(images)[..., 32:], own)
    embedding = create_backbone(f"hf/{tmp_path}", "pretrained")
    torch.testing.assert_close(
        embedding.embed(embedding(images[..., :32])), model((images[..., :32] - 0.4) / 0.3).pooler_output
    )


def test_a_two_tower_model_gives_its_vision_tower(tmp_path: Path) -> None:
    text = {**SMALL, "vocab_size": 16, "max_position_embeddings": 8}
    configuration = transformers.SiglipConfig(text_config=text, vision_config=FAMILIES["siglip"]().to_dict())
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(configuration)
    model.save_pretrained(tmp_path)
    options = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained", **options)
    assert (
        backbone.fingerprint()
        == create_backbone(f"hf/{tmp_path}", tmp_path / "model.safetensors", **options).fingerprint()
    )
    torch.testing.assert_close(
        backbone.network.model.state_dict()["post_layernorm.weight"],
        model.vision_model.state_dict()["post_layernorm.weight"],
    )


def test_what_cannot_be_had_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be had"):
        create_backbone(f"hf/{tmp_path}/missing", "pretrained")
    model = transformers.AutoModel.from_config(FAMILIES["vit"]())
    model.save_pretrained(tmp_path)
    with pytest.raises(FAEError, match="pass image_size, mean and std"):
        create_backbone(f"hf/{tmp_path}", "pretrained")
    naflex = transformers.AutoModel.from_config(transformers.Siglip2VisionConfig(**SMALL, patch_size=16))
    naflex.save_pretrained(tmp_path / "naflex")
    with pytest.raises(FAEError, match="NaFlex"):
        create_backbone(f"hf/{tmp_path / 'naflex'}", "pretrained")


def test_a_saved_encoder_needs_no_other_file(tmp_path: Path) -> None:
    from fae_encoder import BackboneConfig, FAEEncoder, FAEEncoderConfig

    save(tmp_path / "model", "dinov2-registers")
    config = FAEEncoderConfig(
        backbone=BackboneConfig(name=f"hf/{tmp_path / 'model'}", weights="pretrained"), channels=4, image_size=56
    )
    encoder = FAEEncoder(config)
    images = torch.rand(1, 3, 56, 56)
    encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "model").rename(tmp_path / "gone")
    assert torch.equal(FAEEncoder.from_pretrained(tmp_path / "encoder").encode(images), encoder.encode(images))
