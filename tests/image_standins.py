"""Networks in the layouts of what the recipes download, with random weights."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fae_core.images.photographs import PHOTOGRAPHS


def vgg(path: Path) -> Path:
    """The trunk of LPIPS."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    pytest.importorskip("lpips", reason="lpips is not installed")
    state = models.vgg16(weights=None).state_dict()
    torch.save({key: value for key, value in state.items() if key.startswith("features")}, path)
    return path


def dino(path: Path) -> Path:
    """The network that the discriminator looks with."""
    save_file(timm.create_model("vit_small_patch8_224.dino", num_classes=0).state_dict(), path)
    return path


def inception(path: Path) -> Path:
    """The network of FID."""
    module = "torch_fidelity.feature_extractor_inceptionv3"
    fidelity = pytest.importorskip(module, reason="torch-fidelity is not installed")

    class Empty(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_arguments: object, **_options: object) -> None:
            return None

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Empty("fae", ["2048"], feature_extractor_weights_path=nothing)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)  # else features vanish, and all distances are 0
    torch.save(network.state_dict(), path)
    return path


def siglip(folder: Path, width: int) -> Path:
    """A text and an image encoder of this width."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", "a", "photo", "of", *PHOTOGRAPHS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tower = {"hidden_size": width, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(words), "max_position_embeddings": 64, "projection_size": width}
    config = transformers.SiglipConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 16})
    transformers.SiglipModel(config).save_pretrained(folder)
    return folder
