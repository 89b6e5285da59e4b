"""A tokenizer inside diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_fae import Gradients

from fae_core import LatentSpec
from fae_core.errors import FAEError
from fae_core.images import load_batch
from fae_decoders import FAE, ConvVAE, ConvVAEConfig

diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")

from fae_decoders.diffusers_vae import DiffusersVAE  # noqa: E402


def conv_vae() -> ConvVAE:
    torch.manual_seed(0)
    vae = ConvVAE(ConvVAEConfig(image_size=16, channels=4, widths=(8, 16), blocks=1, norm_groups=4)).eval()
    return vae.with_statistics([0.1, -0.2, 0.3, 0.0], [0.5, 2.0, 1.5, 0.1])


def pipeline(vae: DiffusersVAE):
    torch.manual_seed(1)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=8,
        norm_num_groups=4,
    )
    pipe = diffusers.DiTPipeline(transformer.eval(), vae, diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe) -> torch.Tensor:
    noise = torch.Generator().manual_seed(5)
    made = pipe([3, 7], guidance_scale=1.0, num_inference_steps=4, generator=noise, output_type="np").images
    return torch.from_numpy(made).permute(0, 3, 1, 2)


@torch.no_grad()
def test_a_pipeline_decodes_its_normalised_latents() -> None:
    tokenizer = conv_vae()
    pipe = pipeline(DiffusersVAE(tokenizer))
    images = run(pipe)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    pipe.scheduler.set_timesteps(4)
    for t in pipe.scheduler.timesteps:
        predicted = pipe.transformer(z, timestep=t.expand(2), class_labels=torch.tensor([3, 7])).sample
        z = pipe.scheduler.step(predicted, t, z).prev_sample
    torch.testing.assert_close(images, tokenizer.decode(z), atol=1e-5, rtol=1e-5)


def test_a_saved_pipeline_comes_back_with_its_tokenizer(tmp_path: Path) -> None:
    pipe = pipeline(DiffusersVAE(conv_vae()))
    pipe.save_pretrained(tmp_path / "pipeline")
    again = diffusers.DiTPipeline.from_pretrained(tmp_path / "pipeline")
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.vae, DiffusersVAE)
    assert ConvVAE.from_pretrained(tmp_path / "pipeline" / "vae").spec == again.vae.tokenizer.spec
    torch.testing.assert_close(run(again), run(pipe), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_latents_are_those_of_the_tokenizer_and_images_lie_in_minus_one_to_one(finetune_run: Path) -> None:
    fae = FAE.from_pretrained(finetune_run)
    vae = DiffusersVAE.from_pretrained(finetune_run)
    x = load_batch(Gradients(4), range(4), 64)
    found = vae.encode(2 * x - 1).latent_dist
    torch.testing.assert_close(found.mode(), fae.encode(x), atol=1e-5, rtol=1e-5)
    std = fae.posterior(x).std / torch.tensor(fae.spec.std).view(-1, 1, 1)
    torch.testing.assert_close(found.std, std, atol=1e-5, rtol=1e-4)
    painted = vae.decode(found.mode()).sample
    torch.testing.assert_close(painted, 2 * fae.reconstruct(x) - 1, atol=1e-5, rtol=1e-5)
    assert vae.decode(found.mode(), return_dict=False)[0].shape == x.shape


def test_the_config_says_what_pipelines_ask(finetune_run: Path) -> None:
    config = DiffusersVAE.from_pretrained(finetune_run).config
    assert (config.scaling_factor, config.shift_factor, config.latent_channels, config.sample_size) == (1.0, 0.0, 8, 64)
    assert 2 ** (len(config.block_out_channels) - 1) == 16


def test_a_tokenizer_that_cannot_paint_is_refused(autoencoder_run: Path) -> None:
    with pytest.raises(FAEError, match=r"this FAE has no decode$"):
        DiffusersVAE.from_pretrained(autoencoder_run)


def test_a_tokenizer_without_a_posterior_is_told_that_it_lacks_one() -> None:
    class Mean:
        """The mean colours of squares of 4 pixels."""

        spec = LatentSpec(3, 4, 4, 16, "colours")

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(images, 4)

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(z, (16, 16))

    with pytest.raises(FAEError, match=r"\(`posterior`\) and paints .* this Mean has no posterior$"):
        DiffusersVAE(Mean())


def test_options_are_honoured_or_refused(tmp_path: Path) -> None:
    conv_vae().save_pretrained(tmp_path / "root" / "vae")
    ConvVAE(ConvVAEConfig(image_size=16, channels=8, widths=(8, 16), blocks=1, norm_groups=4)).save_pretrained(
        tmp_path / "root" / "other"
    )
    for subfolder, channels in (("vae", 4), ("other", 8)):
        vae = DiffusersVAE.from_pretrained(tmp_path / "root", subfolder=subfolder)
        assert vae.config.latent_channels == channels
    with pytest.raises(FAEError, match="does not exist"):
        DiffusersVAE.from_pretrained(tmp_path / "root", subfolder="absent")
    folder = tmp_path / "root" / "vae"
    refused = {
        "force_download": True,
        "use_safetensors": False,
        "quantization_config": {"load_in_8bit": True},
        "latent_channels": 16,
        "device_map": "balanced",
    }
    for name, value in refused.items():
        with pytest.raises(FAEError, match=name):
            DiffusersVAE.from_pretrained(folder, **{name: value})
    with pytest.raises(FAEError, match=r"model\.fp16\.safetensors"):
        DiffusersVAE.from_pretrained(folder, variant="fp16")
    (folder / "model.fp16.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    local = {"variant": "fp16", "cache_dir": "/elsewhere", "local_files_only": True}
    assert DiffusersVAE.from_pretrained(folder, **local).config.latent_channels == 4
    passed = {"low_cpu_mem_usage": True, "variant": None, "use_safetensors": True, "device_map": {"": "cpu"}}
    vae = DiffusersVAE.from_pretrained(folder, torch_dtype=torch.bfloat16, **passed)
    assert (vae.dtype, vae.device.type) == (torch.bfloat16, "cpu")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: 255 * x, r"must lie in \[-1, 1\], got"),
        (lambda x: 3 * x, r"must lie in \[-1, 1\], got"),
        (lambda x: x * float("nan"), "got NaN"),
        (lambda x: x[0], "batch's axis"),
        (lambda x: x.byte(), "uint8"),
        (lambda x: x.numpy(), "numpy"),
    ],
)
def test_images_out_of_minus_one_to_one_are_refused(wrong, message: str) -> None:
    vae = DiffusersVAE(conv_vae())
    with pytest.raises(FAEError, match=message):
        vae.encode(wrong(torch.rand(2, 3, 16, 16)))


@torch.no_grad()
def test_slices_change_nothing() -> None:
    vae, x = DiffusersVAE(conv_vae()), torch.rand(3, 3, 16, 16) * 2 - 1
    whole = vae.encode(x).latent_dist.parameters
    images = vae.decode(whole[:, :4]).sample
    vae.enable_slicing()
    torch.testing.assert_close(vae.encode(x).latent_dist.parameters, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vae.decode(whole[:, :4]).sample, images, atol=1e-5, rtol=1e-5)
    vae.disable_slicing()
    assert torch.equal(vae.encode(x).latent_dist.parameters, whole)


@torch.no_grad()
def test_tiles_take_larger_images() -> None:
    vae = DiffusersVAE(conv_vae())
    small, large = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 44, 16) * 2 - 1
    own = vae.encode(small).latent_dist.parameters
    with pytest.raises(FAEError):
        vae.decode(torch.zeros(1, 4, 22, 8))
    vae.enable_tiling()
    assert torch.equal(vae.encode(small).latent_dist.parameters, own)  # nothing to tile
    moments = vae.encode(large).latent_dist.parameters
    assert moments.shape == (2, 8, 22, 8)
    first = vae.encode(large[:, :, :16]).latent_dist.parameters
    torch.testing.assert_close(moments[:, :, :6], first[:, :, :6])  # before the second tile begins
    last = vae.encode(large[:, :, -16:]).latent_dist.parameters
    torch.testing.assert_close(moments[:, :, -2:], last[:, :, -2:])
    images = vae.decode(moments[:, :4]).sample
    assert images.shape == large.shape and images.isfinite().all()
    torch.testing.assert_close(images[:, :, :12], vae.decode(moments[:, :4, :8]).sample[:, :, :12])
    vae.enable_slicing()
    torch.testing.assert_close(vae.encode(large).latent_dist.parameters, moments, atol=1e-5, rtol=1e-5)
    with pytest.raises(FAEError, match="multiple of 2"):
        vae.encode(torch.zeros(1, 3, 17, 17))
    vae.disable_tiling()
    assert vae.encode(large[:, :, :32].repeat(1, 1, 1, 2)).latent_dist.mode().shape == (2, 4, 8, 8)


@torch.no_grad()
def test_tiles_of_constant_images_have_no_seams() -> None:
    vae = DiffusersVAE(conv_vae())
    vae.enable_tiling()
    z = vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mode()
    flat = z.mean((2, 3), keepdim=True).expand(1, 4, 8, 8)
    tile = vae.decode(flat).sample
    image = vae.decode(flat.repeat(1, 1, 3, 3)).sample
    assert image.shape == (1, 3, 48, 48)
    assert tile.min() - 1e-6 <= image.min() and image.max() <= tile.max() + 1e-6  # a mean of tiles, whose weights are 1
