"""VA-VAE and SD-VAE: their files become a ConvVAE that computes what the originals compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from original_layouts import autoencoder_kl, in_ldm_layout

from fae_core import load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile, InvalidSettings
from fae_core.testing.shared import shared_folder
from fae_decoders import ConvVAE
from fae_decoders.imports.autoencoder_kl import load_autoencoder_kl

CLOSE = {"atol": 5e-5, "rtol": 1e-5}
SIZES = [
    {"widths": (32, 64), "attention": (1,), "layers_per_block": 2, "latent_channels": 8},
    {"widths": (32, 32, 64), "attention": (0, 2), "layers_per_block": 1, "latent_channels": 4},
    {
        "widths": (32, 64),
        "layers_per_block": 1,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    {"widths": (64,), "layers_per_block": 3, "latent_channels": 4, "mid_block_add_attention": False},
]


@torch.no_grad()
def test_the_original_vavae_is_met() -> None:
    """Computed by hustvl/LightningDiT's tokenizer/autoencoder.py."""
    case = torch.load(shared_folder("cases", "parity", "vavae_A.pt"), weights_only=True)
    vae = ConvVAE.from_official(case["state_dict"], case["config"])
    posterior = vae.posterior((case["inputs"]["x"] + 1) / 2)
    torch.testing.assert_close(posterior.mean, case["outputs"]["mean"], **CLOSE)
    torch.testing.assert_close(posterior.logvar, case["outputs"]["logvar"], **CLOSE)
    torch.testing.assert_close(vae.decoder(case["outputs"]["mean"]), case["outputs"]["decode_of_mean"], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_structure_computes_as_the_original(sizes: dict, layout: str, tmp_path: Path) -> None:
    original = autoencoder_kl(**sizes, sample_size=32, scaling_factor=0.5)
    if layout == "ldm":
        source = tmp_path / "model.ckpt"
        torch.save({"state_dict": in_ldm_layout(original.state_dict())}, source)
        vae = load_autoencoder_kl(source, image_size=32, scaling=0.5)
    else:
        original.save_pretrained(tmp_path / "vae")
        vae = load_autoencoder_kl(tmp_path / "vae")
    x = torch.rand(2, 3, 32, 32)
    theirs = original.encode(2 * x - 1).latent_dist
    torch.testing.assert_close(vae.posterior(x).mean, theirs.mean, **CLOSE)
    torch.testing.assert_close(vae.posterior(x).logvar, theirs.logvar, **CLOSE)
    z = vae.encode(x)
    torch.testing.assert_close(z, 0.5 * theirs.mean, **CLOSE)
    painted = (original.decode(theirs.mean).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(vae.decode(z), painted, **CLOSE)


@torch.no_grad()
def test_the_command_reads_lightningdits_files(tmp_path: Path) -> None:
    original = autoencoder_kl(**SIZES[0])
    state = {
        **in_ldm_layout(original.state_dict()),
        "loss.logvar": torch.zeros(1),
        "linear_proj.weight": torch.zeros(1),
    }
    torch.save({"state_dict": state}, tmp_path / "vavae.pt")
    statistics = {"mean": torch.randn(1, 8, 1, 1), "std": torch.rand(1, 8, 1, 1) + 0.5}
    torch.save(statistics, tmp_path / "latents_stats.pt")
    options = ["--statistics", str(tmp_path / "latents_stats.pt"), "--image-size", "32", "--out", str(tmp_path / "vae")]
    invoke(["import", "autoencoder-kl", str(tmp_path / "vavae.pt"), *options])
    vae, x = load_tokenizer(tmp_path / "vae"), torch.rand(2, 3, 32, 32)
    wanted = (original.encode(2 * x - 1).latent_dist.mean - statistics["mean"]) / statistics["std"]
    torch.testing.assert_close(vae.encode(x), wanted, **CLOSE)
    sd3 = load_autoencoder_kl(tmp_path / "vavae.pt", image_size=32, scaling=1.5305, shift=0.0609)
    wanted = (original.encode(2 * x - 1).latent_dist.mean - 0.0609) * 1.5305
    torch.testing.assert_close(sd3.encode(x), wanted, **CLOSE)


def test_an_autoencoder_is_found_within_a_diffusion_model(tmp_path: Path) -> None:
    state = in_ldm_layout(autoencoder_kl(**SIZES[1]).state_dict())
    whole = {f"first_stage_model.{name}": value for name, value in state.items()}
    whole |= {"model.diffusion_model.out.weight": torch.zeros(1), "scale_factor": torch.tensor(0.25)}
    torch.save({"state_dict": whole}, tmp_path / "sd.ckpt")
    vae = load_autoencoder_kl(tmp_path / "sd.ckpt")
    assert vae.spec.std == (4.0,) * 4 and vae.spec.image_size == 256
    assert vae.spec.fingerprint == ConvVAE.from_official(state).spec.fingerprint


def test_averaged_weights_are_preferred_and_sections_can_be_named(tmp_path: Path) -> None:
    original = autoencoder_kl(**SIZES[3])
    state = in_ldm_layout(original.state_dict())
    raw = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({"state_dict": raw, "ema": state}, tmp_path / "vae.pt")
    command = ["import", "autoencoder-kl", str(tmp_path / "vae.pt"), "--image-size", "32"]
    for name, wanted in (("ema", state), ("state_dict", raw)):
        section = [] if name == "ema" else ["--section", name]
        invoke([*command, *section, "--out", str(tmp_path / name)])
        assert load_tokenizer(tmp_path / name).spec.fingerprint == ConvVAE.from_official(wanted).spec.fingerprint
    original.save_pretrained(tmp_path / "folder")
    with pytest.raises(InvalidFile, match="leave the section out"):
        load_autoencoder_kl(tmp_path / "folder", section="ema")


def test_what_is_stated_of_the_scale_replaces_no_more_than_that(tmp_path: Path) -> None:
    scale = {"scaling_factor": 1.5, "shift_factor": 0.0625}
    autoencoder_kl(**SIZES[3], sample_size=32, **scale).save_pretrained(tmp_path / "shifted")
    known = {"latents_mean": [0.5, 0.0, 0.0, 0.0], "latents_std": [2.0, 1.0, 1.0, 1.0], "scaling_factor": 0.5}
    autoencoder_kl(**SIZES[3], sample_size=32, **known).save_pretrained(tmp_path / "measured")
    for folder, stated, mean, std in (
        ("shifted", {}, 0.0625, 1 / 1.5),
        ("shifted", {"scaling": 1.5}, 0.0625, 1 / 1.5),
        ("shifted", {"scaling": 0.5}, 0.0625, 2.0),
        ("shifted", {"shift": 0.25}, 0.25, 1 / 1.5),
        ("shifted", {"scaling": 0.5, "shift": 0.0}, 0.0, 2.0),
        ("measured", {"scaling": 0.25}, 0.5, 8.0),
        ("measured", {"shift": 0.25}, 0.25, 4.0),
    ):
        spec = load_autoencoder_kl(tmp_path / folder, **stated).spec
        assert (spec.mean[0], spec.std[0]) == (mean, std), (folder, stated)
    torch.save({"mean": torch.full((4,), 0.5), "std": torch.full((4,), 2.0)}, tmp_path / "stats.pt")
    spec = load_autoencoder_kl(tmp_path / "shifted", statistics=tmp_path / "stats.pt").spec
    assert (spec.mean[0], spec.std[0]) == (0.5, 2.0)
    whole = {f"first_stage_model.{k}": v for k, v in in_ldm_layout(autoencoder_kl(**SIZES[3]).state_dict()).items()}
    torch.save({**whole, "scale_factor": torch.tensor(0.25)}, tmp_path / "sd.ckpt")
    spec = load_autoencoder_kl(tmp_path / "sd.ckpt", shift=0.5).spec
    assert (spec.mean[0], spec.std[0]) == (0.5, 4.0)
    assert load_autoencoder_kl(tmp_path / "sd.ckpt", scaling=0.5).spec.std[0] == 2.0


def test_widths_that_weights_show_are_taken() -> None:
    """LDM's ch_mult need not start with 1, and its z_channels may differ from embed_dim."""
    shapes = {
        "encoder.conv_in.weight": (64, 3, 3, 3),
        "encoder.conv_in.bias": (64,),
        "encoder.down.0.block.0.norm1.weight": (64,),
        "encoder.down.0.block.0.norm1.bias": (64,),
        "encoder.down.0.block.0.conv1.weight": (32, 64, 3, 3),
        "encoder.down.0.block.0.nin_shortcut.weight": (32, 64, 1, 1),
        "encoder.down.0.block.0.nin_shortcut.bias": (32,),
        "encoder.conv_out.weight": (12, 64, 3, 3),
        "encoder.conv_out.bias": (12,),
        "quant_conv.weight": (16, 12, 1, 1),
        "post_quant_conv.weight": (6, 8, 1, 1),
        "post_quant_conv.bias": (6,),
        "decoder.conv_in.weight": (64, 6, 3, 3),
    }
    state = in_ldm_layout(autoencoder_kl(**SIZES[0]).state_dict())
    state |= {name: torch.randn(shape) for name, shape in shapes.items()}
    arguments = {"resolution": 32, "ch": 64, "ch_mult": [0.5, 1], "embed_dim": 8, "ddconfig": {"z_channels": 6}}
    config = ConvVAE.from_official(state, arguments).config
    assert (config.widths, config.stem, config.channels, config.inner_channels) == ((32, 64), 64, 8, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.conv_in.weight": None}, "no KL autoencoder"),
        ({"quantize.embedding.weight": torch.zeros(1)}, "holds quantize"),
        ({"quant_conv.weight": None, "quant_conv.bias": None}, "quant_conv without post_quant_conv"),
        ({"decoder.mid.attn_1.q.weight": None}, "lacks one of query, key and value"),
        ({"encoder.down.0.block.0.temb_proj.weight": torch.zeros(1)}, "has unknown"),
    ],
)
def test_other_files_are_refused_in_one_line(change: dict, message: str, tmp_path: Path) -> None:
    state = {**in_ldm_layout(autoencoder_kl(**SIZES[0]).state_dict()), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "vae.pt")
    with pytest.raises(InvalidFile, match=message) as refused:
        load_autoencoder_kl(tmp_path / "vae.pt")
    assert "\n" not in str(refused.value)


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    original = autoencoder_kl(**SIZES[0])
    state = in_ldm_layout(original.state_dict())
    with pytest.raises(InvalidFile, match=r"config is for ch_mult \[1, 4\]"):
        ConvVAE.from_official(state, {"ch_mult": [1, 4]})
    with pytest.raises(InvalidFile, match="tanh_out True is not supported"):
        ConvVAE.from_official(state, {"tanh_out": True})
    torch.save(original.state_dict(), tmp_path / "diffusers.pt")
    with pytest.raises(InvalidFile, match="give its folder"):
        load_autoencoder_kl(tmp_path / "diffusers.pt")
    torch.save(state, tmp_path / "vae.pt")
    torch.save({"mean": torch.zeros(3), "std": torch.ones(3)}, tmp_path / "stats.pt")
    with pytest.raises(InvalidFile, match="not for latents of 8x128x128"):
        load_autoencoder_kl(tmp_path / "vae.pt", statistics=tmp_path / "stats.pt")
    with pytest.raises(InvalidSettings, match="scaling of 0"):
        load_autoencoder_kl(tmp_path / "vae.pt", scaling=0.0)
    command = ["import", "autoencoder-kl", str(tmp_path / "vae.pt"), "--out", str(tmp_path / "out")]
    with pytest.raises(FAEError, match="leave --statistics, --scaling and --shift out"):
        invoke([*command, "--data", str(tmp_path), "--scaling", "0.5"])
    assert not (tmp_path / "out").exists()
