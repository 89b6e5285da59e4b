"""The three training stages: what they learn and measure, and that interruption and batching do not change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_fae import PAINT, TRAINING, Gradients, make_autoencoder_task, make_encoder, make_noise_task

from fae_core.errors import FAEError
from fae_core.images import load_batch
from fae_core.images.transform import resize
from fae_core.latent_store.statistics import ChannelSums
from fae_core.random import SlotRandom
from fae_core.training import train
from fae_core.training.journal import read_metrics
from fae_decoders import FAE, FeatureSpaceMismatch, PixelDecoder
from fae_decoders.losses import PixelLossConfig
from fae_decoders.stages import DataConfig, PixelFinetuneConfig, PixelFinetuneTask
from fae_decoders.stages.data import StageData
from fae_decoders.stages.preview import preview_rows

GAN = PixelLossConfig(
    perceptual="none", adversarial="patchgan", adaptive="per_image", discriminator_width=8, adversarial_start=2
)


def images(count: int = 10) -> torch.Tensor:
    return load_batch(Gradients(count), range(count), 64)


@pytest.mark.parametrize("run", ["autoencoder_run", "noise_run", "finetune_run"])
def test_every_stage_learns(run: str, request) -> None:
    losses = [row["loss"] for row in read_metrics(request.getfixturevalue(run))]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_measured_statistics_normalise_the_training_latents(autoencoder_run: Path) -> None:
    fae = FAE.from_pretrained(autoencoder_run)
    z = fae.encode(images())
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(8), atol=1e-4, rtol=0)
    raw = fae.posterior(images()).mean
    torch.testing.assert_close(torch.tensor(fae.spec.mean), raw.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)


def test_feature_norm_standardises_the_training_features(autoencoder_run: Path) -> None:
    features = FAE.from_pretrained(autoencoder_run).encoder.features(images()).flatten(0, 1)
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0, correction=0), torch.ones(64), atol=1e-3, rtol=0)


def test_the_export_holds_the_averaged_weights(tmp_path: Path) -> None:
    """With an average that never moves, what is exported is what training started from."""
    task = make_autoencoder_task()
    before = {name: value.clone() for name, value in task.modules["feature_decoder"].state_dict().items()}
    config = TRAINING.model_copy(update={"steps": 2, "ema_decay": 0.9999999})
    train(task, config, tmp_path / "run", device="cpu")
    exported = FAE.from_pretrained(tmp_path / "run").feature_decoder.state_dict()
    live = task.modules["feature_decoder"].state_dict()
    torch.testing.assert_close(exported, before, atol=1e-4, rtol=0)
    assert (live["proj_in.weight"] - before["proj_in.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("read_batch", [3, 10])
def test_statistics_do_not_depend_on_how_the_data_is_read(read_batch: int) -> None:
    task = make_noise_task(data=DataConfig(read_batch=read_batch))
    rms = task.data.prepare()
    raw = make_encoder().backbone(images()).flatten(0, 1).double()
    norm = task.encoder.feature_norm
    torch.testing.assert_close(norm.mean.double(), raw.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.std.double(), raw.std(0, correction=0), atol=1e-5, rtol=1e-4)
    assert rms == pytest.approx(1.0, abs=1e-4)


def test_running_statistics_match_numpys() -> None:
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 + 1000
    sums = ChannelSums.empty(3)
    for part in values.split([1, 20, 29]):
        sums = sums + ChannelSums.of(part[:, :, None])
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in sums.mean_std())
    torch.testing.assert_close(mean, values.mean(0), atol=0, rtol=1e-12)
    torch.testing.assert_close(std, values.std(0, correction=0), atol=0, rtol=1e-10)
    rms = (sums.variance + sums.mean**2).mean() ** 0.5
    assert rms == pytest.approx(float(values.square().mean().sqrt()), rel=1e-12)


def test_noise_follows_the_features_scale() -> None:
    raw = make_encoder().backbone(images())
    relative, absolute = make_noise_task(make_encoder()), make_noise_task(make_encoder(), relative=False)
    for task in (relative, absolute):
        task.prepare("cpu")
    assert relative.noise_std == pytest.approx(0.4 * float(raw.square().mean().sqrt()), rel=1e-4)
    assert absolute.noise_std == 0.4
    noisy = absolute.inputs(raw, SlotRandom(0, range(10)))
    assert float((noisy - raw).std()) == pytest.approx(0.4, rel=0.02)


def test_kept_and_computed_features_are_the_same() -> None:
    kept, computed = make_noise_task(), make_noise_task(data=DataConfig(cache_gb=0))
    for task in (kept, computed):
        task.prepare("cpu")
    assert kept.data._features is not None
    assert computed.data._features is None
    random = SlotRandom(0, range(3))
    batches = [task.load([7, 0, 7], random) for task in (kept, computed)]
    features = [task.data.batch_features(batch) for task, batch in zip((kept, computed), batches, strict=True)]
    torch.testing.assert_close(*features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batches[0]["target"], batches[1]["target"])


def test_flips_belong_to_the_sample_and_reach_features_and_target() -> None:
    data = make_noise_task(data=DataConfig(flip=True)).data
    batch = data.load(list(range(10)), SlotRandom(0, range(10)))
    plain = images()
    mirrored = [
        torch.equal(a, b.flip(-1)) and not torch.equal(a, b) for a, b in zip(batch["images"], plain, strict=True)
    ]
    assert 1 <= sum(mirrored) <= 9
    assert torch.equal(batch["images"], batch["target"])


class Noise(Gradients):
    """16-pixel noise, which nothing survives that enlarges it and makes it smaller again."""

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize("data", [DataConfig(), DataConfig(cache_gb=0), DataConfig(cache_gb=0, flip=True)])
def test_targets_are_the_images_and_not_what_a_backbone_reads(data: DataConfig) -> None:
    read = StageData(Noise(4), make_encoder(), data, target_size=(16, 16))
    read.prepare()
    target = read.load([2, 0, 1], SlotRandom(0, range(3)))["target"]
    for row, own in zip(target, load_batch(Noise(4), [2, 0, 1], 16), strict=True):
        assert torch.equal(row, own) or (data.flip and torch.equal(row, own.flip(-1)))
    assert read.identity()["target_images"] == "as they are"
    # With other proportions a target shows what the backbone sees.
    read = StageData(Noise(4), make_encoder(), data, target_size=(8, 16))
    images, target = read.read([0])
    assert images.shape[-2:] == (64, 64)
    torch.testing.assert_close(target, resize(images, (8, 16)))


@pytest.mark.parametrize("stage", ["autoencoder", "noise", "gan"])
def test_accumulation_equals_the_larger_batch(stage: str) -> None:
    task = (
        make_autoencoder_task() if stage == "autoencoder" else make_noise_task(losses=GAN if stage == "gan" else PAINT)
    )
    task.prepare("cpu")
    random = SlotRandom(0, range(4), step=5)
    batch = task.load([3, 1, 4, 1], random)
    for phase in task.phases:
        parameters = [p for name in phase.modules for p in task.modules[name].parameters() if p.requires_grad]
        gradients = []
        for parts in ([slice(0, 4)], [slice(0, 2), slice(2, 4)]):
            total = [torch.zeros_like(p) for p in parameters]
            for rows in parts:
                part = {name: value[rows] for name, value in batch.items()}
                if phase.name == "discriminator":  # it judges what the decoder painted
                    task.phases[0].loss(part, random.select(rows))
                loss = phase.loss(part, random.select(rows))["loss"] / len(parts)
                for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                    sum_ += gradient
            gradients.append(total)
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("losses", [None, GAN], ids=["autoencoder", "gan"])
def test_an_interrupted_run_ends_bit_identical(losses: PixelLossConfig | None, tmp_path: Path) -> None:
    def make():
        return make_autoencoder_task() if losses is None else make_noise_task(losses=losses)

    whole = train(make(), TRAINING, tmp_path / "whole", device="cpu")
    cut = make()
    inner = cut.load

    def failing(indices: list[int], random: SlotRandom) -> dict[str, torch.Tensor]:
        if random.step == 7:
            raise ConnectionError("the power went")
        return inner(indices, random)

    cut.load = failing
    with pytest.raises(ConnectionError):
        train(cut, TRAINING, tmp_path / "cut", device="cpu")
    resumed = train(make(), TRAINING, tmp_path / "cut", resume=True, device="cpu")
    for path in sorted((whole / "model").rglob("model.safetensors")):
        other = load_file(resumed / "model" / path.relative_to(whole / "model"))
        for name, value in load_file(path).items():
            assert torch.equal(value, other[name]), name


def test_the_discriminator_learns_after_its_start_only(tmp_path: Path) -> None:
    late = GAN.model_copy(update={"discriminator_start": 6, "adversarial_start": 8})
    run = train(make_noise_task(losses=late), TRAINING, tmp_path / "run", device="cpu")
    rows = read_metrics(run)
    assert [("discriminator/hinge" in row) for row in rows] == [step > 6 for step in range(1, 13)]
    assert [("decoder/adversarial" in row) for row in rows] == [step > 8 for step in range(1, 13)]


def test_previews_are_written(tmp_path: Path) -> None:
    config = TRAINING.model_copy(update={"steps": 2, "preview_every": 2})
    run = train(make_noise_task(), config, tmp_path / "run", device="cpu")
    assert (run / "samples" / "step-00000002.png").is_file()
    assert read_metrics(run)[-1]["preview_psnr"] > 0


@pytest.mark.parametrize("count", [1, 3, 7, 8, 20])
def test_a_preview_shows_no_image_twice(count: int) -> None:
    rows = preview_rows(count)
    assert len(set(rows)) == len(rows) == min(count, 8)
    assert set(rows) <= set(range(count))


def test_finetuning_can_put_noise_on_normalised_latents(autoencoder_run: Path, noise_run: Path) -> None:
    fae, decoder, random = (
        FAE.from_pretrained(autoencoder_run),
        PixelDecoder.from_pretrained(noise_run),
        SlotRandom(0, [0, 1]),
    )
    options = {"latent": "mean", "latent_noise": 0.2, "losses": PAINT}
    task = PixelFinetuneTask(fae, decoder, Gradients(2), PixelFinetuneConfig(**options))
    features = fae.encoder.features(images(2))
    z = fae.spec.normalize(fae.encoder.adapt(features).mode())
    expected = fae.feature_decoder(z + 0.2 * random.normal(fae.spec.shape, "latent noise"))
    torch.testing.assert_close(task.inputs(features, random), expected)


def test_finetuning_refuses_a_decoder_of_other_features(autoencoder_run: Path, noise_run: Path) -> None:
    decoder = PixelDecoder.from_pretrained(noise_run)
    space = decoder.config.features.model_copy(update={"mean": tuple(m + 1 for m in decoder.config.features.mean)})
    foreign = PixelDecoder(decoder.config.model_copy(update={"features": space}))
    with pytest.raises(FeatureSpaceMismatch, match="feature normalisation"):
        PixelFinetuneTask(
            FAE.from_pretrained(autoencoder_run), foreign, Gradients(4), PixelFinetuneConfig(losses=PAINT)
        )


def test_stages_refuse_parts_that_do_not_fit() -> None:
    with pytest.raises(FAEError, match=r"layer_weights has 2 numbers, the backbone gives 1 layers"):
        make_autoencoder_task(layer_weights=(1.0, 2.0))
    with pytest.raises(FAEError, match="64 channels"):
        torch.manual_seed(0)
        task = make_noise_task()
        wrong = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=32)
        type(task)(task.encoder, wrong, Gradients(2), task.config)


def test_non_square_images_go_through_every_stage(tmp_path: Path) -> None:
    shape = (64, 128)
    encoder = make_encoder(image_size=shape, backbone={"image_size": shape})
    run = train(
        make_autoencoder_task(encoder), TRAINING.model_copy(update={"steps": 1}), tmp_path / "run", device="cpu"
    )
    wide = FAE.from_pretrained(run)
    decoder = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=64, grid=(4, 8), image_size=shape)
    task = PixelFinetuneTask(wide, decoder, Gradients(4), PixelFinetuneConfig(losses=PAINT))
    fae = FAE.from_pretrained(train(task, TRAINING.model_copy(update={"steps": 1}), tmp_path / "fae", device="cpu"))
    assert fae.spec.shape == (8, 4, 8)
    assert fae.reconstruct(torch.rand(1, 3, 32, 64)).shape == (1, 3, *shape)
    with pytest.raises(FAEError, match="another aspect ratio"):
        fae.encode(torch.rand(1, 3, 64, 64))


def test_bf16_computes_nearly_the_same_and_keeps_fp32_weights(tmp_path: Path) -> None:
    rows = {}
    for precision in ("fp32", "bf16"):
        config = TRAINING.model_copy(update={"steps": 3, "precision": precision})
        rows[precision] = read_metrics(train(make_autoencoder_task(), config, tmp_path / precision, device="cpu"))
    pairs = zip(rows["fp32"], rows["bf16"], strict=True)
    assert all(a["loss"] == pytest.approx(b["loss"], rel=0.02) for a, b in pairs)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # else a CPU uses fp32 for both
    assert (rows["fp32"][-1]["loss"] != rows["bf16"][-1]["loss"]) == native
    state = load_file(tmp_path / "bf16" / "model" / "feature_decoder" / "model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float32}


class Counted(Gradients):
    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.reads: list[int] = []

    def read(self, index: int):
        self.reads.append(index)
        return super().read(index)


@pytest.mark.parametrize("make", [make_autoencoder_task, make_noise_task])
def test_what_is_not_kept_in_memory_is_not_read_before_the_first_step(make) -> None:
    """But for the images on which the features' scale is measured."""
    task = make(data=DataConfig(cache_gb=0, norm_images=6))
    task.data.source = source = Counted(1000)
    task.prepare("cpu")
    assert sorted(source.reads) == [i * 1000 // 6 for i in range(6)]


def rms_encoder(**overrides: object):
    return make_encoder(standardize_features=True, adapter={"latent_norm": "rms"}, **overrides)


def test_rms_latents_are_learned_without_a_kl_term(tmp_path: Path) -> None:
    with pytest.raises(FAEError, match=r"set autoencoder\.beta=0"):
        make_autoencoder_task(rms_encoder())
    task = make_autoencoder_task(rms_encoder(), beta=0.0, noise=0.2)
    run = train(task, TRAINING, tmp_path / "run", device="cpu")
    rows = read_metrics(run)
    assert "kl" not in rows[0] and rows[0]["loss"] == rows[0]["l2"]
    assert sum(row["loss"] for row in rows[-3:]) < 0.8 * sum(row["loss"] for row in rows[:3])
    fae = FAE.from_pretrained(run)
    raw = fae.posterior(images()).mean
    torch.testing.assert_close(raw.square().mean(1), torch.ones(10, 4, 4), atol=1e-3, rtol=0)
    torch.testing.assert_close(fae.encode(images()).std((0, 2, 3), correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_noise_on_latents_has_one_size_per_image() -> None:
    task = make_autoencoder_task(beta=0.0, noise=0.2)
    z = torch.zeros(4000, 8, 4, 4)
    sizes = task._noised(z, SlotRandom(0, range(4000))).std((1, 2, 3))
    # A size is |N(0, 0.25^2)|: its mean is 0.2 (0.8 stands for sqrt(2 / pi)), and sizes differ between images.
    assert float(sizes.mean()) == pytest.approx(0.2, rel=0.05)
    assert float(sizes.std()) == pytest.approx(0.25 * (1 - 2 / torch.pi) ** 0.5, rel=0.08)
    one = task._noised(z[:1], SlotRandom(0, [7]))
    torch.testing.assert_close(one, task._noised(z[:8], SlotRandom(0, range(8)))[7:])
