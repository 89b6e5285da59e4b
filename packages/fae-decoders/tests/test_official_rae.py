"""RAE's tokenizers: encoder, statistics and decoder of both layouts give the originals' latents and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from original_layouts import autoencoder_rae, in_rae_layout

from fae_core import load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile, InvalidSettings
from fae_core.models.load import load_decoder
from fae_core.testing.shared import shared_folder
from fae_decoders import FAE, RAEDecoder
from fae_decoders.imports.official_rae import load_rae, rae_from_official

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
DINO = {"encoder_type": "dinov2", "encoder_input_size": 56, "patch_size": 16}


def numbers(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) + 0.5


CASES = {
    "no statistics": DINO,
    "by position": {**DINO, "latents_mean": numbers(64, 4, 4), "latents_std": numbers(64, 4, 4), "noise_tau": 0.8},
    "by channel": {
        **DINO,
        "latents_mean": numbers(64, 1, 1),
        "latents_std": numbers(1, 64, 1, 1),
        "scaling_factor": 0.7,
    },
    "of tokens": {**DINO, "latents_mean": numbers(64), "latents_std": numbers(16, 64), "reshape_to_2d": False},
    "MAE": {
        "encoder_type": "mae",
        "encoder_patch_size": 16,
        "encoder_input_size": 80,
        "patch_size": 4,
        "encoder_norm_mean": [0.4, 0.5, 0.6],
        "encoder_norm_std": [0.2, 0.3, 0.4],
    },
}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_diffusers_latents_and_pictures_are_met(name: str, tmp_path: Path) -> None:
    original = autoencoder_rae(**CASES[name])
    original.save_pretrained(tmp_path / "original")
    invoke(["import", "rae", str(tmp_path / "original"), "--out", str(tmp_path / "rae")])
    rae, decoder = load_tokenizer(tmp_path / "rae"), load_decoder(tmp_path / "rae")
    for side in (rae.spec.image_size, 112):  # what the encoder resizes, and what it resizes more
        x = torch.rand(2, 3, side, side)
        theirs = original.encode(x).latent
        z = theirs if theirs.ndim == 4 else theirs.transpose(1, 2).reshape(2, *rae.spec.shape)
        torch.testing.assert_close(rae.encode(x), z, **CLOSE)
        torch.testing.assert_close(decoder.decode(z), original.decode(theirs).sample.clamp(0, 1), **CLOSE)
    assert rae.spec.is_positional == (name in ("by position", "of tokens"))


def test_a_folder_in_shards_is_read(tmp_path: Path) -> None:
    original = autoencoder_rae(**CASES["by position"])
    original.save_pretrained(tmp_path / "whole")
    original.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*-of-*.safetensors"))) > 1
    whole, shards = (load_rae(tmp_path / name) for name in ("whole", "shards"))
    assert shards.spec == whole.spec
    found = shards.state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["whole", "decoder"])
def test_raes_own_files_are_met(kind: str, tmp_path: Path) -> None:
    original = autoencoder_rae(**CASES["by position"])
    state = in_rae_layout(original)
    std = original.config.latents_std
    # RAE adds its epsilon to the variance, diffusers to the standard deviation.
    statistics = {"mean": torch.tensor(original.config.latents_mean), "var": (torch.tensor(std) + 1e-5) ** 2 - 1e-5}
    torch.save(statistics, tmp_path / "stat.pt")
    (tmp_path / "config.json").write_text(json.dumps({"decoder_num_attention_heads": 4}))
    options = ["--statistics", str(tmp_path / "stat.pt"), "--config", str(tmp_path / "config.json")]
    if kind == "decoder":
        state = {name.removeprefix("decoder."): v for name, v in state.items() if name.startswith("decoder.")}
        options += ["--encoder", str(encoder_folder(original, tmp_path / "encoder"))]
    torch.save({"ema": state} if kind == "whole" else state, tmp_path / "model.pt")
    invoke(["import", "rae", str(tmp_path / "model.pt"), *options, "--out", str(tmp_path / "rae")])
    rae, x = load_tokenizer(tmp_path / "rae"), torch.rand(2, 3, 64, 64)
    # The original's table is MAE's, which diffusers stretches: the checkpoint's own was stored above.
    z = original.encode(x).latent
    torch.testing.assert_close(rae.encode(x), z, **CLOSE)
    torch.testing.assert_close(rae.decode(z), original.decode(z).sample.clamp(0, 1), **CLOSE)


def encoder_folder(original, folder: Path) -> Path:
    """The encoder as transformers saves it, with a last norm's scale and shift that RAE leaves out."""
    model = type(original.encoder)(original.encoder.config)
    torch.nn.init.uniform_(model.layernorm.weight)
    model.load_state_dict(original.encoder.state_dict(), strict=False)
    model.save_pretrained(folder)
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}
    size = {"size": {"height": 224, "width": 224}, "do_resize": True, "resample": 3}
    processor = {"image_processor_type": "ViTImageProcessor", "do_normalize": True, "do_rescale": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **colours, **size}))
    return folder


@torch.no_grad()
def test_the_original_decoder_of_diffusers_is_met() -> None:
    case = torch.load(shared_folder("cases", "parity", "rae_diffusers_A.pt"), weights_only=True)
    decoder = RAEDecoder.from_official(case["state_dict"], case["config"])
    z = case["inputs"]["z"] * (1 + 1e-5)  # diffusers divides by a standard deviation of 1 + its epsilon
    torch.testing.assert_close(decoder(z.flatten(2).transpose(1, 2)), case["outputs"]["decode"], **CLOSE)


def test_weights_with_names_of_earlier_transformers_are_read() -> None:
    original = autoencoder_rae(**DINO)
    state = original.state_dict()
    renamed = {}
    for name, value in state.items():
        for new, old in (
            ("q", "attention.query"),
            ("k", "attention.key"),
            ("v", "attention.value"),
            ("o", "output.dense"),
        ):
            name = name.replace(f".attention.{new}_proj.", f".attention.{old}.") if "encoder.layer" in name else name
        renamed[name] = value
    assert renamed.keys() != state.keys()
    found, wanted = (rae_from_official(s, original.config) for s in (renamed, state))
    assert isinstance(found, FAE) and isinstance(wanted, FAE)
    assert found.spec.fingerprint == wanted.spec.fingerprint


def test_statistics_need_an_encoder(tmp_path: Path) -> None:
    original = autoencoder_rae(**CASES["by position"])
    decoder = {n: v for n, v in original.state_dict().items() if not n.startswith("encoder.")}
    with pytest.raises(InvalidSettings, match="name the encoder"):
        rae_from_official(decoder, original.config)
    with pytest.raises(InvalidFile, match="diffusers' AutoencoderRAE"):
        (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
        load_rae(tmp_path)
    with pytest.raises(FAEError, match="does not exist"):
        load_rae(tmp_path / "absent.pt")
    with pytest.raises(InvalidFile, match=r"lacks embeddings\.cls_token"):
        state = original.state_dict()
        del state["encoder.embeddings.cls_token"]
        rae_from_official(state, original.config)


@torch.no_grad()
def test_siglips_encoder_is_read_with_its_own_scale_of_images() -> None:
    transformers = pytest.importorskip("transformers", reason="needs fae-encoder[transformers]")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 96}
    config = transformers.SiglipVisionConfig(**sizes, patch_size=16, image_size=64)
    model = transformers.SiglipVisionModel(config).eval()
    decoder = in_rae_layout(autoencoder_rae(**DINO))
    decoder = {name: value for name, value in decoder.items() if name.startswith("decoder.")}
    encoder = {f"encoder.vision_model.{n}": v for n, v in model.state_dict().items() if "post_layernorm" not in n}
    rae = rae_from_official({**encoder, **decoder}, {"decoder_num_attention_heads": 4})
    assert isinstance(rae, FAE) and isinstance(rae.pixel_decoder, RAEDecoder)
    assert rae.pixel_decoder.config.pixel_mean == rae.encoder.backbone.config.mean == (0.5, 0.5, 0.5)
    x = torch.rand(2, 3, 64, 64)  # the fresh model's last norm has the scale 1 and the shift 0
    features = model(pixel_values=2 * x - 1).last_hidden_state
    torch.testing.assert_close(rae.encode(x).flatten(2).transpose(1, 2), features, **CLOSE)
