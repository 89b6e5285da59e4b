"""A small StableDiffusion3Pipeline of diffusers with random weights, in the folder that it saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from text_standins import T5_SIZES, t5_pieces


def sd3_pipeline(folder: Path, t5: bool = True) -> Any:
    """The pipeline, in eval mode; its folder holds the files that a repository of the hub has."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    work = folder.parent / f"{folder.name}-parts"
    ends = {"bos_token_id": 516, "eos_token_id": 517}
    clips = [
        transformers.CLIPTextConfig(
            vocab_size=518,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            projection_dim=projected,
            hidden_act=act,
            pad_token_id=pad,
            **ends,
        )
        for width, projected, act, pad in ((16, 12, "quick_gelu", 517), (24, 20, "gelu", 0))
    ]
    width = 48 if t5 else 4096
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=width,
            caption_projection_dim=48,
            pooled_projection_dim=32,
            pos_embed_max_size=12,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 32, 32),
            latent_channels=16,
            sample_size=64,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=transformers.CLIPTextModelWithProjection(clips[0]),
        text_encoder_2=transformers.CLIPTextModelWithProjection(clips[1]),
        text_encoder_3=_t5_encoder(transformers, width) if t5 else None,
        tokenizer=_clip_tokenizer(transformers, work / "one", "<|endoftext|>"),
        tokenizer_2=_clip_tokenizer(transformers, work / "two", "!"),
        tokenizer_3=transformers.T5TokenizerFast.from_pretrained(t5_pieces(work / "three")) if t5 else None,
    )
    with torch.no_grad():  # larger than as they are made, so that every part shows in the pictures
        for tensor in pipeline.transformer.parameters():
            tensor.copy_(torch.randn_like(tensor) * (tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.3))
        for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
            for tensor in encoder.parameters():
                tensor.copy_(torch.randn_like(tensor) * (tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.3))
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        if getattr(pipeline, name) is not None:
            getattr(pipeline, name).eval()
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _clip_tokenizer(transformers: Any, folder: Path, pad: str) -> Any:
    """CLIP's tokenizer with few merges. CLIP-G's fills up with "!"."""
    folder.mkdir(parents=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    merges = [("p", "h"), ("o", "t"), ("ph", "ot"), ("phot", "o</w>")]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, pad_token=pad, model_max_length=77)


def _t5_encoder(transformers: Any, width: int) -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(**{**T5_SIZES, "d_model": width}))
