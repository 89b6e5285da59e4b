"""Claims about backbones from timm: frozen, on their grid, equal to the library, heads only where exact."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_encoder import create_backbone
from fae_encoder.backbones import BackboneConfig, build_backbone
from fae_encoder.backbones.backbone import FeatureMap, regrid
from fae_encoder.backbones.heads import timm_embedding

VIT = "timm/test_vit"  # 4x4 patches of 16 at 64 pixels, 64 wide, 6 blocks

INCEPTION = pytest.mark.skipif(
    tuple(map(int, timm.__version__.split(".")[:3])) < (1, 0, 31),
    reason="before timm 1.0.31 its InceptionV3 gives no intermediate features",
)

GIVES_MAPS = pytest.mark.skipif(
    not all(
        hasattr(getattr(timm.models, name, None), "forward_intermediates")
        for name in ("CoaT", "ConVit", "GhostNet", "NaFlexVit", "RepGhostNet", "TNT", "Xcit")
    ),
    reason="earlier versions of timm give no intermediate features of some networks",
)


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


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_several_layers_are_averaged_or_summed_each_after_the_final_norm(vit, combine: str) -> None:
    backbone = create_backbone(VIT, image_size=64, layers=(1, -1, 3), combine=combine)
    backbone.load_state_dict(vit.state_dict())
    alone = []
    for layer in backbone.layers:
        one = create_backbone(VIT, image_size=64, layers=(layer,))
        one.load_state_dict(vit.state_dict())
        alone.append(one(images()))
    total = alone[0] + alone[1] + alone[2]
    wanted = total / 3 if combine == "mean" else total
    assert (backbone.dim, backbone.layer_dims) == (64, [64]) and f"({combine})" in repr(backbone)
    torch.testing.assert_close(backbone(images()), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(FAEError, match=rf"exactly one layer's features; .*\({combine}\)"):
        backbone.head(backbone(images()))


def test_layers_of_several_widths_are_not_added() -> None:
    with pytest.raises(FAEError, match=r"the mean of layers .* does not exist: their widths are 128, 256; concatenate"):
        create_backbone("timm/resnet18", image_size=64, layers=(2, 3), combine="mean")


def test_layers_of_several_grids_are_added_on_one() -> None:
    backbone = create_backbone("timm/convnext_atto", image_size=64, layers=(2,), combine="sum", grid=(2, 2))
    assert backbone(images()).shape == (2, 4, backbone.dim)


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


@GIVES_MAPS
@pytest.mark.parametrize(
    "name", ["cait_xxs24_224", "convit_tiny", "xcit_nano_12_p16_224", "ghostnet_050", "mobilenetv5_base"]
)
def test_heads_of_other_kinds_are_refused_in_one_line(name: str) -> None:
    with torch.device("meta"):
        backbone = create_backbone(f"timm/{name}", image_size=224)
        features = torch.zeros(1, backbone.grid[0] * backbone.grid[1], backbone.dim)
    for rest in (backbone.head, backbone.embed):
        with pytest.raises(FAEError, match=r"how \w+ goes on after layer \d+ is not known here"):
            rest(features)


@pytest.mark.parametrize("name", ["vit_pe_core_tiny_patch16_384", "test_vit3"])
def test_attention_pooling_over_prefix_tokens_is_not_done_without_them(name: str) -> None:
    with torch.device("meta"):
        backbone = create_backbone(f"timm/{name}", image_size=384 if "384" in name else 160)
        features = torch.zeros(1, backbone.grid[0] * backbone.grid[1], backbone.dim)
    assert backbone.network.model.num_prefix_tokens == 1
    for rest in (backbone.embed, backbone.head):
        for pool in (None, "map"):
            with pytest.raises(FAEError, match=r"reads its prefix tokens.*pass pool='avg'") as caught:
                rest(features, pool=pool)
            assert "\n" not in str(caught.value)
    assert backbone.embed(features, pool="avg").shape == (1, backbone.dim)


def test_a_mean_over_prefix_tokens_is_not_taken_without_them_unless_asked() -> None:
    torch.manual_seed(0)
    for with_prefix in (True, False):
        model = timm.create_model("test_vit2", global_pool="avg", pool_include_prefix=with_prefix).eval()
        tokens = model.forward_features(images(2, 160, 160))
        patches = FeatureMap(tokens[:, model.num_prefix_tokens :], (10, 10))
        rest = (model, patches, len(model.blocks) - 1, True)
        if with_prefix:
            with pytest.raises(FAEError, match="reads its prefix tokens"):
                timm_embedding(*rest, None)
        else:
            torch.testing.assert_close(timm_embedding(*rest, None), model.forward_head(tokens, pre_logits=True))
        torch.testing.assert_close(timm_embedding(*rest, "avg"), model.fc_norm(patches.tokens_BNC.mean(1)))


@GIVES_MAPS
@pytest.mark.parametrize(
    ("name", "settings", "grid"),
    [
        ("xcit_nano_12_p16_224", {"width": 64, "depth": 2, "heads": 2}, (2, 4)),
        ("naflexvit_base_patch16_gap", {"width": 64, "depth": 2, "heads": 2}, (2, 4)),
        ("tnt_s_patch16_224", {}, (2, 4)),
        ("coat_lite_tiny", {}, (1, 2)),  # some of its modules are in two places
    ],
)
def test_networks_that_do_not_say_their_grid_give_it_with_their_maps(name: str, settings: dict, grid) -> None:
    torch.manual_seed(0)
    config = BackboneConfig(name=f"timm/{name}", image_size=(32, 64), layers=(-1, 0), grid=grid, **settings)
    backbone = build_backbone(config)
    pictures = images(2, 32, 64)
    assert backbone.layer_grids[0] == grid
    model, x = backbone.network.model, (pictures - backbone.mean) / backbone.std
    maps = model.forward_intermediates(x, indices=[0, -1], norm=backbone.final_norm, intermediates_only=True)
    features = backbone(pictures)
    own = maps[1].flatten(2).mT
    torch.testing.assert_close(features[..., : own.shape[-1]], own)
    assert features.shape == (2, grid[0] * grid[1], sum(one.shape[1] for one in maps))


def test_weights_with_five_axes_do_not_keep_a_network_from_being_one() -> None:
    with torch.device("meta"):
        backbone = create_backbone("timm/lambda_resnet26t", image_size=256)
    assert any(parameter.ndim == 5 for parameter in backbone.parameters())
    assert (backbone.grid, backbone.dim) == ((8, 8), 2048)


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
        with pytest.raises(InvalidFile, match=message) as caught:
            create_backbone(VIT, tmp_path / file)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidFile, match="could not be loaded from"):
        create_backbone("timm/resnet18", tmp_path / "w.pth")


def test_a_fingerprint_follows_the_numbers_and_not_the_layout(vit) -> None:
    other = create_backbone(VIT, image_size=64)
    assert other.fingerprint() != vit.fingerprint()
    other.load_state_dict(vit.state_dict())
    assert other.fingerprint() == vit.fingerprint()
    conv = create_backbone("timm/resnet18", image_size=32)
    before = conv.fingerprint()
    assert conv.to(memory_format=torch.contiguous_format).fingerprint() == before


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"layers": ()}, "layers"),
        ({"layers": 3}, "layers"),
        ({"layers": "3"}, "layers"),
        ({"combine": "max"}, "combine"),
        ({"grid": (0, 1)}, "grid"),
        ({"image_size": 64.5}, "image_size"),
        ({"std": (0, 1, 1)}, "std"),
    ],
)
def test_choices_that_cannot_be_are_one_line(wrong: dict, field: str) -> None:
    with pytest.raises(FAEError, match=f"backbone: {field}") as caught:
        create_backbone("timm/resnet18", **wrong)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: 2 * x - 1, r"must lie in \[0, 1\], got \[-"),
        (lambda x: 255 * x, r"divide by 255"),
        (lambda x: (x - 0.45) / 0.225, "encoders normalise by themselves"),
        (lambda x: x / 0, "got"),
        (lambda x: x[0], "add the batch's axis"),
        (lambda x: x.permute(0, 2, 3, 1), "channels come before"),
        (lambda x: x.numpy(), "array"),
        (lambda x: ["a.png"], "str"),
        (lambda x: x.to("meta"), "images are on meta, the network is on cpu"),
    ],
)
def test_what_is_no_batch_of_images_in_the_unit_range_is_refused_at_every_door(vit, wrong, message: str) -> None:
    from fae_encoder import FAEEncoder

    encoder = FAEEncoder.from_preset("fae-tiny")
    doors = (vit, vit.feature_maps, vit.class_token, encoder.encode, encoder.posterior, encoder.features)
    for door in doors:
        with pytest.raises(FAEError, match=message) as caught:
            door(wrong(images()))
        assert "\n" not in str(caught.value)


def test_pictures_of_any_common_kind_are_what_they_look_like(vit) -> None:
    pixels = (images() * 255).round().to(torch.uint8)
    expected = vit(pixels.float() / 255)
    pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]
    for given in (pixels, pictures, list(pixels.float() / 255), pixels.permute(0, 2, 3, 1).numpy()):
        torch.testing.assert_close(vit(given), expected)
    torch.testing.assert_close(vit(pictures[0]), expected[:1])


def test_images_of_any_floating_type_give_the_features_of_fp32(vit) -> None:
    exact = (images() * 255).round() / 255
    for size in (64, 48):
        pictures = exact[..., :size, :size]
        torch.testing.assert_close(vit(pictures.double()), vit(pictures))
        torch.testing.assert_close(vit(pictures.bfloat16()), vit(pictures.bfloat16().float()))
        torch.testing.assert_close(vit(pictures.half()), vit(pictures.half().float()))


def test_preprocessing_compiles_to_one_graph(vit) -> None:
    compiled = torch.compile(vit.preprocess, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images()), vit.preprocess(images()))


def test_mean_and_std_come_back_from_half_precision_as_they_were() -> None:
    backbone = create_backbone("timm/resnet18", image_size=32)
    mean, std = backbone.mean.clone(), backbone.std.clone()
    for cast in (backbone.bfloat16().float(), backbone.half().float(), backbone.to(torch.bfloat16)):
        assert torch.equal(cast.mean, mean) and torch.equal(cast.std, std)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_small_patch14_dinov2", 256, "256x256.*last 4 rows.*252 and 266"),
        ("vit_small_patch14_dinov2", (252, 256), "252x256.*last 4 columns.*252 and 266"),
        ("vit_tiny_patch16_224", 250, "last 10 rows.*240 and 256"),
        ("vit_tiny_patch16_224", 10, "cannot take|16"),
        ("convnext_atto", 226, "last 2 rows.*224 and 228"),
        ("swin_tiny_patch4_window7_224", 226, "last 2 rows.*224 and 228"),
        pytest.param("inception_v3", 225, "last 4 rows", marks=INCEPTION),
        ("levit_128s", 98, "cannot take images of 98x98"),
        pytest.param("tnt_s_patch16_224", 60, "last 12 rows.*48 and 64", marks=GIVES_MAPS),
    ],
)
def test_sizes_of_which_the_network_would_not_see_every_pixel_are_refused(name: str, size, message: str) -> None:
    with torch.device("meta"), pytest.raises(FAEError, match=message) as caught:
        create_backbone(f"timm/{name}", image_size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch14_dinov2", 252),
        ("resnet18", 225),
        ("convnext_atto", 56),
        pytest.param("inception_v3", 299, marks=INCEPTION),
    ],
)
def test_sizes_of_which_it_sees_all_are_taken(name: str, size: int) -> None:
    with torch.device("meta"):
        assert create_backbone(f"timm/{name}", image_size=size).image_size == (size, size)


def test_the_last_row_and_column_of_what_is_taken_count() -> None:
    torch.manual_seed(0)
    for name, size in (("vit_tiny_patch16_224", 48), ("convnext_atto", 44), ("mobilenetv3_small_050", 49)):
        backbone = create_backbone(f"timm/{name}", image_size=size)
        for parameter in backbone.parameters():  # a fresh network's residual branches begin at zero
            if parameter.ndim == 1:
                torch.nn.init.uniform_(parameter, 0.5, 1.0)
        whole = images(1, size, size)
        for edge in ((..., slice(-1, None), slice(None)), (..., slice(-1, None))):
            other = whole.clone()
            other[edge] = 1 - other[edge]
            assert not torch.equal(backbone(whole), backbone(other))


def test_the_filter_that_resizes_images_is_the_networks_own_or_chosen() -> None:
    with torch.device("meta"):
        own = {n: create_backbone(f"timm/{n}").config.interpolation for n in ("resnet18.tv_in1k", "resnet18.a1_in1k")}
    assert own == {"resnet18.tv_in1k": "bilinear", "resnet18.a1_in1k": "bicubic"}
    smooth = create_backbone("timm/resnet18", image_size=32, interpolation="bilinear")
    large = images(1, 96, 96)
    wanted = torch.nn.functional.interpolate(large, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(smooth.preprocess(large) * smooth.std + smooth.mean, wanted)


HEADS = {"dino_head.mlp.0.weight": torch.zeros(2, 2), "ibot_head.last_layer.weight": torch.zeros(2, 2)}


def prefixed(state: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": value for name, value in state.items()}


def chunked(state: dict) -> dict:
    """Block names as DINOv2 writes them for FSDP."""
    return {
        n.replace("blocks.", f"blocks.{int(n.split('.')[1]) // 3}.") if n[:7] == "blocks." else n: v
        for n, v in state.items()
    }


LAYOUTS = {
    "DINOv2's teacher": lambda s: {"teacher": {**prefixed(s, "backbone."), **HEADS}},
    "DINO's whole checkpoint": lambda s: {
        "student": prefixed({n: torch.zeros_like(v) for n, v in s.items()}, "module.backbone."),
        "teacher": {**prefixed(s, "backbone."), "head.mlp.0.weight": torch.zeros(2, 2)},
        "epoch": 3,
        "dino_loss": {"center": torch.zeros(1, 2)},
        "args": argparse.Namespace(arch="vit_tiny"),
    },
    "DINOv2's last state": lambda s: {
        "model": {
            **prefixed(chunked(s), "teacher.backbone."),
            **prefixed({n: torch.zeros_like(v) for n, v in s.items()}, "student.backbone."),
            **prefixed(HEADS, "teacher."),
            **prefixed(HEADS, "student."),
            "dino_loss.center": torch.zeros(1, 2),
        }
    },
    "DINOv3's averaged model": lambda s: {
        "model": {
            **prefixed(s, "model_ema.backbone."),
            **prefixed(s, "student.backbone."),
            **prefixed(s, "gram_teacher.backbone."),
        }
    },
    "a student alone": lambda s: {"student": {**prefixed(s, "module.backbone."), **prefixed(HEADS, "module.")}},
    "timm's averaged weights": lambda s: {
        "state_dict": {n: torch.zeros_like(v) for n, v in s.items()},
        "state_dict_ema": s,
    },
    "compiled under FSDP": lambda s: {
        "model": {n.replace("blocks.", "blocks._fsdp_wrapped_module."): v for n, v in prefixed(s, "_orig_mod.").items()}
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_of_self_distillation_are_read(tmp_path: Path, layout: str, caplog) -> None:
    torch.manual_seed(0)
    whole = create_backbone("timm/vit_tiny_patch16_224", image_size=32).network.model
    state = {n: v for n, v in whole.state_dict().items() if not n.startswith("head.")}
    torch.save(LAYOUTS[layout](state), tmp_path / "c.pth")
    loaded = create_backbone("timm/vit_tiny_patch16_224", tmp_path / "c.pth", image_size=32).network.model
    assert loaded.num_classes == 0
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in state.items())
    assert ("left out" in caplog.text) == (layout not in ("compiled under FSDP", "timm's averaged weights"))


def test_a_checkpoint_with_something_unknown_or_something_lacking_is_refused(tmp_path: Path) -> None:
    state = create_backbone("timm/vit_tiny_patch16_224", image_size=32).network.model.state_dict()
    cases = {
        "unknown": (
            {**prefixed(state, "backbone."), "decoder.weight": torch.zeros(2)},
            "decoder.weight beside backbone",
        ),
        "lacking": ({n: v for n, v in state.items() if not n.startswith("blocks.3.")}, "could not be loaded"),
        "headless and lacking": (
            {n: v for n, v in state.items() if not n.startswith(("blocks.3.", "head."))},
            "could not be loaded",
        ),
        "extra": ({**state, "more": torch.zeros(2)}, "could not be loaded"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(InvalidFile, match=message) as caught:
            create_backbone("timm/vit_tiny_patch16_224", tmp_path / f"{name}.pth", image_size=32)
        assert "\n" not in str(caught.value)
