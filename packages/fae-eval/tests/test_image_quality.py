"""PSNR and SSIM against torchmetrics and by hand; LPIPS' range."""

from __future__ import annotations

import pytest
import torch

from fae_core import images
from fae_core.errors import FAEError
from fae_eval.metrics import LPIPS, feature_cosine, feature_mse, psnr, ssim, unexplained_variance


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, 24, 31, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def test_psnr_of_a_constant_error_is_known():
    a = torch.zeros(2, 3, 4, 4)
    assert psnr(a, a + 0.1).tolist() == pytest.approx([20.0, 20.0])
    assert psnr(a, a).tolist() == [100.0, 100.0]


def test_identical_images_have_the_largest_psnr_and_leave_a_mean_finite():
    a, b = pair()
    a[0] = b[0] = 0.0
    values = psnr(a, b)
    assert values[0] == 100 and values.isfinite().all()
    assert psnr(a, (a + 1e-6).clamp(0, 1)).max() == 100  # less than half of a level


@pytest.mark.parametrize("metric", [psnr, ssim, images.psnr])
def test_images_of_two_shapes_are_not_compared(metric):
    a, b = pair()
    for other in (b[:1], b[..., :1], b[:, :1], b[0]):
        with pytest.raises(FAEError, match=r"\(B, C, H, W\)"):
            metric(a, other)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_what_is_no_picture_has_no_quality(metric):
    a, _ = pair()
    for wrong in (a * float("nan"), a + float("inf"), a[:0], a[0], a[:, :, :5]):
        with pytest.raises(FAEError):
            metric(wrong, a)


def test_features_without_numbers_or_variance_have_no_measure():
    a = torch.ones(2, 3, 4)
    for measure in (feature_cosine, feature_mse, unexplained_variance):
        for wrong in (a * float("nan"), a[:0], a[:, :2]):
            with pytest.raises(FAEError):
                measure(wrong, a)
    with pytest.raises(FAEError, match="do not vary"):
        unexplained_variance(a, a + 1)


def test_ssim_and_psnr_agree_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    a, b = pair()
    theirs = functional.structural_similarity_index_measure(a.double(), b.double(), data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(a, b), theirs.double(), rtol=1e-6, atol=1e-8)
    one = functional.peak_signal_noise_ratio(a[:1], b[:1], data_range=1.0)
    assert psnr(a, b)[0].item() == pytest.approx(one.item(), rel=1e-5)


def test_images_outside_the_unit_range_are_refused():
    a, _ = pair()
    for metric in (psnr, ssim):
        with pytest.raises(FAEError, match=r"\[0, 1\]"):
            metric(a * 2 - 1, a)


def test_lpips_is_given_minus_one_to_one():
    lpips = pytest.importorskip("lpips", reason="lpips is not installed")
    # The wheel has no network weights: random ones serve, for only the input's range is tested.
    wrapper = LPIPS.__new__(LPIPS)
    torch.nn.Module.__init__(wrapper)
    torch.manual_seed(0)
    wrapper.model = lpips.LPIPS(net="alex", pnet_rand=True, pretrained=False, verbose=False).eval()
    a, b = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(wrapper(a, b), wrapper.model(a * 2 - 1, b * 2 - 1).flatten())
    assert wrapper(a, a).item() == 0


def test_feature_measures_by_hand():
    a = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    assert feature_cosine(a, -a).item() == pytest.approx(-1)
    assert feature_mse(a, a + 1).item() == pytest.approx(1)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    assert unexplained_variance(x, x.flatten(0, 1).mean(0).expand_as(x)) == pytest.approx(1)
    assert unexplained_variance(x, x) == 0
