"""SD3 from prompts: diffusers' pipeline, imported by two commands, gives its pictures to within one level of 255."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from sd3_standin import sd3_pipeline

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile
from fae_core.sampling.draw import load_pair
from fae_diffusion import MMDiT
from fae_diffusion.integration import grid_of
from fae_diffusion.samplers.config import NAMED

LEVEL = {"atol": 1 / 255, "rtol": 0.0}
PROMPTS = ["a photo of a mountain!", "A sign  reading “north”, " + "quiet village street " * 30]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipelines with T5 and without it, each with what was imported from it."""
    folder = tmp_path_factory.mktemp("sd3")
    for name, t5 in (("whole", True), ("small", False)):
        sd3_pipeline(folder / name, t5)
        invoke(["import", "autoencoder-kl", str(folder / name), "--out", str(folder / f"{name}-vae")])
        spec = ["--spec", str(folder / f"{name}-vae")]
        invoke(["import", "mmdit", str(folder / name), *spec, "--out", str(folder / f"{name}-sd3")])
    return folder


@torch.no_grad()
@pytest.mark.parametrize("name", ["whole", "small"])
def test_pictures_are_the_pipeline_s(name: str, stored: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    parts = {} if name == "whole" else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(stored / name, **parts)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = pipeline(PROMPTS, latents=noise.clone(), output_type="pt").images
    model, decoder = load_pair(str(stored / f"{name}-sd3"), str(stored / f"{name}-vae"))
    ours = decoder.decode(model.sample(PROMPTS, noise=noise, sampling="sd3"))
    torch.testing.assert_close(ours, theirs, **LEVEL)
    assert theirs.std() > 10 / 255
    unlike = pipeline(PROMPTS[::-1], latents=noise.clone(), output_type="pt").images
    assert (unlike - theirs).abs().max() > 10 / 255  # the pictures show the prompts


@torch.no_grad()
def test_guidance_by_skipped_blocks_is_the_pipeline_s(stored: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(stored / "whole")
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    model, decoder = load_pair(str(stored / "whole-sd3"), str(stored / "whole-vae"))
    pictures = []
    for scale in (2.8, 0.0):
        options = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": scale}
        how = {"num_inference_steps": 40, "guidance_scale": 4.5, "output_type": "pt", **options}
        theirs = pipeline(PROMPTS, latents=noise.clone(), **how).images
        guidance = {"skip": {"blocks": [1], "scale": scale}}
        ours = decoder.decode(model.sample(PROMPTS, noise=noise, sampling="sd3.5-medium", guidance=guidance))
        torch.testing.assert_close(ours, theirs, **LEVEL)
        pictures.append(ours)
    assert (pictures[0] - pictures[1]).abs().max() > 10 / 255
    with pytest.raises(FAEError, match="no block 7 to skip: this network has 2"):
        model.sample(PROMPTS, noise=noise, sampling="sd3.5-medium")


def test_the_times_are_those_of_the_scheduler(stored: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    model, _ = load_pair(str(stored / "whole-sd3"), str(stored / "whole-vae"))
    for steps, shift in ((28, 3.0), (40, 3.0)):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(steps)
        settings = model.config.sampling_settings({"sampling": "sd3", "steps": steps})
        torch.testing.assert_close(grid_of(settings, model.transport).float(), scheduler.sigmas, atol=1e-7, rtol=0)
    assert NAMED["sd3"]["guidance"].scale == 7.0 and model.config.transport.shift == 3.0


def test_a_file_of_the_transformer_takes_the_encoders_of_a_pipeline(stored: Path, tmp_path: Path) -> None:
    file = stored / "whole" / "transformer" / "diffusion_pytorch_model.safetensors"
    encoders = {"name": stored / "whole", "kind": "sd3", "dtype": "fp32"}
    settings = [f"model.text_encoder.{key}={value}" for key, value in encoders.items()]
    settings += ["model.transport.shift=3", "num_attention_heads=3"]
    options = [word for setting in settings for word in ("--set", setting)]
    spec = ["--spec", str(stored / "whole-vae")]
    invoke(["import", "mmdit", str(file), *spec, *options, "--out", str(tmp_path / "out")])
    ours, folder_s = MMDiT.from_pretrained(tmp_path / "out"), MMDiT.from_pretrained(stored / "whole-sd3")
    assert ours.config.text_encoder == folder_s.config.text_encoder
    state = folder_s.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


def test_fae_sample_reads_prompts(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    models = ["--generator", str(stored / "whole-sd3"), "--decoder", str(stored / "whole-vae"), "--device", "cpu"]
    options = ["--sampling", "sd3", "--set", "steps=2", "--prompts", str(tmp_path / "prompts.txt"), "--count", "2"]
    invoke(["sample", *models, *options, "--out", str(tmp_path / "out")])
    assert Image.open(tmp_path / "out" / "images" / "000001.png").size == (64, 64)


def test_other_encoders_than_the_imported_are_refused(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored / "whole-sd3", tmp_path / "sd3")
    config = json.loads((tmp_path / "sd3" / "config.json").read_text())
    (tmp_path / "sd3" / "config.json").write_text(json.dumps(config).replace('"max_length": 256', '"max_length": 128'))
    with pytest.raises(InvalidFile, match="fingerprint"):
        MMDiT.from_pretrained(tmp_path / "sd3").sample(["a photo"], sampling="sd3", steps=2)


def test_a_missing_encoder_is_named_and_can_be_left_out(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored / "whole", tmp_path / "partial")
    shutil.rmtree(tmp_path / "partial" / "text_encoder_3")
    command = ["import", "mmdit", str(tmp_path / "partial"), "--spec", str(stored / "whole-vae")]
    with pytest.raises(InvalidFile, match=r"text_encoder_3.*t5=false") as raised:
        invoke([*command, "--out", str(tmp_path / "out")])
    assert "\n" not in str(raised.value)
    invoke([*command, "--set", "model.text_encoder=null", "--out", str(tmp_path / "out")])
    assert MMDiT.from_pretrained(tmp_path / "out").config.text_encoder is None
