"""The convolutional autoencoder: the numbers of diffusers' AutoencoderKL, a tokenizer's door, and its training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_fae import Gradients

from fae_core import LatentSpecMismatch, LatentStore, load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile
from fae_core.images import load_batch
from fae_core.random import SlotRandom
from fae_core.training import TrainConfig, train
from fae_core.training.journal import read_metrics
from fae_decoders import ConvVAE, ConvVAEConfig, FeatureDecoder
from fae_decoders.imports.autoencoder_kl import convert_state
from fae_decoders.losses import PixelLossConfig
from fae_decoders.losses.alignment import Alignment, AlignmentConfig, marginal_cosine, marginal_distance
from fae_decoders.stages import VAEConfig, VAETask

TINY = {"image_size": 16, "channels": 8, "widths": (16, 32), "blocks": 1, "norm_groups": 8}
LOSSES = PixelLossConfig(l1=1.0, l2=1.0, perceptual="none")
TRAINING = TrainConfig(steps=12, batch_size=4, learning_rate=2e-3, ema_decay=0.5, checkpoint_every=4, log_every=1)
ALIGNMENT = AlignmentConfig(backbone="timm/test_vit", weights=None, image_size=64)


def make_task(losses: PixelLossConfig = LOSSES, **fields: object) -> VAETask:
    torch.manual_seed(3)
    return VAETask(ConvVAE(ConvVAEConfig(**TINY)), Gradients(10), VAEConfig(losses=losses, **fields))


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make_task(beta=1e-3), TRAINING, tmp_path_factory.mktemp("runs") / "vae", device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(6):
        Gradients(6).read(i).save(folder / f"{i}.png")
    return folder


def images(count: int = 10) -> torch.Tensor:
    return load_batch(Gradients(count), range(count), 16)


def test_groups_of_the_norms_are_part_of_the_fingerprint() -> None:
    """No weight shows them, and latents depend on them."""
    found = []
    for groups in (4, 8):
        torch.manual_seed(0)
        found.append(ConvVAE(ConvVAEConfig(**{**TINY, "norm_groups": groups})).stamp().fingerprint)
    assert found[0] != found[1]


def test_the_paper_sized_encoder_has_sds_parameters() -> None:
    """83,653,863 is what diffusers counts in SD's own autoencoder."""
    with torch.device("meta"):
        counts = {name: ConvVAE.from_preset(f"conv-vae-{name}") for name in ("f8", "f16")}
    assert sum(p.numel() for p in counts["f8"].parameters()) == 83_653_863
    assert counts["f16"].spec.shape == (32, 16, 16)


def test_presets_make_latents_of_the_size_of_faes() -> None:
    """Equal numbers for a generator, so that only the tokenizer differs."""
    for name, other, fields in (
        ("conv-vae-f16", "feature-decoder-1536", {}),
        ("conv-vae-cifar10", "feature-decoder-cifar10", {}),
        ("conv-vae-cifar10", "feature-decoder-demo", {"image_size": 64, "channels": 16, "widths": (16, 32, 64, 64)}),
    ):
        with torch.device("meta"):
            ours, theirs = ConvVAE.from_preset(name, **fields).spec, FeatureDecoder.from_preset(other).spec
        assert (ours.shape, ours.image_size) == (theirs.shape, theirs.image_size)


def test_training_learns_and_normalises_the_training_latents(vae_run: Path) -> None:
    losses = [row["l1"] for row in read_metrics(vae_run)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    vae = load_tokenizer(vae_run)
    assert isinstance(vae, ConvVAE) and vae.spec.fingerprint
    z = vae.encode(images())
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(8), atol=1e-4, rtol=0)


def test_rounding_stamps_the_rounded_encoder(vae_run: Path) -> None:
    vae, rounded = ConvVAE.from_pretrained(vae_run), ConvVAE.from_pretrained(vae_run)
    rounded.round_parameters(torch.float16)
    assert rounded.spec.fingerprint not in ("", vae.spec.fingerprint)
    vae.spec.require(rounded.spec, ignore=("fingerprint",))
    for name, parameter in vae.named_parameters():
        assert torch.equal(rounded.get_parameter(name), parameter.half().float())


def test_saving_stamps_the_weights_that_are_saved(vae_run: Path, tmp_path: Path) -> None:
    """Two latent spaces are told apart, a changed decoder leaves them alone, and statistics are kept."""
    vae, changed = ConvVAE.from_pretrained(vae_run), ConvVAE.from_pretrained(vae_run)
    with torch.no_grad():
        next(changed.decoder.parameters()).mul_(1.1)
        changed.save_pretrained(tmp_path / "same")
        next(changed.encoder.parameters()).mul_(1.1)
    changed.save_pretrained(tmp_path / "other")
    vae.spec.require(ConvVAE.from_pretrained(tmp_path / "same").spec)
    other = ConvVAE.from_pretrained(tmp_path / "other")
    with pytest.raises(LatentSpecMismatch, match=r"fingerprint"):
        vae.spec.require(other.spec)
    vae.spec.require(other.spec, ignore=("fingerprint",))
    saved = other.spec
    assert other.stamp() == saved  # what `fae encode` gives its store


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_one_saved_in_another_type_has_the_fingerprint_of_what_is_loaded(vae_run: Path, tmp_path: Path, dtype) -> None:
    ConvVAE.from_pretrained(vae_run, dtype=dtype).save_pretrained(tmp_path / "vae")
    loaded = ConvVAE.from_pretrained(tmp_path / "vae")
    saved = loaded.spec
    assert saved.fingerprint != ConvVAE.from_pretrained(vae_run).spec.fingerprint
    assert loaded.stamp() == saved


def test_one_image_is_encoded_and_decoded_as_in_a_batch(vae_run: Path) -> None:
    vae = ConvVAE.from_pretrained(vae_run)
    with torch.no_grad():
        z = vae.encode(images())
        torch.testing.assert_close(vae.encode(images()[3:4]), z[3:4], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vae.decode(z[3:4]), vae.decode(z)[3:4], atol=1e-5, rtol=1e-5)


def test_other_sizes_are_resized_and_other_shapes_refused() -> None:
    vae = ConvVAE(ConvVAEConfig(**{**TINY, "image_size": (16, 32)})).eval()
    assert vae.encode(torch.rand(1, 3, 32, 64)).shape == (1, 8, 8, 16)
    assert vae.decode(torch.zeros(1, 8, 8, 16)).shape == (1, 3, 16, 32)
    with pytest.raises(FAEError, match="another aspect ratio"):
        vae.encode(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="multiple of the stride 2"):
        ConvVAEConfig(**{**TINY, "image_size": 15})


def test_the_commands_take_it_as_they_take_an_fae(data: Path, tmp_path: Path) -> None:
    common = ["--preset", "conv-vae-tiny", "--image-size", "32", "--steps", "3", "--device", "cpu"]
    invoke(["train", "vae", "--data", str(data), "--out", str(tmp_path / "vae"), *common])
    vae = ConvVAE.from_pretrained(tmp_path / "vae")
    assert vae.spec.shape == (8, 16, 16) and vae.spec.image_size == 32
    invoke(["encode", "--data", str(data), "--model", str(tmp_path / "vae"), "--out", str(tmp_path / "latents")])
    store = LatentStore(tmp_path / "latents", spec=vae.spec)
    wanted = vae.encode(load_batch(Gradients(6), range(6), 32))
    torch.testing.assert_close(store.read(range(6))[0], wanted, atol=5e-3, rtol=5e-3)
    invoke(["reconstruct", "--model", str(tmp_path / "vae"), "--data", str(data), "--out", str(tmp_path / "pictures")])
    record = json.loads((tmp_path / "pictures" / "results" / "reconstruction.json").read_text())
    assert set(record["values"]) == {"PSNR [dB]", "L1"}
    with pytest.raises(FAEError, match="has no backbone"):
        invoke(
            [
                "encode",
                "--data",
                str(data),
                "--model",
                str(tmp_path / "vae"),
                "--out",
                str(tmp_path / "x"),
                "--weights",
                "pip",
            ]
        )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gradient_checkpointing": True},
        {"alignment": ALIGNMENT.model_copy(update={"adaptive": False})},
    ],
)
def test_accumulation_equals_the_larger_batch(fields: dict) -> None:
    task = make_task(**fields)
    for module in task.modules.values():
        module.train()
    task.prepare("cpu")

    def gradients(parts: list[range]) -> dict[str, torch.Tensor]:
        for module in task.modules.values():
            module.zero_grad()
        for part in parts:
            random = SlotRandom(0, part)
            (task.phases[0].loss(task.load(list(part), random), random)["loss"] / len(parts)).backward()
        return {f"{m}.{k}": p.grad.clone() for m, module in task.modules.items() for k, p in module.named_parameters()}

    torch.testing.assert_close(gradients([range(4), range(4, 8)]), gradients([range(8)]), atol=1e-6, rtol=1e-4)


def test_a_gan_and_an_alignment_train_and_resume(tmp_path: Path) -> None:
    gan = LOSSES.model_copy(update={"adversarial": "patchgan", "discriminator_width": 8, "adaptive": "last_layer"})
    whole = train(make_task(gan, alignment=ALIGNMENT), TRAINING, tmp_path / "whole", device="cpu")
    row = read_metrics(whole)[-1]
    assert {"autoencoder/alignment_weight", "autoencoder/adversarial", "discriminator/hinge"} <= set(row)
    cut = make_task(gan, alignment=ALIGNMENT)
    inner = cut.load

    def failing(indices: list[int], random: SlotRandom) -> dict[str, torch.Tensor]:
        if random.step == 7:
            raise ConnectionError("the power went")
        return inner(indices, random)

    cut.load = failing
    with pytest.raises(ConnectionError):
        train(cut, TRAINING, tmp_path / "cut", device="cpu")
    resumed = train(make_task(gan, alignment=ALIGNMENT), TRAINING, tmp_path / "cut", resume=True, device="cpu")
    wanted, found = (load_file(run / "model" / "model.safetensors") for run in (whole, resumed))
    assert wanted.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_adapters_that_no_folder_can_hold_are_refused_before_the_first_step(tmp_path: Path) -> None:
    task = make_task()
    task.vae.decoder.conv_out = torch.nn.Sequential(task.vae.decoder.conv_out)  # as adapters wrap a layer
    with pytest.raises(FAEError, match=r"ConvVAE has other weights than a model of its config"):
        train(task, TRAINING, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_alignment_terms_by_hand() -> None:
    """Two positions: mapped along x and y, features along x and at 60 degrees to it."""
    mapped = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    features = torch.tensor([[[1.0, 0.0], [0.5, 0.75**0.5]]])
    # Cosines with the features: 1 and 0.866; relu(1 - 0.1 - cos): 0 and 0.0340.
    assert float(marginal_cosine(mapped, features, 0.1)) == pytest.approx((0 + 0.9 - 0.75**0.5) / 2, abs=1e-6)
    # Among positions: 0 in the latents, 0.5 in the features, twice of four pairs; the diagonal agrees.
    assert float(marginal_distance(mapped, features, 0.2)) == pytest.approx(2 * 0.3 / 4, abs=1e-6)


def test_alignment_weight_equals_gradient_norms() -> None:
    torch.manual_seed(0)
    alignment = Alignment(ALIGNMENT, channels=4, grid=(2, 2))
    layer = torch.nn.Parameter(torch.randn(4, 4, 1, 1))
    z = torch.nn.functional.conv2d(torch.randn(2, 4, 2, 2), layer)
    base = (3 * z).square().mean()
    terms = alignment.terms(z, torch.rand(2, 3, 64, 64), base, layer)
    raw = terms["alignment_cosine"] + terms["alignment_distance"]
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (base, raw, terms["loss"])]
    assert float(terms["alignment_weight"]) == pytest.approx(float(norms[0] / norms[1]), rel=1e-3)
    assert float(norms[2]) == pytest.approx(0.1 * float(norms[0]), rel=1e-3)


class TestAutoencoderKL:
    """Against the original, where diffusers is installed."""

    @pytest.fixture(scope="class")
    def original(self):
        diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")
        torch.manual_seed(0)
        return diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(16, 16, 32),
            layers_per_block=2,
            latent_channels=6,
            norm_num_groups=8,
            sample_size=32,
            scaling_factor=0.3,
            shift_factor=0.1,
        ).eval()

    @pytest.fixture(scope="class")
    def folder(self, original, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("pipeline") / "vae"
        original.save_pretrained(folder)
        return folder

    def test_an_import_computes_the_same(self, original, folder: Path, tmp_path: Path) -> None:
        random = torch.get_rng_state()
        invoke(["import", "autoencoder-kl", str(folder.parent), "--out", str(tmp_path / "vae")])
        vae = load_tokenizer(tmp_path / "vae")
        assert torch.equal(torch.get_rng_state(), random)  # nothing is drawn that a file replaces
        x = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            theirs = original.encode(2 * x - 1).latent_dist
            ours = vae.posterior(x)
            torch.testing.assert_close(ours.mean, theirs.mean, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(ours.logvar, theirs.logvar, atol=1e-5, rtol=1e-5)
            z = vae.encode(x)
            torch.testing.assert_close(z, (theirs.mean - 0.1) * 0.3, atol=1e-5, rtol=1e-5)
            painted = (original.decode(z / 0.3 + 0.1).sample / 2 + 0.5).clamp(0, 1)
            torch.testing.assert_close(vae.decode(z), painted, atol=1e-5, rtol=1e-5)

    def test_attention_of_older_checkpoints_is_read_too(self, original) -> None:
        """Until 2023 the projections had the names query, key, value and proj_attn; in SD they are 1x1 convolutions."""
        new = original.state_dict()
        old = {}
        for name, value in new.items():
            for theirs, older in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                if f".{theirs}.weight" in name:
                    value = value[..., None, None]
                name = name.replace(f".{theirs}.", f".{older}.")
            old[name] = value
        found, wanted = convert_state(old), convert_state(new)
        assert old.keys() != new.keys() and found.keys() == wanted.keys()
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())

    def test_statistics_can_be_measured_over_data(self, folder: Path, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "vae"
        invoke(["import", "autoencoder-kl", str(folder), "--out", str(out), "--data", str(data), "--device", "cpu"])
        vae = ConvVAE.from_pretrained(out)
        z = vae.encode(load_batch(Gradients(6), range(6), 32))
        torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(6), atol=1e-3, rtol=0)

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [("_class_name", "AutoencoderTiny", "not diffusers' AutoencoderKL"), ("act_fn", "gelu", "only 'silu'")],
    )
    def test_other_structures_are_refused(
        self, folder: Path, tmp_path: Path, field: str, value: str, message: str
    ) -> None:
        stored = json.loads((folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**stored, field: value}))
        with pytest.raises(InvalidFile, match=message):
            invoke(["import", "autoencoder-kl", str(tmp_path), "--out", str(tmp_path / "out")])


def test_a_folder_of_another_spec_is_refused(vae_run: Path) -> None:
    vae = ConvVAE.from_pretrained(vae_run)
    with pytest.raises(LatentSpecMismatch, match="mean"):
        ConvVAE.from_pretrained(vae_run, spec=vae.spec.with_statistics([0.0] * 8, [1.0] * 8))


@pytest.mark.parametrize("wrong", [lambda x: 2 * x - 1, lambda x: 255 * x, lambda x: x * float("nan"), lambda x: x[0]])
def test_images_out_of_range_or_shape_are_refused_at_every_door(wrong) -> None:
    vae = ConvVAE(ConvVAEConfig(**TINY)).eval()
    for door in (vae.encode, vae.posterior, vae.reconstruct):
        with pytest.raises(FAEError, match=r"in \[0, 1\]"):
            door(wrong(torch.rand(2, 3, *vae.spec.image_shape)))


def test_the_only_variant_is_taken_and_a_choice_is_asked_for(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")
    from fae_decoders.imports.autoencoder_kl import load_autoencoder_kl

    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, sample_size=32).half()
    theirs.save_pretrained(tmp_path, variant="fp16")
    (fp16,) = tmp_path.glob("*.fp16.safetensors")
    exact = load_autoencoder_kl(tmp_path).spec.fingerprint
    assert load_autoencoder_kl(tmp_path, variant="fp16").spec.fingerprint == exact
    with pytest.raises(InvalidFile, match=r"no diffusion_pytorch_model\.bf16\.safetensors, but .*fp16"):
        load_autoencoder_kl(tmp_path, variant="bf16")
    shutil.copy(fp16, tmp_path / "diffusion_pytorch_model.ema.safetensors")
    with pytest.raises(InvalidFile, match=r"ema.*and.*fp16.*choose a variant"):
        load_autoencoder_kl(tmp_path)
    shutil.copy(fp16, tmp_path / "diffusion_pytorch_model.safetensors")
    assert load_autoencoder_kl(tmp_path).spec.fingerprint == exact
