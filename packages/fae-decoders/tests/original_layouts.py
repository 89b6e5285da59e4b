"""diffusers' models as oracles, and their weights under the names of the originals that diffusers converted."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

_LDM = (
    (r"\bmid_block\.resnets\.0\.", "mid.block_1."),
    (r"\bmid_block\.resnets\.1\.", "mid.block_2."),
    (r"\bmid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\bdown_blocks\.", "down."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.downsamplers\.0\.", ".downsample."),
    (r"\.upsamplers\.0\.", ".upsample."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\bconv_norm_out\.", "norm_out."),
)


def jittered(model: nn.Module) -> nn.Module:
    """The model with weights that leave nothing at its initial value, where biases are 0 and scales 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def autoencoder_kl(**options: object):
    """diffusers' AutoencoderKL, with attention beside every residual block of the levels in `attention`."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")
    widths, attention = options.pop("widths"), options.pop("attention", ())
    kinds = [("Attn" if level in attention else "") for level in range(len(widths))]
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        down_block_types=tuple(f"{kind}DownEncoderBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)),
        block_out_channels=widths,
        norm_num_groups=32,
        **options,
    )
    return jittered(model)


def in_ldm_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An AutoencoderKL's weights as LDM names them: projections are convolutions, levels of both halves from fine."""
    levels = 1 + max(int(found[1]) for found in (re.search(r"up_blocks\.(\d+)", name) for name in state) if found)
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"\bup_blocks\.(\d+)\.", lambda found: f"up.{levels - 1 - int(found[1])}.", name)
        for theirs, ldm in _LDM:
            name = re.sub(theirs, ldm, name)
        is_projection = re.search(r"\.(?:q|k|v|proj_out)\.weight$", name)
        renamed[name] = value[..., None, None] if is_projection else value
    return renamed


def autoencoder_rae(**options: object):
    """diffusers' AutoencoderRAE at small size."""
    diffusers = pytest.importorskip("diffusers", minversion="0.37", reason="diffusers is an optional extra")
    torch.manual_seed(0)
    sizes = {
        "encoder_hidden_size": 64,
        "encoder_num_hidden_layers": 2,
        "decoder_hidden_size": 48,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 96,
    }
    return jittered(diffusers.AutoencoderRAE(**{**sizes, **options}))


def in_rae_layout(model) -> dict[str, Tensor]:
    """An AutoencoderRAE's weights as RAE's own code names them, with its table of positions."""
    renamed = {"decoder.decoder_pos_embed": model.decoder.decoder_pos_embed}
    for name, value in model.state_dict().items():
        if name.startswith("encoder."):
            name = f"encoder.encoder.{name.removeprefix('encoder.')}"
        elif not name.startswith("decoder."):
            continue
        for theirs, rae in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            name = name.replace(f".attention.{theirs}.", f".attention.attention.{rae}.")
        renamed[name.replace(".attention.to_out.0.", ".attention.output.dense.")] = value
    return renamed
