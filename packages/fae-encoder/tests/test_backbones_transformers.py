"""Claims about backbones from transformers: small random models of each family, loaded from a folder."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fae_core.errors import FAEError, InvalidFile
from fae_encoder import create_backbone

transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
FAMILIES = {
    "dinov2": lambda: transformers.Dinov2Config(**SMALL, image_size=28, patch_size=14),
    "dinov2-registers": lambda: transformers.Dinov2WithRegistersConfig(**SMALL, image_size=28, patch_size=14),
    "dinov3": lambda: transformers.DINOv3ViTConfig(**SMALL, image_size=32, patch_size=16, num_register_tokens=4),
    "siglip": lambda: transformers.SiglipVisionConfig(**SMALL, image_size=32, patch_size=16),
    "vit": lambda: transformers.ViTConfig(**SMALL, image_size=32, patch_size=16),
    "aimv2": lambda: transformers.Aimv2VisionConfig(**SMALL, image_size=32, patch_size=16),
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
    size = 32 if family in ("vit", "mae", "siglip", "dinov3", "aimv2") else 56
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


PLAIN_COLOURS = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bicubic"}


def yolos() -> transformers.YolosConfig:
    """A model with a class token before the patches and five tokens behind them."""
    return transformers.YolosConfig(**SMALL, image_size=[32, 64], patch_size=16, num_detection_tokens=5)


def test_tokens_behind_the_patches_are_not_taken_for_patches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(yolos()).eval()
    model.save_pretrained(tmp_path)
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained", image_size=(32, 64), **PLAIN_COLOURS)
    images = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = model(pixel_values=images).last_hidden_state
    assert own.shape[1] == 1 + 8 + 5
    features = backbone(images)
    torch.testing.assert_close(features, own[:, 1:9])
    assert torch.equal(copy.deepcopy(backbone)(images), features)
    first = create_backbone(f"hf/{tmp_path}", "pretrained", image_size=(32, 64), **PLAIN_COLOURS).to(torch.bfloat16)
    torch.testing.assert_close(first(images).float(), features, atol=0.1, rtol=0.1)  # found in half precision, too


def sam(folder: Path, hidden_size: int = 32) -> None:
    config = transformers.SamVisionConfig(
        hidden_size=hidden_size, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16,
        output_channels=8, global_attn_indexes=[1], window_size=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.SamVisionModel(config).save_pretrained(folder)


def test_a_map_with_its_channels_last_is_read_as_one(tmp_path: Path) -> None:
    sam(tmp_path)
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained", image_size=64, **PLAIN_COLOURS)
    assert (backbone.grid, backbone.dim) == ((4, 4), 32)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model = transformers.SamVisionModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        own = model(pixel_values=images, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(backbone(images), own.flatten(1, 2))
    sam(tmp_path / "small", hidden_size=4)  # as many channels as rows and columns
    with pytest.raises(FAEError, match=r"makes \(4, 4, 4\) of an image of 64x64: which of these are height") as caught:
        create_backbone(f"hf/{tmp_path / 'small'}", "pretrained", image_size=64, **PLAIN_COLOURS)
    assert "\n" not in str(caught.value)


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


TEXT = {**SMALL, "vocab_size": 16, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
# As they are on the hub: without a pooler, with a prefix, with heads, decoders and text towers, and all with names of
# earlier versions of transformers.
HUB = {
    "ViT classifier": lambda: transformers.ViTForImageClassification(FAMILIES["vit"]()),
    "DINO's ViT": lambda: transformers.ViTModel(FAMILIES["vit"](), add_pooling_layer=False),
    "ViT with a pooler": lambda: transformers.ViTModel(FAMILIES["vit"]()),
    "DeiT": lambda: transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig(**SMALL, image_size=32, patch_size=16)
    ),
    "MAE": lambda: transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            **SMALL,
            image_size=32,
            patch_size=16,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
        )
    ),
    "DINOv2 classifier": lambda: transformers.Dinov2ForImageClassification(FAMILIES["dinov2"]()),
    "DINOv2": lambda: transformers.Dinov2Model(FAMILIES["dinov2"]()),
    "Data2Vec": lambda: transformers.Data2VecVisionForImageClassification(
        transformers.Data2VecVisionConfig(**SMALL, image_size=32, patch_size=16)
    ),
    "SigLIP classifier": lambda: transformers.SiglipForImageClassification(
        transformers.SiglipConfig(text_config=TEXT, vision_config=FAMILIES["siglip"]().to_dict())
    ),
    "CLIP's projection": lambda: transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**SMALL, image_size=32, patch_size=16)
    ),
}
WITHOUT_POOLER = {"ViT classifier", "DINO's ViT", "DeiT"}


@pytest.mark.parametrize("kind", HUB)
def test_checkpoints_of_larger_models_give_their_backbone(tmp_path: Path, kind: str, caplog) -> None:
    torch.manual_seed(0)
    whole = HUB[kind]().eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    whole.save_pretrained(tmp_path)
    size = whole.config.image_size if hasattr(whole.config, "image_size") else 32
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    parts = dict(whole.named_children())
    part = next(
        (parts[name] for name in ("vit", "deit", "dinov2", "data2vec_vision", "vision_model") if name in parts), whole
    )
    noise = {}
    if kind == "MAE":
        part.config.mask_ratio, noise = 0.0, {"noise": torch.arange(4.0).expand(2, -1)}
    outputs: list[torch.Tensor] = []
    with torch.no_grad():
        own = part(pixel_values=images, **noise).last_hidden_state[:, -4:]
        own = part.post_layernorm(own) if kind == "CLIP's projection" else own
    for weights in ("pretrained", tmp_path / "model.safetensors"):
        backbone = create_backbone(f"hf/{tmp_path}", weights, image_size=size, **PLAIN_COLOURS)
        torch.testing.assert_close(backbone(images), own)
        assert backbone.config.classifier == (kind not in WITHOUT_POOLER)
        outputs.append(backbone.fingerprint())
    assert outputs[0] == outputs[1]
    assert ("left out" in caplog.text) == (kind not in ("DINO's ViT", "ViT with a pooler", "DINOv2"))


@pytest.mark.parametrize("include_backbone", [True, False])
def test_an_encoder_of_a_checkpoint_without_a_pooler_is_loaded_as_it_was(
    tmp_path: Path, include_backbone: bool
) -> None:
    from fae_encoder import BackboneConfig, FAEEncoder, FAEEncoderConfig

    HUB["ViT classifier"]().save_pretrained(tmp_path / "model")
    backbone = BackboneConfig(name=f"hf/{tmp_path / 'model'}", weights="pretrained", image_size=32, **PLAIN_COLOURS)
    encoder = FAEEncoder(FAEEncoderConfig(backbone=backbone, channels=4, image_size=32)).eval()
    images = torch.rand(1, 3, 32, 32)
    folder = encoder.save_pretrained(tmp_path / "encoder", include_backbone=include_backbone)
    assert torch.equal(FAEEncoder.from_pretrained(folder).encode(images), encoder.encode(images))


@pytest.mark.parametrize("change", ["layernorm", "attention", "pooled", "more"])
def test_a_checkpoint_that_lacks_what_features_need_is_refused(tmp_path: Path, change: str) -> None:
    HUB["ViT classifier"]().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    if change == "more":
        state["vit.more.weight"] = torch.zeros(2)
    elif change == "pooled":  # SigLIP's is read by `embed`
        shutil.rmtree(tmp_path)
        transformers.SiglipVisionModel(FAMILIES["siglip"]()).save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
    lacking = {"layernorm": "vit.layernorm.", "attention": "vit.encoder.layer.1.attention", "pooled": "head."}
    gone = [name for name in state if name.startswith(lacking.get(change, "nothing"))]
    assert gone or change == "more"
    save_file({n: v for n, v in state.items() if n not in gone}, tmp_path / "model.safetensors", {"format": "pt"})
    for weights in ("pretrained", tmp_path / "model.safetensors"):
        if weights == "pretrained" and change == "more":
            continue  # transformers leaves out what it does not know
        with pytest.raises(InvalidFile, match="unknown more" if change == "more" else "lacks") as caught:
            create_backbone(f"hf/{tmp_path}", weights, image_size=32, **PLAIN_COLOURS)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_had_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="could not be had"):
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


@pytest.mark.parametrize("family", ["aimv2", "yolos", "sam"])
def test_an_encoder_that_was_saved_earlier_keeps_its_features(tmp_path: Path, family: str) -> None:
    from fae_encoder import BackboneConfig, FAEEncoder, FAEEncoderConfig

    size = 64 if family == "sam" else 32
    if family == "sam":
        sam(tmp_path / "model")
    else:
        config = yolos() if family == "yolos" else FAMILIES[family]()
        config.image_size = [size, size] if family == "yolos" else size
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    backbone = BackboneConfig(name=f"hf/{tmp_path / 'model'}", weights="pretrained", image_size=size, **PLAIN_COLOURS)
    encoder = FAEEncoder(FAEEncoderConfig(backbone=backbone, channels=4, image_size=size)).eval()
    earlier = FAEEncoder(
        encoder.config.model_copy(update={"backbone": backbone.model_copy(update={"fingerprint": "as earlier"})})
    ).eval()
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    outputs: list[torch.Tensor] = []
    network = earlier.backbone.network
    network._blocks[-1].register_forward_hook(lambda m, a, out: outputs.append(out))
    features = earlier.features(images)
    own = {
        "aimv2": lambda out: out,  # before its final norm
        "yolos": lambda out: network.norm(out)[:, -4:],
        "sam": lambda out: out.flatten(2).mT,
    }[family](outputs[0])
    torch.testing.assert_close(features, own)
    for number, one in enumerate((encoder, earlier)):
        folder = one.save_pretrained(tmp_path / str(number))
        stored = json.loads((folder / "config.json").read_text())
        assert stored["config"]["backbone"].pop("reading") == (1 if one is earlier else 2)
        if one is earlier:  # as it was written
            (folder / "config.json").write_text(json.dumps(stored))
        loaded = FAEEncoder.from_pretrained(folder)
        assert torch.equal(loaded.features(images), one.features(images))
    assert features.shape != encoder.features(images).shape or not torch.equal(features, encoder.features(images))


PLAIN = {"size": {"height": 32, "width": 32}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
FOLLOWED = {
    "not normalised": {**PLAIN, "do_normalize": False},
    "to [-1, 1] by the factor": {**PLAIN, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    "to [0, 2]": {**PLAIN, "rescale_factor": 1 / 127.5},
    "not rescaled": {**PLAIN, "do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3},
    "neither": {**PLAIN, "do_rescale": False, "do_normalize": False},
    "one size": {**PLAIN, "size": 32},
    "shortest edge": {
        **PLAIN,
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
    },
    "no size": {k: v for k, v in PLAIN.items() if k != "size"} | {"do_resize": False},
    "no mean": {"size": {"height": 32, "width": 32}},
    "CLIP": {**PLAIN, "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32},
    "offset": {
        **PLAIN,
        "image_processor_type": "EfficientNetImageProcessor",
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
        "include_top": False,
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
    },
}
REFUSED = {
    "flipped": ({**PLAIN, "image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}, "BGR"),
    "flipped by its class": (
        {"image_processor_type": "MobileViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        "BGR",
    ),
    "normalised twice": (
        {**PLAIN, "image_processor_type": "EfficientNetImageProcessor", "include_top": True},
        "more than",
    ),
    "cropped": (
        {**PLAIN, "size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
        r"middle 32x32 of 36x36.*image_size \(32\)",
    ),
    "crop_pct": ({**PLAIN, "size": {"shortest_edge": 32}, "crop_pct": 0.875}, r"middle 0\.875.*image_size \(32\)"),
    "cropped alone": ({**PLAIN, "do_resize": False, "do_center_crop": True, "crop_size": 32}, "whatever its size"),
    "Lanczos": ({**PLAIN, "resample": 1}, "filter 1; pass interpolation"),
    "nearest": ({**PLAIN, "resample": 0}, "filter 0; pass interpolation"),
    "grey": ({**PLAIN, "image_mean": [0.5], "image_std": [0.5]}, "three colours|cannot be followed"),
    "unknown flag": ({**PLAIN, "image_processor_type": "NobodysProcessor", "do_sharpen": True}, "do_sharpen"),
    "standard deviation 0": ({**PLAIN, "image_std": [0.0] * 3}, "std"),
}


def with_processor(folder: Path, settings: dict) -> torch.nn.Module:
    model = save(folder, "vit", 32)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **settings})
    )
    return model


@pytest.mark.parametrize("case", FOLLOWED)
@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_are_those_of_the_image_processor(tmp_path: Path, case: str, resample: int) -> None:
    with_processor(tmp_path, {"resample": resample, **FOLLOWED[case]})
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained")
    assert backbone.image_size == (32, 32)
    for side in (32, 96) if FOLLOWED[case].get("do_resize", True) else (32,):
        picture = torch.randint(
            0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(side)
        )
        theirs = processor(images=picture.numpy(), return_tensors="pt")["pixel_values"].float()
        ours = backbone.preprocess(picture.permute(2, 0, 1)[None].float() / 255)
        # A resized image is rounded to 8 bits by the processor and not here.
        rounding = 1e-5 if side == 32 else 1.6 / 255 / float(backbone.std.min())
        torch.testing.assert_close(ours, theirs, atol=rounding, rtol=1e-5)


@pytest.mark.parametrize("case", REFUSED)
def test_processors_that_are_not_followed_are_refused_with_a_way_out(tmp_path: Path, case: str) -> None:
    settings, message = REFUSED[case]
    with_processor(tmp_path, settings)
    with pytest.raises(FAEError, match=message) as caught:
        create_backbone(f"hf/{tmp_path}", "pretrained")
    assert "\n" not in str(caught.value)
    chosen = {"image_size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic"}
    picture = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        create_backbone(f"hf/{tmp_path}", "pretrained", **chosen).preprocess(picture), (picture - 0.5) / 0.25
    )


def test_only_safetensors_are_read_from_a_folder_unless_a_file_is_named(tmp_path: Path) -> None:
    model = with_processor(tmp_path, PLAIN)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidFile, match=r"give its path as the weights") as caught:
        create_backbone(f"hf/{tmp_path}", "pretrained")
    assert "\n" not in str(caught.value)
    named = create_backbone(f"hf/{tmp_path}", tmp_path / "pytorch_model.bin")
    weight = "layernorm.weight"
    assert torch.equal(named.network.model.state_dict()[weight], model.state_dict()[weight])
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(InvalidFile):
        create_backbone(f"hf/{tmp_path}", tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_a_stored_configuration_never_makes_transformers_fetch_code(tmp_path: Path, key: str) -> None:
    from fae_encoder.backbones import BackboneConfig, build_backbone

    with_processor(tmp_path, PLAIN)
    config = create_backbone(f"hf/{tmp_path}", "pretrained").config
    assert "kernels-community" not in json.dumps(config.hf_config)
    foreign = {
        **config.hf_config,
        key: "kernels-community/flash-attn",
        "auto_map": {"AutoModel": "evil/code--model.Model"},
    }
    stored = BackboneConfig(**{**config.model_dump(), "weights": "stored", "hf_config": foreign})
    backbone = build_backbone(stored)
    assert "/" not in str(backbone.network.model.config._attn_implementation)
    assert "evil" not in json.dumps(backbone.config.hf_config)


@pytest.mark.parametrize(
    "hf_config",
    [
        {},
        {"model_type": "nothing"},
        {"model_type": "vit", "hidden_size": "wide"},
        {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/model"},
    ],
)
def test_a_damaged_stored_configuration_is_one_line(hf_config: dict) -> None:
    from fae_encoder.backbones import BackboneConfig, build_backbone

    config = BackboneConfig(
        name="hf/x", weights="stored", hf_config=hf_config, image_size=32, mean=(0, 0, 0), std=(1, 1, 1)
    )
    with pytest.raises(FAEError) as caught:
        build_backbone(config)
    assert "\n" not in str(caught.value)


def test_a_folder_that_asks_for_attention_code_from_the_hub_never_has_it_fetched(tmp_path: Path) -> None:
    with_processor(tmp_path, PLAIN)
    plain = create_backbone(f"hf/{tmp_path}", "pretrained")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attn_implementation": "evil/attention"}))
    backbone = create_backbone(f"hf/{tmp_path}", "pretrained")
    assert "/" not in str(backbone.network.model.config._attn_implementation)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(backbone(images), plain(images))


def test_patches_that_do_not_divide_the_image_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "dinov2", 56)
    with pytest.raises(FAEError, match=r"last 4 rows.*56 and 70"):
        create_backbone(f"hf/{tmp_path}", "pretrained", image_size=60)
    assert create_backbone(f"hf/{tmp_path}", "pretrained", image_size=70).grid == (5, 5)


def test_an_encoders_fingerprint_follows_settings_of_the_network_that_no_weight_shows(tmp_path: Path) -> None:
    from fae_encoder import BackboneConfig, FAEEncoder, FAEEncoderConfig

    with_processor(tmp_path, PLAIN)
    adapter = {"type": "linear"}

    def fingerprint() -> str:
        backbone = BackboneConfig(name=f"hf/{tmp_path}", weights="pretrained")
        torch.manual_seed(0)
        return FAEEncoder(FAEEncoderConfig(backbone=backbone, channels=4, image_size=32, adapter=adapter)).fingerprint()

    found = [fingerprint(), fingerprint()]
    assert found[0] == found[1]
    stored = json.loads((tmp_path / "config.json").read_text())
    for change in ({"layer_norm_eps": 1e-3}, {"hidden_act": "relu"}, {"num_attention_heads": 4}):
        (tmp_path / "config.json").write_text(json.dumps({**stored, **change}))
        found.append(fingerprint())
    assert len(set(found)) == 4
