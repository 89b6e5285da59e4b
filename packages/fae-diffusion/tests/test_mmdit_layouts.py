"""MMDiT checkpoints of SD3, SD3.5 and diffusers: numbers of diffusers' model, names, what is inferred and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.testing import shared_folder
from fae_diffusion import MMDiT, MMDiTConfig, TextCondition
from fae_diffusion.text.encoder import TextEncoder

FORWARD = {"atol": 5e-5, "rtol": 0}
DIFFUSERS = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 20,
    "caption_projection_dim": 48,
    "pooled_projection_dim": 24,
    "out_channels": 4,
    "pos_embed_max_size": 6,
}


def randomised(model: Any) -> Any:
    torch.manual_seed(0)
    tables = [value for name, value in model.named_buffers() if "pos_embed" in name]
    with torch.no_grad():
        for tensor in [*model.parameters(), *tables]:
            tensor.copy_(torch.randn_like(tensor) * (tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.3))
    return model.eval()


def inputs(channels: int = 4) -> tuple[torch.Tensor, torch.Tensor, TextCondition]:
    torch.manual_seed(1)
    text = TextCondition(torch.randn(2, 5, 20), pooled=torch.randn(2, 24))
    return torch.randn(2, channels, 8, 8), torch.tensor([0.2, 0.9]), text


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qk_norm": "rms_norm"},
        {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
        {"qk_norm": "layer_norm", "dual_attention_layers": (1,)},
        {"patch_size": 1, "pos_embed_max_size": 8},
        {"in_channels": 16, "out_channels": None, "num_layers": 1},
        {"num_attention_heads": 4, "attention_head_dim": 12},
    ],
)
def test_a_checkpoint_of_diffusers_gives_its_numbers(options: dict[str, Any]) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    original = randomised(diffusers.SD3Transformer2DModel(**{**DIFFUSERS, **options}))
    model = MMDiT.from_official(original.state_dict(), dict(original.config))
    z, t, text = inputs(model.spec.channels)
    wanted = original(z, text.tokens, text.pooled, 1000 * t, return_dict=False)[0]
    torch.testing.assert_close(model(z, t, text), wanted, **FORWARD)


@torch.no_grad()
@pytest.mark.parametrize(
    ("saved", "options", "weights"),
    [
        ({"max_shard_size": "100KB"}, "", "*-of-*.safetensors"),
        ({"max_shard_size": "100KB", "variant": "fp16"}, "--variant fp16", "*fp16*-of-*"),
        ({"variant": "fp16"}, "", "*.fp16.safetensors"),
        ({"safe_serialization": False}, "", "*.bin"),
    ],
)
def test_the_command_reads_a_folder_of_diffusers(saved: dict, options: str, weights: str, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    original = randomised(diffusers.SD3Transformer2DModel(**DIFFUSERS))
    original.save_pretrained(tmp_path / "pipeline" / "transformer", **saved)
    assert list((tmp_path / "pipeline" / "transformer").glob(weights))
    invoke(f"import mmdit {tmp_path}/pipeline {options} --out {tmp_path}/mmdit".split())
    z, t, text = inputs()
    wanted = original(z, text.tokens, text.pooled, 1000 * t, return_dict=False)[0]
    torch.testing.assert_close(MMDiT.from_pretrained(tmp_path / "mmdit")(z, t, text), wanted, **FORWARD)


def test_options_of_a_file_are_not_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidFile, match="leave the section out"):
        invoke(f"import mmdit {tmp_path} --section ema --out {tmp_path}/out".split())
    torch.save({"w": torch.zeros(1)}, tmp_path / "mmdit.pt")
    with pytest.raises(InvalidFile, match="leave the variant out"):
        invoke(f"import mmdit {tmp_path}/mmdit.pt --variant fp16 --out {tmp_path}/out".split())


def sd3_state(model: MMDiT) -> dict[str, torch.Tensor]:
    """Our weights under the names of SD3's own files, written out by hand."""
    names = {
        "positions": "pos_embed",
        "patch_embedding.": "x_embedder.proj.",
        "time_embedding.": "t_embedder.",
        "pooled_embedding.": "y_embedder.mlp.",
        "text_embedding.": "context_embedder.",
        "registers": "register",
        "final_modulation.": "final_layer.adaLN_modulation.1.",
        "final.": "final_layer.linear.",
    }
    inside = {
        "blocks.": "joint_blocks.",
        ".text.": ".context_block.",
        ".image.": ".x_block.",
        ".own_attention.q_norm.": ".attn2.ln_q.",
        ".own_attention.k_norm.": ".attn2.ln_k.",
        ".own_attention.": ".attn2.",
        ".q_norm.": ".attn.ln_q.",
        ".k_norm.": ".attn.ln_k.",
        "_block.qkv.": "_block.attn.qkv.",
        "_block.proj.": "_block.attn.proj.",
        ".modulation.": ".adaLN_modulation.1.",
        ".mlp.up.": ".mlp.fc1.",
        ".mlp.down.": ".mlp.w2." if model.config.swiglu else ".mlp.fc2.",
    }
    state = {}
    for ours, tensor in model.state_dict().items():
        if ours.startswith("null_"):
            continue
        start = next((start for start in names if ours.startswith(start)), None)
        name = ours if start is None else names[start] + ours.removeprefix(start)
        for mine, theirs in inside.items() if start is None else ():
            name = name.replace(mine, theirs)
        if ours == "positions":
            tensor = tensor.flatten(0, 1)[None]
        if ours == "patch_embedding.weight":
            tensor = tensor.unflatten(1, (model.spec.channels, model.config.patch_size, -1))
        if ".mlp.gate_up." in name:
            halves = tensor.chunk(2)
            state |= {
                name.replace(".gate_up.", f".{part}."): half for part, half in zip(("w1", "w3"), halves, strict=True)
            }
            continue
        state[name] = tensor
    return state


def sd3(**fields: Any) -> MMDiT:
    """SD3's rule of sizes (64 wide heads), with its pooled text and 1000 t."""
    sizes = {"patch_size": 2, "width": 128, "depth": 2, "heads": 2, "text_width": 20, "pooled_width": 24}
    config = MMDiTConfig(**{**sizes, "swiglu": False, "position_size": 6, "time_scale": 1000.0, **fields})
    return randomised(MMDiT(config, LatentSpec(16, 8, 8, 64, "toy/sd3")))


@torch.no_grad()
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"qk_norm": "rms", "own_attention": (0,)},
        {"qk_norm": "layer", "own_attention": (0, 1)},
        {"swiglu": True},
        {"wo_shift": True},
        {"registers": 3, "qkv_bias": False},
        {"mlp_ratio": 2.0, "learn_sigma": True},
    ],
)
def test_a_file_of_sd3_needs_no_arguments(fields: dict[str, Any]) -> None:
    """Of its networks the transformer is taken; options are seen in the weights; time is scaled as SD3's."""
    model = sd3(**fields)
    state = {f"model.diffusion_model.{name}": value for name, value in sd3_state(model).items()}
    random = torch.get_rng_state()
    read = MMDiT.from_official({**state, "first_stage_model.decoder.conv_in.weight": torch.zeros(3)}, {})
    assert torch.equal(torch.get_rng_state(), random)  # nothing is drawn that a file replaces
    z, t, text = inputs(16)
    assert torch.equal(read(z, t, text), model(z, t, text))
    assert read.spec.shape == (16, 12, 12) and read.spec.mean == (0.0609,) * 16
    same = MMDiT.from_official(sd3_state(model), {"input_size": None, "pos_embed_max_size": 6, "verbose": False})
    assert torch.equal(same(z, t, text), model(z, t, text))


@torch.no_grad()
def test_the_prefix_changes_no_number_of_repa_s_model() -> None:
    case = torch.load(shared_folder("cases", "parity", "repa_mmdit_A.pt"), weights_only=True)
    state = {f"model.diffusion_model.{name}": value for name, value in case["state_dict"].items()}
    given = case["inputs"]
    for config in (case["config"], {"encoder_depth": 1, "z_dims": [24], "projector_dim": 32}):
        model = MMDiT.from_official(state, config)
        ours = model(given["x"], given["t"], given["context"])
        torch.testing.assert_close(ours, case["outputs"]["forward"], **FORWARD)
        assert model.config.time_scale == 1.0


@torch.no_grad()
def test_the_null_prompt_of_a_checkpoint_is_its_encoder_s(make_t5: Callable[..., Path]) -> None:
    """It is in no checkpoint; without it guidance would lead away from a token of zeros."""
    folder = str(make_t5())
    model = sd3(pooled_width=None, text_width=16)
    state, spec = sd3_state(model), model.spec
    encoder = {"name": folder, "max_length": 12, "mask_padding": False, "dtype": "fp32"}
    read = MMDiT.from_official(state, {}, spec=spec, text_encoder=encoder)
    null = TextEncoder(folder, max_length=12, mask_padding=False, dtype=torch.float32).encode([""])
    assert read.config.null_length == 12 and bool(read.null_mask.all())
    assert torch.equal(read.null_tokens, null.tokens)
    z = read.sample(["a b"], random=SlotRandom(0, range(1)), steps=2, guidance=3.0)
    text = TextEncoder(folder, max_length=12, mask_padding=False, dtype=torch.float32).encode(["a b"])
    by_hand = MMDiT.from_official(state, {}, spec=spec, null_length=12)
    by_hand.set_null(null)
    assert torch.equal(z, by_hand.sample(text, random=SlotRandom(0, range(1)), steps=2, guidance=3.0))
    assert read.config.text_encoder is not None and read.config.text_encoder.fingerprint
    with pytest.raises(FAEError, match="16 wide"):
        MMDiT.from_official(sd3_state(sd3(pooled_width=None)), {}, spec=spec, text_encoder=encoder)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"num_layer": 3}, UnknownName, "did you mean num_layers"),
        ({"qk_norm": "fp32_layer_norm"}, UnknownName, "rms_norm"),
        ({**DIFFUSERS, "num_layers": 4}, InvalidFile, "lacks blocks"),
        ({"attention_head_dim": 10}, InvalidFile, "not the width 48"),
        ({}, InvalidFile, "not the width 48"),
        ({"num_attention_heads": 4, "attention_head_dim": 16}, InvalidFile, "not the width 48"),
    ],
)
def test_settings_of_diffusers_that_do_not_fit_are_named(config: dict[str, Any], error: type, message: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    state = diffusers.SD3Transformer2DModel(**DIFFUSERS).state_dict()
    with pytest.raises(error, match=message):
        MMDiT.from_official(state, config)


def test_a_part_of_attention_that_is_missing_is_named() -> None:
    state = {"transformer_blocks.0.attn.to_q.weight": torch.zeros(4, 4)}
    with pytest.raises(InvalidFile, match=r"lacks joint_blocks.0.x_block.attn.to_k.weight"):
        MMDiT.from_official(state, {})


def test_attention_of_image_tokens_alone_is_checked_in_the_settings() -> None:
    for fields, message in (({"own_attention": (4,)}, "of 4"), ({"own_attention": (0,), "wo_shift": True}, "wo_shift")):
        with pytest.raises(ValueError, match=message):
            MMDiTConfig(**fields)
