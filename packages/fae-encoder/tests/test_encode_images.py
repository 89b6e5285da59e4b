"""Claims about what an encoder takes as images: files, pictures, arrays and bytes give the latents of `fae encode`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fae_core import LatentStore
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError
from fae_encoder import FAEEncoder

pytestmark = pytest.mark.filterwarnings("ignore:the adapter of this encoder is not trained")
SIZES = [(64, 64), (90, 70), (65, 130), (64, 200)]


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{index}.png" for index in range(len(SIZES))]
    for path, (height, width) in zip(paths, SIZES, strict=True):
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return paths


class Photographs(Dataset):
    def __init__(self, paths: list[Path], transform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]))


@pytest.mark.parametrize("workers", [0, 2])
def test_transform_and_pictures_give_what_the_command_stores(
    photographs: list[Path], tmp_path: Path, workers: int
) -> None:
    command = ["encode", "--data", str(tmp_path / "photos"), "--model", "fae-tiny", "--dtype", "float32"]
    invoke([*command, "--out", str(tmp_path / "latents")])
    raw, _ = LatentStore(tmp_path / "latents").read_posterior(range(len(SIZES)))
    encoder = FAEEncoder.from_preset("fae-tiny", seed=0).eval()
    (batch,) = DataLoader(Photographs(photographs, encoder.transform), batch_size=len(SIZES), num_workers=workers)
    assert batch.shape == (len(SIZES), 3, *encoder.read_size) and batch.min() >= 0 and batch.max() <= 1
    torch.testing.assert_close(encoder.encode(batch), raw, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoder.encode([Image.open(path) for path in photographs]), raw, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoder.encode(Image.open(photographs[1])), raw[1:2], atol=1e-6, rtol=1e-5)


def test_bytes_and_arrays_mean_the_same(photographs: list[Path]) -> None:
    encoder = FAEEncoder.from_preset("fae-tiny", seed=0).eval()
    array = np.asarray(Image.open(photographs[0]))
    wanted = encoder.encode(torch.from_numpy(array.copy()).permute(2, 0, 1)[None] / 255)
    for images in (array, array[None], [array], array / 255, torch.from_numpy(array.copy()).permute(2, 0, 1)):
        torch.testing.assert_close(encoder.encode(images), wanted, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(encoder.features(images).shape, encoder.features([array]).shape)
    for wrong in (array.astype(np.float32), array.transpose(2, 0, 1), "0.png", []):
        with pytest.raises(FAEError):
            encoder.encode(wrong)
    half = FAEEncoder.from_preset("fae-tiny", seed=0).to(torch.bfloat16).eval()
    assert half.encode([array]).shape == wanted.shape
