"""A tiny extractor and a tiny tokenizer, so that protocols are tested without a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import LatentSpec
from fae_eval.extractors import FeatureExtractor
from fae_eval.extractors.base import as_uint8_nchw


class PixelExtractor(FeatureExtractor):
    """Mean colour of each of four quarters (12 numbers), and two classes: bright on the left or on the right."""

    name = "pixels"
    dim = 12
    resize = "quarters"
    fingerprint = "0123456789abcdef"

    def outputs(self, images):
        x = as_uint8_nchw(images).float() / 255
        pool = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        sides = torch.nn.functional.adaptive_avg_pool2d(x, (1, 2)).mean(1).flatten(1)
        return {"pool": pool, "spatial": pool[:, :6], "logits": sides * 40}


class TinyFAE:
    """A tokenizer that keeps the mean colour of 4x4 squares, and features that are those colours twice."""

    spec = LatentSpec(3, 4, 4, 16, "test/colours", fingerprint="feed")

    class encoder:
        @staticmethod
        def features(images):
            pooled = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(2).transpose(1, 2)
            return torch.cat([pooled, 1 - pooled], -1)

        @staticmethod
        def head(features, pool=None):
            return features.mean(1)[:, :3] * 50

    def encode(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4) - 0.5

    def decode(self, z):
        return torch.nn.functional.interpolate(z + 0.5, (16, 16))

    def features(self, z):
        pooled = (z + 0.5).flatten(2).transpose(1, 2)
        return torch.cat([pooled, 1 - pooled], -1)


@pytest.fixture
def extractor():
    return PixelExtractor()


@pytest.fixture
def fae():
    return TinyFAE()


@pytest.fixture
def photographs(tmp_path):
    """A function that writes a class folder of random pictures: three classes, one per dominant colour."""

    def write(name: str, count: int = 24, size: int = 16, seed: int = 0, suffix: str = "png"):
        random = np.random.default_rng(seed)
        for i in range(count):
            pixels = random.integers(0, 120, (size, size, 3))
            pixels[..., i * 3 // count] += 120
            folder = tmp_path / name / ["red", "green", "blue"][i * 3 // count]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.{suffix}")
        return tmp_path / name

    return write
