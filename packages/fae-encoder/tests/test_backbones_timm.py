"""Claims about backbones from timm: frozen, on their grid, equal to the library's own forward, honest about heads."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fae_core.errors import CheckpointError, FAEError, UnknownName
from fae_encoder import create_backbone
from fae_encoder.backbones.backbone import FeatureMap, regrid

VIT = "timm/test_vit"  # 4x4 patches of 16 at 64 pixels, 64 wide, 6 blocks


def images(count: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return create_backbone(VIT, image_size=64)


def test_features_are_the_networks_patch_tokens_without_prefix(vit) -> None:
    own = vit.network.model.forward_features((images() - vit.mean) / vit.std)
    features = vit(images())
    assert features.shape == (2, 16, 64)
    assert vit.grid == (4, 4)
    assert torch.equal(features, own[:, vit.network.model.num_prefix_tokens :])


def test_the_class_token_can_be_had_beside_the_features(vit) -> None:
    own = vit.network.model.forward_features((images() - vit.mean) / vit.std)
    assert torch.equal(vit.class_token(images()), own[:, 0])
    with pytest.raises(FAEError, match="no class token"):
        create_backbone("timm/resnet18", image_size=32).class_token(images(1, 32, 32))


def test_layers_and_final_norm_are_explicit(vit) -> None:
    x = (images() - vit.mean) / vit.std
    model = vit.network.model
    raw = model.forward_intermediates(x, indices=[1, 4], output_fmt="NLC", intermediates_only=True)
    both = create_backbone(VIT, image_size=64, layers=(4, -5), final_norm=False)
    both.load_state_dict(vit.state_dict())
    assert both.layers == (4, 1)
    assert both.dim == 128
    assert torch.equal(both(images()), torch.cat([raw[1], raw[0]], dim=-1))
    normed = create_backbone(VIT, image_size=64, layers=(1,))
    normed.load_state_dict(vit.state_dict())
    assert torch.equal(normed(images()), model.norm(raw[0]))
    assert (normed.final_norm, both.final_norm) == (True, False)


def test_it_is_frozen_and_stays_in_eval_mode_but_passes_gradients_to_images(vit) -> None:
    assert not any(p.requires_grad for p in vit.parameters())
    assert not any(module.training for module in vit.train().modules())
    pictures = images().requires_grad_()
    vit(pictures).sum().backward()
    assert pictures.grad.abs().sum() > 0
    assert not vit(images()).requires_grad


def test_images_of_other_sizes_are_resized_as_pillow_does(vit) -> None:
    pixels = (images(1, 160, 160)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    smooth = Image.fromarray(pixels).resize((40, 40), Image.Resampling.BOX).resize((160, 160), Image.Resampling.BICUBIC)
    reference = np.asarray(smooth.resize((64, 64), Image.Resampling.BICUBIC), np.float32) / 255
    tensor = torch.from_numpy(np.array(smooth)).permute(2, 0, 1).float()[None] / 255
    seen = vit.preprocess(tensor) * vit.std + vit.mean
    # Pillow rounds to 8 bits after each of its two passes.
    torch.testing.assert_close(seen[0].permute(1, 2, 0), torch.from_numpy(reference), atol=1.1 / 255, rtol=0)


def test_non_square_images_work_or_are_refused_with_a_reason(vit) -> None:
    wide = create_backbone(VIT, image_size=(64, 128))
    assert (wide.image_size, wide.grid) == ((64, 128), (4, 8))
    assert wide(images(1, 96, 192)).shape == (1, 32, 64)
    with pytest.raises(FAEError, match=r"64x128, the backbone sees 64x64: another aspect ratio"):
        vit(images(1, 64, 128))
    with pytest.raises(FAEError, match="floats in"):
        vit(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/convnext_atto", "timm/mobilenetv3_small_050"])
def test_the_rest_of_a_conv_net_runs_from_any_stage_to_its_own_logits(name: str) -> None:
    torch.manual_seed(0)
    last = create_backbone(name, image_size=64)
    whole = last.network.model(last.preprocess(images()))
    for layer in (last.layers[0], last.layers[0] - 2, 0):
        backbone = create_backbone(name, image_size=64, layers=(layer,))
        backbone.load_state_dict(last.state_dict())
        torch.testing.assert_close(backbone.head(backbone(images())), whole, atol=1e-4, rtol=1e-4)


def test_heads_that_cannot_be_had_say_why(vit) -> None:
    two = create_backbone("timm/resnet18", image_size=64, layers=(2, 3))
    with pytest.raises(FAEError, match="exactly one layer"):
        two.head(two(images()))
    pooled = create_backbone("timm/resnet18", image_size=64, layers=(2,), grid=(2, 2))
    with pytest.raises(FAEError, match="own grid"):
        pooled.head(pooled(images()))
    with pytest.raises(FAEError, match="pass pool='avg'"):
        create_backbone("timm/vit_tiny_patch16_224", image_size=32).head(torch.zeros(1, 4, 192))
    early = create_backbone(VIT, image_size=64, layers=(2,))
    with pytest.raises(FAEError, match="prefix tokens"):
        early.head(early(images()), pool="avg")
    with pytest.raises(FAEError, match="expected features"):
        vit.head(torch.zeros(1, 3, 64))
    with torch.device("meta"):
        dino = create_backbone("timm/vit_small_patch14_dinov2.lvd142m", image_size=28)
    with pytest.raises(FAEError, match="without a classifier"):
        dino.head(torch.zeros(1, 4, 384, device="meta"), pool="avg")


def test_a_transformers_classifier_reads_the_mean_of_patches_where_asked() -> None:
    backbone = create_backbone("timm/vit_tiny_patch16_224", image_size=32)
    features = backbone(images(2, 32, 32))
    model = backbone.network.model
    assert torch.equal(backbone.head(features, pool="avg"), model.head(features.mean(1)))
    assert torch.equal(backbone.embed(features, pool="avg"), features.mean(1))


def test_siglips_attention_pooling_gives_its_own_embedding() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("timm/vit_base_patch16_siglip_256.v2_webli", image_size=32)
    own = backbone.network.model(backbone.preprocess(images(2, 32, 32)))
    torch.testing.assert_close(backbone.embed(backbone(images(2, 32, 32))), own)


def test_maps_of_several_strides_meet_on_one_grid() -> None:
    backbone = create_backbone("timm/resnet18", image_size=64, layers=(1, 3), grid=(8, 8))
    fine, coarse = backbone.feature_maps(images())
    assert (fine.grid, coarse.grid) == ((16, 16), (4, 4))
    features = backbone(images()).transpose(1, 2).unflatten(2, (8, 8))
    fine_map = fine.tokens_BNC.transpose(1, 2).unflatten(2, (16, 16))
    torch.testing.assert_close(features[:, :64, 3, 5], fine_map[:, :, 6:8, 10:12].mean((2, 3)))
    ramp = torch.arange(4.0).view(1, 4, 1)  # a 2x2 map of 0 1 / 2 3
    up = regrid(FeatureMap(ramp, (2, 2)), (4, 4)).view(4, 4)
    assert up[0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_weights_come_from_files_and_nothing_is_unpickled(vit, tmp_path: Path) -> None:
    state = vit.network.model.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        loaded = create_backbone(VIT, tmp_path / file, image_size=64)
        assert loaded.fingerprint() == vit.fingerprint()
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(print, protocol=2))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:5000])
    for file, message in (
        ("evil.pth", "more than tensors"),
        ("cut.safetensors", "not a readable checkpoint"),
        ("no.pth", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            create_backbone(VIT, tmp_path / file)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="could not be loaded from"):
        create_backbone("timm/resnet18", tmp_path / "w.pth")


def test_a_fingerprint_follows_the_numbers_and_not_the_layout(vit) -> None:
    other = create_backbone(VIT, image_size=64)
    assert other.fingerprint() != vit.fingerprint()
    other.load_state_dict(vit.state_dict())
    assert other.fingerprint() == vit.fingerprint()
    conv = create_backbone("timm/resnet18", image_size=32)
    before = conv.fingerprint()
    assert conv.to(memory_format=torch.contiguous_format).fingerprint() == before


def test_wrong_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean resnet18"):
        create_backbone("timm/resnet18x")
    with pytest.raises(FAEError, match="a backbone is named"):
        create_backbone("resnet18")
    with pytest.raises(FAEError, match="layer 9 does not exist"):
        create_backbone("timm/resnet18", layers=(9,))
    with pytest.raises(FAEError, match="no pip package"):
        create_backbone("timm/resnet18", "pip")


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("timm/vit_giant_patch14_dinov2.lvd142m", 224, (16, 16)),
        ("timm/vit_giantopt_patch16_siglip_384.v2_webli", None, (24, 24)),
    ],
)
def test_the_papers_backbones_cost_nothing_on_meta(name: str, size: int | None, grid: tuple[int, int]) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name, "pretrained", image_size=size)
    assert (backbone.grid, backbone.dim) == (grid, 1536)
    assert sum(p.numel() for p in backbone.parameters()) > 1.1e9


def test_features_without_the_norms_scale_and_shift_are_the_plain_norms(vit) -> None:
    """RAE's features: normalised by LayerNorm, not scaled or shifted by what it learned."""
    with torch.no_grad():
        vit.network.model.norm.weight.uniform_(0.5, 2.0)
        vit.network.model.norm.bias.uniform_(-1.0, 1.0)
    plain = create_backbone(VIT, image_size=64, norm_affine=False)
    state = {k: v for k, v in vit.state_dict().items() if "model.norm." not in k}
    plain.load_state_dict(state, strict=False)
    weight, bias = vit.network.model.norm.weight, vit.network.model.norm.bias
    torch.testing.assert_close(plain(images()), (vit(images()) - bias) / weight, atol=1e-5, rtol=1e-4)
    with pytest.raises(FAEError, match="norm_affine: false"):
        plain.embed(plain(images()), pool="avg")
    with pytest.raises(FAEError, match="no final norm"):
        create_backbone("timm/resnet18", image_size=32, norm_affine=False)
