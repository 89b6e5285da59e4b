"""A tokenizer with a spec and `encode` alone can be stored: its latents are points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fae_core import LatentSpec, LatentStore
from fae_core.images import load_batch, open_images
from fae_encoder.store.encode_dataset import EncodeConfig, encode_dataset
from fae_encoder.store.point_encoder import PointEncoder


class Patches(nn.Module):
    """Pixels of patches of 4 as channels, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = LatentSpec(48, 8, 8, 32, "patches", mean=[0.5] * 48, std=[0.2] * 48)
        self.scale = nn.Parameter(torch.ones(1))

    def encode(self, images: Tensor) -> Tensor:
        return self.spec.normalize(self.scale * F.pixel_unshuffle(images, 4))


def test_its_store_holds_what_it_encodes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (40, 32, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    source, encoder = open_images(tmp_path / "images"), PointEncoder(Patches())
    encode_dataset(encoder, source, tmp_path / "latents", EncodeConfig(dtype="float32", statistics="encoder"))
    store = LatentStore(tmp_path / "latents")
    assert store.spec == Patches().spec
    wanted = Patches().encode(load_batch(source, range(5), 32)).detach()
    torch.testing.assert_close(store.read(range(5))[0], wanted, atol=1e-5, rtol=1e-5)
