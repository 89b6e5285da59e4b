"""A tiny FAE trained for a few steps on synthetic images, one run for each stage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for tiny_fae, whatever folder pytest was started in

from tiny_fae import PAINT, TRAINING, Gradients, make_autoencoder_task, make_noise_task

from fae_core.training import train
from fae_decoders import FAE, PixelDecoder
from fae_decoders.stages import PixelFinetuneConfig, PixelFinetuneTask
from fae_encoder import FAEEncoder


@pytest.fixture(scope="session")
def autoencoder_run(tmp_path_factory) -> Path:
    return train(make_autoencoder_task(), TRAINING, tmp_path_factory.mktemp("runs") / "autoencoder", device="cpu")


@pytest.fixture(scope="session")
def noise_run(tmp_path_factory, autoencoder_run: Path) -> Path:
    task = make_noise_task(FAEEncoder.from_pretrained(autoencoder_run))
    return train(task, TRAINING, tmp_path_factory.mktemp("runs") / "noise", device="cpu")


@pytest.fixture(scope="session")
def finetune_run(tmp_path_factory, autoencoder_run: Path, noise_run: Path) -> Path:
    fae, decoder = FAE.from_pretrained(autoencoder_run), PixelDecoder.from_pretrained(noise_run)
    task = PixelFinetuneTask(fae, decoder, Gradients(10), PixelFinetuneConfig(losses=PAINT))
    return train(task, TRAINING, tmp_path_factory.mktemp("runs") / "finetune", device="cpu")
