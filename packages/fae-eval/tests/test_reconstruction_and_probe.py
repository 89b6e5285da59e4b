"""Reconstruction metrics and probes on a tokenizer whose behaviour is known."""

from __future__ import annotations

import pytest
import torch

from fae_core.errors import DataError, FAEError
from fae_core.images import load_batch, open_images
from fae_eval import evaluate_reconstruction
from fae_eval.metrics import psnr
from fae_eval.probe import apply_logistic, fit_logistic, trained_probe, zero_shot_probe


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


def test_images_without_labels_are_refused(fae, photographs):
    flat = photographs("real") / "red"
    with pytest.raises(DataError, match="no labels"):
        zero_shot_probe(fae, flat)
