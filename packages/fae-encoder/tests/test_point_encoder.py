"""A tokenizer with a spec and `encode` alone can be stored: its latents are points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fae_core import LatentSpec, LatentStore
from fae_core.errors import DataError
from fae_core.images import ImageSource, load_batch, open_images
from fae_encoder.store.encode_dataset import EncodeConfig, encode_dataset
from fae_encoder.store.point_encoder import PointEncoder


class Patches(nn.Module):
    """Pixels of patches of 4 as channels, normalised. Its spec has no fingerprint."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.spec = LatentSpec(48, 8, 8, 32, "patches", mean=[0.5] * 48, std=[0.2] * 48)
        self.scale = nn.Parameter(torch.tensor([scale]))

    def encode(self, images: Tensor) -> Tensor:
        return self.spec.normalize(self.scale * F.pixel_unshuffle(images, 4))


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (40, 32, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    return open_images(tmp_path / "images")


def test_its_store_goes_on_with_the_same_weights_alone(source: ImageSource, tmp_path: Path) -> None:
    encode_dataset(PointEncoder(Patches()), source, tmp_path / "latents")
    encode_dataset(PointEncoder(Patches()), source, tmp_path / "latents", resume=True)
    with pytest.raises(DataError, match="another size, precision or weights"):
        encode_dataset(PointEncoder(Patches(1.5)), source, tmp_path / "latents", resume=True)


def test_its_store_holds_what_it_encodes(source: ImageSource, tmp_path: Path) -> None:
    encoder = PointEncoder(Patches())
    encode_dataset(encoder, source, tmp_path / "latents", EncodeConfig(dtype="float32", statistics="encoder"))
    store = LatentStore(tmp_path / "latents")
    assert store.spec == Patches().spec
    wanted = Patches().encode(load_batch(source, range(5), 32)).detach()
    torch.testing.assert_close(store.read(range(5))[0], wanted, atol=1e-5, rtol=1e-5)
