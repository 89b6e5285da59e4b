"""Small random models and annotations in the layouts of what the recipes of text to image download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fae_core.images import open_images
from fae_core.images.photographs import PHOTOGRAPHS

T5_SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 160}


def t5(folder: Path) -> Path:
    """A text encoder, 16 wide."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    t5_pieces(folder)
    transformers.T5ForConditionalGeneration(transformers.T5Config(**T5_SIZES)).save_pretrained(folder)
    return folder


def t5_pieces(folder: Path) -> Path:
    """A new folder with a sentencepiece model, of which T5's tokenizer is made."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    folder.mkdir()
    (folder / "corpus.txt").write_text("a photo of a mountain\na sign reading north\na quiet village street\n" * 9)
    options = {"vocab_size": 40, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spiece"), minloglevel=2, **options
    )
    return folder


def sd_vae(folder: Path) -> Path:
    """SD's autoencoder with few channels: latents of 4 channels, an eighth as wide and high as the image."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=256,
    ).save_pretrained(folder)
    return folder


def coco(folder: Path) -> Path:
    """The photographs as COCO's val2014: images, and captions.json."""
    folder.mkdir()
    photographs = open_images("photographs")
    entries = []
    for index, name in enumerate(PHOTOGRAPHS):
        photographs.read(index).save(folder / f"{name}.png")
        entries.append({"id": index, "file_name": f"{name}.png"})
    captions = [{"id": i, "image_id": i, "caption": f"a photo of {name}"} for i, name in enumerate(PHOTOGRAPHS)]
    (folder / "captions.json").write_text(json.dumps({"images": entries, "annotations": captions}))
    return folder
