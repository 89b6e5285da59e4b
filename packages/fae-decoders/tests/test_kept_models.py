"""Every stage's kept checkpoints are models of their own, and making them changes nothing in the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_fae import PAINT, TRAINING, Gradients, make_autoencoder_task, make_noise_task

from fae_core.cli.info import describe
from fae_core.models.identity import model_checksum
from fae_core.models.load import load_tokenizer
from fae_core.models.presets import load_preset
from fae_core.training import Task, train
from fae_decoders import FAE, ConvVAE, ConvVAEConfig, PixelDecoder
from fae_decoders.stages import PixelFinetuneConfig, PixelFinetuneTask, VAEConfig, VAETask


def make_vae_task() -> VAETask:
    torch.manual_seed(0)
    return VAETask(
        ConvVAE(ConvVAEConfig(**load_preset("conv-vae-tiny")["model"])), Gradients(10), VAEConfig(losses=PAINT)
    )


def identity(folder: Path) -> str:
    model = PixelDecoder.from_pretrained(folder) if "pixel" in str(folder) else load_tokenizer(folder)
    return model_checksum(model.state_dict(), getattr(model, "spec", None))


@pytest.fixture(params=["autoencoder", "pixel", "finetune", "vae"])
def make_task(request: pytest.FixtureRequest) -> Callable[[], Task]:
    if request.param == "finetune":
        runs = [request.getfixturevalue(name) for name in ("autoencoder_run", "noise_run")]
        config = PixelFinetuneConfig(losses=PAINT)
        return lambda: PixelFinetuneTask(
            FAE.from_pretrained(runs[0]), PixelDecoder.from_pretrained(runs[1]), Gradients(10), config
        )
    return {"autoencoder": make_autoencoder_task, "pixel": make_noise_task, "vae": make_vae_task}[request.param]


def test_a_stage_exports_its_kept_checkpoints(
    make_task: Callable[[], Task], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["make_task"]
    config = TRAINING.model_copy(update={"keep_at": (2, "1.5ep")})  # 10 images in batches of 4: step 4
    task = make_task()
    before = torch.get_rng_state()
    kept = train(task, config, tmp_path / f"{name}-kept", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    plain = train(make_task(), TRAINING, tmp_path / f"{name}-plain", device="cpu")
    assert identity(kept / "model") == identity(plain / "model")
    for step in (2, 4):
        short = TRAINING.model_copy(update={"steps": step})
        alone = train(make_task(), short, tmp_path / f"{name}-{step}", device="cpu")
        assert identity(kept / f"exports/step-{step}") == identity(alone / "model")
        assert describe(str(kept / f"exports/step-{step}"))["type"] == describe(str(alone))["type"]
