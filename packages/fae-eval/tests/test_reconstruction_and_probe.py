"""Reconstruction metrics and probes on a tokenizer whose behaviour is known."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from fae_core.errors import DataError, FAEError
from fae_core.images import load_batch, open_images
from fae_eval import evaluate, evaluate_reconstruction
from fae_eval.metrics import psnr
from fae_eval.studies.head_classes import BY_PLACE, labels_for_head
from fae_eval.studies.probe import apply_logistic, fit_logistic, trained_probe, zero_shot_probe


def test_reconstruction_is_measured_after_rounding_to_uint8(fae, photographs, extractor, tmp_path):
    folder = photographs("real")
    source = open_images(folder)
    images = load_batch(source, range(24), 16)
    rebuilt = (fae.decode(fae.encode(images)) * 255).round() / 255
    result = evaluate_reconstruction(fae, folder, extractor=extractor, batch_size=5, picture=tmp_path / "r.png")
    assert result.values["PSNR [dB]"] == pytest.approx(psnr(images, rebuilt).mean().item(), rel=1e-9)
    assert result.values["feature cosine"] == pytest.approx(1, abs=1e-6)
    assert result.values["unexplained variance"] == pytest.approx(0, abs=1e-9)
    assert "rFD-pixels" in result.values
    assert (tmp_path / "r.png").is_file()
    assert result.figures[0]["path"] == "r.png"


def test_reconstructions_are_compared_with_the_images_and_not_with_what_a_backbone_reads(fae, photographs, extractor):
    """Images of 16 pixels, read at 64 for the encoder: enlarged and made smaller again they would be softer."""

    class ReadsLarger:
        spec, read_size, decode = fae.spec, (64, 64), staticmethod(fae.decode)

        @staticmethod
        def encode(images):
            assert images.shape[-2:] == (64, 64)
            return fae.encode(images)

    source = open_images(photographs("real"))
    images, read = load_batch(source, range(24), 16), load_batch(source, range(24), 64)
    rebuilt = (fae.decode(fae.encode(read)) * 255).round() / 255
    result = evaluate_reconstruction(ReadsLarger(), source, extractor=extractor, batch_size=5)
    assert result.values["PSNR [dB]"] == pytest.approx(psnr(images, rebuilt).mean().item(), rel=1e-9)
    measured = evaluate(source, source, extractor=extractor)
    assert result.provenance["images"]["hash"] == measured.provenance["samples"]["hash"]


def test_the_record_names_the_network_of_lpips(fae, photographs, monkeypatch):
    """Distances of different networks do not compare."""

    class Perceptual(torch.nn.Module):
        name = "lpips-alex"

        def forward(self, a, b):
            return (a - b).abs().flatten(1).mean(1)

    monkeypatch.setattr("fae_eval.studies.reconstruction.LPIPS", Perceptual)
    result = evaluate_reconstruction(fae, photographs("real"), extractor=None, lpips=True)
    assert result.values["LPIPS"] >= 0 and result.provenance["lpips"] == "lpips-alex"
    assert "lpips" not in evaluate_reconstruction(fae, photographs("real"), extractor=None).provenance


def test_a_tokenizer_that_cannot_paint_is_refused(fae, photographs):
    class Half:
        spec = fae.spec
        encode = fae.encode

    with pytest.raises(FAEError, match="cannot paint"):
        evaluate_reconstruction(Half(), photographs("real"), extractor=None)


def test_zero_shot_head_sees_the_dominant_colour(fae, photographs):
    result = zero_shot_probe(fae, photographs("real"), batch_size=7)
    # Folders are in alphabetical order (blue, green, red), so only green is where the head expects it.
    assert result.table["rows"][0][2] == pytest.approx(1 / 3)
    assert result.table["rows"][0][3] == 1
    assert [row[0] for row in result.table["rows"]] == ["original features", "rebuilt features"]


def test_logistic_regression_reaches_the_optimum():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    fitted = fit_logistic(x, y, 3, weight_decay=0.1)
    mean, std, weight, bias = fitted
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    logits = apply_logistic((mean, std, weight, bias), x)
    loss = torch.nn.functional.cross_entropy(logits, y) + 0.05 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(g.abs().max().item() for g in gradients) < 1e-4


def test_trained_probe_separates_colours_in_every_space(fae, photographs):
    result = trained_probe(fae, photographs("real", count=48), seed=1)
    assert {row[0]: row[3] for row in result.table["rows"]} == {"features": 1, "latents": 1, "rebuilt features": 1}
    again = trained_probe(fae, photographs("real", count=48), seed=1)
    assert again.table == result.table


def test_probes_leave_out_images_that_cannot_be_read_and_name_them(fae, photographs):
    """Labels stay those of their images, and other pictures give the same numbers as if the broken ones were absent."""
    train, test, whole = photographs("train", count=48), photographs("test", seed=3), photographs("whole", seed=3)
    for folder in (train, test):
        (folder / "blue" / "0000.png").write_bytes(b"no image")  # the first of all
    mistakes = [trained_probe(fae, train, batch_size=1), trained_probe(fae, train, test_images=test, batch_size=5)]
    for result in mistakes:
        assert [row[3] for row in result.rows] == [1, 1, 1]
    assert mistakes[0].provenance["counts"] == {"train": 36, "test": 12, "classes": 3}
    assert "2 unreadable images were left out: " in mistakes[1].warnings[-1] and "0000.png" in mistakes[1].warnings[-1]
    shot = zero_shot_probe(fae, test, batch_size=7)
    assert shot.rows == zero_shot_probe(fae, whole).rows and "1 unreadable images" in shot.warnings[0]
    for path in test.rglob("*.png"):
        path.write_bytes(b"no image")
    for probe in (lambda: zero_shot_probe(fae, test), lambda: trained_probe(fae, train, test_images=test)):
        with pytest.raises(DataError, match="none of the 25 images can be read"):
            probe()


def test_images_without_labels_are_refused(fae, photographs):
    flat = photographs("real") / "red"
    with pytest.raises(DataError, match="no labels"):
        zero_shot_probe(fae, flat)


def test_test_images_meet_the_training_images_by_name(fae, photographs, tmp_path):
    """Without a folder of one class, and in another order, each picture is still what it is called."""
    train, test = photographs("real", count=48), photographs("test", seed=3)
    whole = trained_probe(fae, train, test_images=test)
    shutil.rmtree(test / "blue")
    fewer = trained_probe(fae, train, test_images=test)
    (test / "classes.json").write_text('["red", "violet", "green"]')
    turned = trained_probe(fae, train, test_images=test)
    for result in (whole, fewer, turned):
        assert [row[3] for row in result.table["rows"]] == [1, 1, 1]
    (test / "green").rename(test / "grass")
    (test / "classes.json").unlink()
    with pytest.raises(DataError, match=r"'grass'; there are 'blue', 'green', 'red'"):
        trained_probe(fae, train, test_images=test)


def test_a_probe_needs_what_it_can_learn_from(fae, photographs):
    train = photographs("real")
    for name in ("green", "blue"):
        shutil.rmtree(train / name)
    with pytest.raises(DataError, match="images of two"):
        trained_probe(fae, train)
    for x in (torch.full((4, 2), float("nan")), torch.zeros(1, 2)):
        with pytest.raises(FAEError, match="finite features of at least two"):
            fit_logistic(x, torch.zeros(len(x), dtype=torch.long), 2)
    alone = photographs("rare", count=12)
    for path in sorted(alone.glob("red/*.png"))[1:]:
        path.unlink()
    result = trained_probe(fae, alone, seed=next(seed for seed in range(99) if _held_out(8, 9, seed)))
    assert "1 of 2 test images are of classes without a training image" in result.warnings


def _held_out(index, count, seed):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return index in order[: round(count * 0.25)]


def test_imagenets_classes_meet_a_head_by_name():
    timm = pytest.importorskip("timm.data", reason="timm is not installed")
    wnids = timm.ImageNetInfo().label_names()
    assert labels_for_head([0, 999], wnids, 1000) == ([0, 999], None)
    assert labels_for_head([0, 1, 1], [wnids[7], wnids[3]], 1000) == ([7, 3, 3], None)
    assert labels_for_head([0, 1], ["goldfish", "tench"], 1000) == ([1, 0], None)
    assert labels_for_head([0, 1], list(reversed(wnids)), 1000) == ([999, 998], None)
    numbers = sorted(map(str, range(1000)))  # folders that are called by ImageNet's numbers: 0, 1, 10, 100, 101, ...
    assert labels_for_head([1, 2, 999], numbers, 1000) == ([1, 10, 999], None)
    assert labels_for_head([0, 1], ["0007", "0980"], 1000) == ([7, 980], None)
    with pytest.raises(FAEError, match="2 classes and the head 1000"):
        labels_for_head([0, 1], ["goldfish", "crane"], 1000)  # two outputs are called crane
    in_order = [f"class {i}" for i in range(1000)]
    assert labels_for_head([5], in_order, 1000) == ([5], BY_PLACE)
    in_order[3] = "goldfish"
    with pytest.raises(DataError, match="class 3 of the images is called 'goldfish', which is output 1"):
        labels_for_head([3, 5], in_order, 1000)


def test_a_head_without_names_is_met_by_place_and_says_so(fae, photographs):
    assert BY_PLACE in zero_shot_probe(fae, photographs("real")).notes
    with pytest.raises(DataError, match="label 3"):
        labels_for_head([0, 3], None, 3)
    with pytest.raises(FAEError, match="2 classes and the head 3"):
        labels_for_head([0, 1], ["a", "b"], 3)


def test_one_blank_image_leaves_the_mean_finite(fae, photographs):
    class Exact:
        spec = fae.spec
        encode = staticmethod(lambda images: images)
        decode = staticmethod(lambda z: torch.where(z.amax((1, 2, 3), keepdim=True) > 0, (z + 0.05).clamp(0, 1), z))

    folder = photographs("real")
    before = evaluate_reconstruction(Exact(), folder, extractor=None).values["PSNR [dB]"]
    Image.new("RGB", (16, 16)).save(folder / "red" / "blank.png")
    after = evaluate_reconstruction(Exact(), folder, extractor=None).values["PSNR [dB]"]
    assert after == pytest.approx((24 * before + 100) / 25)


def test_numbers_that_are_none_are_not_painted_black(fae, photographs):
    class Broken:
        spec, encode = fae.spec, fae.encode
        decode = staticmethod(lambda z: torch.full((len(z), 3, 16, 16), float("nan")))

    with pytest.raises(FAEError, match="not finite"):
        evaluate_reconstruction(Broken(), photographs("real"), extractor=None)


def test_features_that_never_vary_have_no_unexplained_variance(fae, photographs, tmp_path):
    (tmp_path / "grey").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "grey" / f"{i}.png")
    constant = type(fae)()
    constant.encoder = SimpleNamespace(features=lambda images: torch.full((len(images), 16, 6), 0.1))
    constant.features = lambda z: torch.full((len(z), 16, 6), 0.2)
    result = evaluate_reconstruction(constant, tmp_path / "grey", extractor=None)
    assert "unexplained variance" not in result.values and "do not vary" in result.warnings[0]
