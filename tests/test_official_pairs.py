"""An official transformer with its official tokenizer: pictures are those of the originals to within one level of 255.

The originals' latents are in the parity cases (made by the originals' code); the originals' decoder is diffusers'.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fae_core import LatentStore, load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.errors import LatentSpecMismatch
from fae_core.sampling.draw import load_pair
from fae_core.testing import shared_folder
from fae_diffusion.text.condition import TextCondition

sys.path.insert(0, str(Path(__file__).parents[1] / "packages/fae-decoders/tests"))
from original_layouts import autoencoder_kl, autoencoder_rae, in_ldm_layout

LEVEL = {"atol": 1 / 255, "rtol": 0.0}


def imported(case: dict[str, Any], original: str, tokenizer: Path, folder: Path) -> Path:
    """The transformer of a case, imported by its command for the latents of a tokenizer."""
    torch.save({"ema": case["state_dict"]}, folder / "transformer.pt")
    (folder / "arguments.yaml").write_text(yaml.safe_dump(case["config"]))
    options = ["--config", str(folder / "arguments.yaml"), "--spec", str(tokenizer), "--out", str(folder / original)]
    invoke(["import", original, str(folder / "transformer.pt"), *options])
    return folder / original


def pictures(case: dict[str, Any], generator: Path, tokenizer: Path, **options: Any) -> torch.Tensor:
    model, decoder = load_pair(str(generator), str(tokenizer))
    return decoder.decode(model.sample(case["inputs"]["y"], noise=case["inputs"]["noise"], **options))


@torch.no_grad()
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_sit_with_sd_vae(layout: str, tmp_path: Path) -> None:
    case = torch.load(shared_folder("cases", "parity", "sit_A.pt"), weights_only=True)
    vae = autoencoder_kl(widths=(32, 32, 64, 64), latent_channels=4, layers_per_block=2, sample_size=64)
    out = tmp_path / "vae"
    if layout == "ldm":
        torch.save({"state_dict": in_ldm_layout(vae.state_dict())}, tmp_path / "vae.ckpt")
        options = ["--scaling", "0.18215", "--image-size", "64"]
        invoke(["import", "autoencoder-kl", str(tmp_path / "vae.ckpt"), *options, "--out", str(out)])
    else:
        vae.save_pretrained(tmp_path / "sd")
        invoke(["import", "autoencoder-kl", str(tmp_path / "sd"), "--out", str(out)])
    generator = imported(case, "sit", out, tmp_path)
    steps = case["inputs"]["steps"] - 1
    guidance = {"scale": case["inputs"]["cfg_scale"], "channels": 3}
    ours = pictures(case, generator, out, steps=steps, method="euler", guidance=guidance)
    z = case["outputs"]["ode_euler_6_cfg2.5"]
    theirs = (vae.decode(z[: len(ours)] / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, **LEVEL)
    assert theirs.std() > 10 / 255


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.5, 4.0])  # of the preset, and what SiT's sample.py takes by default
def test_sit_with_dopri5(scale: float, tmp_path: Path) -> None:
    """SiT's code integrates the guided batch and one without classes as one state, in steps that pass the last time."""
    torchdiffeq = pytest.importorskip("torchdiffeq", reason="the extra fae-diffusion[ode] is not installed")
    case = torch.load(shared_folder("cases", "parity", "sit_A.pt"), weights_only=True)
    vae = autoencoder_kl(widths=(32, 32, 64, 64), latent_channels=4, layers_per_block=2, sample_size=64)
    vae.save_pretrained(tmp_path / "sd")
    invoke(["import", "autoencoder-kl", str(tmp_path / "sd"), "--out", str(tmp_path / "vae")])
    generator = imported(case, "sit", tmp_path / "vae", tmp_path)
    model, _ = load_pair(str(generator), str(tmp_path / "vae"))
    noise, labels = case["inputs"]["noise"], case["inputs"]["y"]
    both = torch.cat([labels, case["inputs"]["y_null"]])

    def drift(t: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        first = state[: len(noise)]
        velocity = -model(first.repeat(2, 1, 1, 1), 1 - t, both)  # the original's; its forward pass is compared alone
        conditional, null = velocity[:, :3].chunk(2)
        guided = null + scale * (conditional - null)
        return torch.cat([guided.repeat(2, 1, 1, 1), velocity[:, 3:]], dim=1)

    times = torch.linspace(0, 1, 250)
    z = torchdiffeq.odeint(drift, noise.repeat(2, 1, 1, 1), times, method="dopri5", atol=1e-6, rtol=1e-3)[-1]
    theirs = (vae.decode(z[: len(noise)] / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    guidance = {"scale": scale, "channels": 3}
    ours = pictures(case, generator, tmp_path / "vae", sampling="sit-ode", guidance=guidance)
    torch.testing.assert_close(ours, theirs, **LEVEL)
    assert theirs.std() > 10 / 255


@torch.no_grad()
def test_lightningdit_with_vavae(tmp_path: Path) -> None:
    case = torch.load(shared_folder("cases", "parity", "lightningdit_A.pt"), weights_only=True)
    vae = autoencoder_kl(widths=(32, 32, 64), attention=(2,), latent_channels=32, layers_per_block=1, sample_size=24)
    torch.save({"state_dict": in_ldm_layout(vae.state_dict())}, tmp_path / "vavae.pt")
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.randn(1, 32, 1, 1, generator=generator), torch.rand(1, 32, 1, 1, generator=generator) + 0.5
    torch.save({"mean": mean, "std": std}, tmp_path / "latents_stats.pt")
    options = ["--statistics", str(tmp_path / "latents_stats.pt"), "--image-size", "24"]
    out = tmp_path / "vae"
    invoke(["import", "autoencoder-kl", str(tmp_path / "vavae.pt"), *options, "--out", str(out)])
    folder = imported(case, "lightningdit", out, tmp_path)
    inputs = case["inputs"]
    guidance = {"scale": inputs["cfg_scale"], "interval": [0.0, 1 - inputs["cfg_interval_start"]], "channels": 3}
    ours = pictures(case, folder, out, steps=inputs["steps"] - 1, shift=1 / inputs["timestep_shift"], guidance=guidance)
    z = case["outputs"]["ode_euler_6_shift0.3_cfg4_start0.125"][: len(ours)]
    theirs = (vae.decode(z * std + mean).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, **LEVEL)
    assert theirs.std() > 10 / 255


@torch.no_grad()
def test_ditdh_with_a_rae(tmp_path: Path) -> None:
    """RAE's grid of times is written out here; the network's numbers are compared with the original's by themselves."""
    case = torch.load(shared_folder("cases", "parity", "rae_ditdh_A.pt"), weights_only=True)
    channels, side = 64, case["config"]["input_size"]  # an encoder's head is 64 wide; the case has fewer channels
    case["config"]["in_channels"] = channels
    for name, tensor in case["state_dict"].items():
        if name.endswith("embedder.proj.weight"):
            case["state_dict"][name] = tensor.repeat(1, 3, 1, 1)[:, :channels]
        if name.startswith("final_layer.linear."):
            case["state_dict"][name] = tensor.repeat(3, *[1] * (tensor.ndim - 1))[:channels]
    draw = torch.Generator().manual_seed(0)
    mean, std = (torch.rand((channels, side, side), generator=draw) + 0.5 for _ in range(2))
    sizes = {"encoder_input_size": 14 * side, "patch_size": 16}
    rae = autoencoder_rae(encoder_type="dinov2", latents_mean=mean, latents_std=std, **sizes)
    rae.save_pretrained(tmp_path / "original")
    invoke(["import", "rae", str(tmp_path / "original"), "--out", str(tmp_path / "rae")])
    generator = imported(case, "ditdh", tmp_path / "rae", tmp_path)
    model, _ = load_pair(str(generator), str(tmp_path / "rae"))
    z = case["inputs"]["noise"] = torch.randn(3, channels, side, side, generator=draw)
    ours = pictures(case, generator, tmp_path / "rae", sampling="rae")
    t = 1 - torch.linspace(0, 0.999, 50)
    shift = (channels * side**2 / 4096) ** 0.5
    t = shift * t / (1 + (shift - 1) * t)
    for now, after in pairwise(t):
        z = z + (after - now) * model(z, now.expand(len(z)), case["inputs"]["y"])
    theirs = rae.decode(z).sample.clamp(0, 1)
    torch.testing.assert_close(ours, theirs, **LEVEL)
    assert theirs.std() > 10 / 255


@torch.no_grad()
def test_repa_s_mmdit_with_sd_vae(tmp_path: Path) -> None:
    """REPA's Euler steps are written out here; the network's numbers are compared with the original's by themselves."""
    case = torch.load(shared_folder("cases", "parity", "repa_mmdit_A.pt"), weights_only=True)
    case["config"]["input_size"] = side = 8
    vae = autoencoder_kl(widths=(32, 32, 64, 64), latent_channels=4, layers_per_block=2, sample_size=8 * side)
    vae.save_pretrained(tmp_path / "sd")
    invoke(["import", "autoencoder-kl", str(tmp_path / "sd"), "--out", str(tmp_path / "vae")])
    generator = imported(case, "mmdit", tmp_path / "vae", tmp_path)
    model, decoder = load_pair(str(generator), str(tmp_path / "vae"))
    text, empty = case["inputs"]["context"], case["inputs"]["context"].flip(1)[:1]
    model.set_null(TextCondition(empty))
    noise = z = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    for now, after in pairwise(torch.linspace(1, 0, 51)):
        null, conditional = (model(z, now.expand(2), tokens) for tokens in (empty.expand(2, -1, -1), text))
        z = z + (after - now) * (null + 1.5 * (conditional - null))
    ours = decoder.decode(model.sample(text, noise=noise, sampling="repa"))
    theirs = (vae.decode(z / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, **LEVEL)
    assert theirs.std() > 10 / 255


def test_a_transformer_for_other_latents_is_refused(tmp_path: Path) -> None:
    case = torch.load(shared_folder("cases", "parity", "sit_A.pt"), weights_only=True)
    for name, scaling in (("one", "0.18215"), ("other", "0.3")):
        vae = autoencoder_kl(widths=(32, 32, 32, 32), latent_channels=4, layers_per_block=1)
        torch.save(in_ldm_layout(vae.state_dict()), tmp_path / "vae.pt")
        options = ["--scaling", scaling, "--image-size", "64", "--out", str(tmp_path / name)]
        invoke(["import", "autoencoder-kl", str(tmp_path / "vae.pt"), *options])
    generator = imported(case, "sit", tmp_path / "one", tmp_path)
    with pytest.raises(LatentSpecMismatch, match="std"):
        load_pair(str(generator), str(tmp_path / "other"))


def test_a_generator_is_trained_and_resumed_on_latents_normalised_by_position(tmp_path: Path) -> None:
    """A new generator on an imported RAE: the store, its normalisation, a resumed run, pictures."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    draw = torch.Generator().manual_seed(0)
    mean, std = (torch.rand((64, 4, 4), generator=draw) + 0.5 for _ in range(2))
    for name, scale in (("rae", 1.0), ("other", 2.0)):
        original = autoencoder_rae(
            encoder_type="dinov2", encoder_input_size=56, patch_size=16, latents_mean=mean, latents_std=scale * std
        )
        original.save_pretrained(tmp_path / f"{name}-original")
        invoke(["import", "rae", str(tmp_path / f"{name}-original"), "--out", str(tmp_path / name)])
        options = ["--data", str(tmp_path / "images"), "--dtype", "float32", "--out", str(tmp_path / f"{name}-latents")]
        invoke(["encode", "--model", str(tmp_path / name), *options])
    store, rae = LatentStore(tmp_path / "rae-latents"), load_tokenizer(tmp_path / "rae")
    images = torch.stack([rae.transform(Image.open(tmp_path / "images" / f"{n}.png")) for n in range(6)])
    torch.testing.assert_close(store.read(range(6))[0], rae.encode(images), atol=1e-4, rtol=1e-4)
    run = ["--preset", "lightningdit-tiny", "--batch-size", "4", "--device", "cpu", "--out", str(tmp_path / "run")]
    short = ["train", "diffusion", "--latents", str(tmp_path / "rae-latents"), *run]
    settings = ["--set", "training.schedule_steps=9", "--set", "training.checkpoint_every=1"]
    invoke([*short, "--steps", "1", *settings])
    assert (tmp_path / "run" / "config.yaml").stat().st_size < 10_000
    invoke([*short, "--steps", "2", *settings, "--resume"])
    with pytest.raises(LatentSpecMismatch, match="std"):
        invoke([*short[:3], str(tmp_path / "other-latents"), *run, "--steps", "3", *settings, "--resume"])
    sampled = ["--generator", str(tmp_path / "run"), "--decoder", str(tmp_path / "rae"), "--count", "2"]
    invoke(["sample", *sampled, "--device", "cpu", "--out", str(tmp_path / "samples")])
    assert Image.open(tmp_path / "samples" / "images" / "000000.png").size == (64, 64)
