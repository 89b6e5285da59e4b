"""Training through the shared loop: one command, the store's classes, averaged weights, precision, resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fae_core import LatentSpec, SlotRandom
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError
from fae_core.latent_store import write_store
from fae_core.models.load import load_generator
from fae_core.testing import toy_latents

TINY = ["--preset", "starflow-tiny", "--set", "model.width=32", "--batch-size", "8"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    spec = LatentSpec(3, 2, 4, (32, 64), "toy/backbone", fingerprint="toy")
    z, labels = toy_latents(spec, 24)
    write_store(tmp_path / "latents", spec, z, labels=labels.tolist())
    return tmp_path / "latents"


def test_one_command_trains_a_flow_that_samples(store: Path, tmp_path: Path) -> None:
    invoke(["train", "flow", "--latents", str(store), "--out", str(tmp_path / "run"), "--steps", "25", *TINY])
    flow = load_generator(tmp_path / "run")
    assert flow.config.classes == 3
    z = flow.sample(torch.tensor([0, 1, 2]), guidance=1.5)
    assert z.shape == (3, 3, 2, 4)
    assert torch.isfinite(z).all()


def test_a_run_that_lost_its_last_steps_resumes_to_the_same_weights(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", "flow", "--latents", str(store), "--out", str(run), "--steps", "6", *TINY]
    command += ["--set", "training.checkpoint_every=3", "--set", "training.warmup_steps=0"]
    invoke(command)
    whole = load_generator(run).state_dict()
    shutil.rmtree(run / "model")
    shutil.rmtree(max((run / "checkpoints").iterdir()))
    invoke([*command, "--resume"])
    resumed = load_generator(run).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_store_without_labels_trains_the_class_that_sampling_asks_for(tmp_path: Path) -> None:
    spec = LatentSpec(3, 2, 4, (32, 64), "toy/backbone", fingerprint="toy")
    write_store(tmp_path / "latents", spec, toy_latents(spec, 16)[0])
    out = tmp_path / "run"
    command = ["train", "flow", "--latents", str(tmp_path / "latents"), "--out", str(out), *TINY]
    invoke([*command, "--steps", "3", "--set", "model.label_dropout=0", "--set", "training.warmup_steps=0"])
    flow = load_generator(out)
    assert flow.config.classes == 1
    with pytest.raises(FAEError, match="no null condition"):
        flow.sample(random=SlotRandom(0, range(2)))
    assert flow.sample(torch.zeros(2, dtype=torch.long)).shape == (2, *spec.shape)


def test_affine_maps_stay_fp32_under_bf16_autocast(build, spec, latents_for) -> None:
    flow, z = build(classes=3, noise_std=0.0), latents_for(spec, 2)
    labels = torch.tensor([0, 1])
    exact = flow(z, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = flow(z, labels)
    assert rough.noise.dtype == rough.logdet.dtype == torch.float32
    assert not torch.equal(rough.noise, exact.noise)
    assert (rough.noise - exact.noise).norm() / exact.noise.norm() < 0.05


def test_a_store_of_another_shape_than_patches_allow_is_one_clear_line(store: Path, tmp_path: Path) -> None:
    command = ["train", "flow", "--latents", str(store), "--out", str(tmp_path / "run"), *TINY]
    with pytest.raises(FAEError, match="2x4 cannot be cut into patches of 4"):
        invoke([*command, "--set", "model.patch_size=4"])
    assert not (tmp_path / "run").exists()
