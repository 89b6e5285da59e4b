"""DINOv2's linear heads on rebuilt features: the class token is a choice, the preprocessing is DINOv2's."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fae_core import LatentSpec
from fae_core.errors import FAEError, InvalidFile
from fae_eval.studies.linear_head import CLASS_TOKENS, LinearHead, dinov2_crop
from fae_eval.studies.probe import zero_shot_probe


class WithClassToken:
    """Patches are the colours of four quarters, doubled by the encoder's norm; the class token is their maximum."""

    spec = LatentSpec(3, 2, 2, 14, "test/colours", fingerprint="feed")

    class encoder:
        class backbone:
            image_size, final_norm = (14, 14), True

            @staticmethod
            def class_token(images):
                return images.amax((2, 3))

        class feature_norm:
            @staticmethod
            def inverse(features):
                return features / 2

        @staticmethod
        def features(images):
            assert images.shape[-2:] == (14, 14)
            return 2 * torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(2).mT

    def encode(self, images):
        return self.encoder.features(images).mT.unflatten(2, (2, 2))

    def features(self, z):
        return z.flatten(2).mT.flip(-1)  # red and blue change places on the way through the latents


@pytest.fixture
def head(tmp_path):
    """The class token alone decides: class i is colour i."""
    weight = torch.cat([torch.eye(3), torch.zeros(3, 3)], 1)
    save_file({"weight": weight, "bias": torch.zeros(3)}, tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def accuracies(result):
    return {row[0]: row[2] for row in result.table["rows"]}


def test_the_class_token_is_the_original_images_or_the_mean_of_the_patches(head, photographs):
    images = photographs("real")  # classes in the order blue, green, red
    original = zero_shot_probe(WithClassToken(), images, head=head, batch_size=7)
    mean = zero_shot_probe(WithClassToken(), images, head=head, cls="mean")
    # Heads call red 0 and blue 2, folders the reverse; rebuilt features have the two exchanged, which is right again.
    assert accuracies(mean) == {"original features": pytest.approx(1 / 3), "rebuilt features": 1}
    # The original class token does not pass through the latents, so nothing changes on the way.
    assert accuracies(original)["rebuilt features"] == accuracies(original)["original features"]
    for result, choice in ((original, "original"), (mean, "mean")):
        assert CLASS_TOKENS[choice] in " ".join(result.notes)
        assert result.provenance["cls"] == choice
        assert "shorter side 16, centre 14" in result.provenance["preparation"]
    with pytest.raises(FAEError, match="one of original, mean"):
        zero_shot_probe(WithClassToken(), images, head=head, cls="none")


def test_logits_are_a_matrix_on_class_token_and_mean_of_patches(tmp_path):
    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 6, generator=random), torch.randn(5, generator=random)
    torch.save({"linear.weight": weight, "linear.bias": bias}, tmp_path / "head.pth")
    patches, token = torch.randn(2, 4, 3, generator=random), torch.randn(2, 3, generator=random)
    head = LinearHead(tmp_path / "head.pth")
    expected = token @ weight[:, :3].T + patches.mean(1) @ weight[:, 3:].T + bias
    torch.testing.assert_close(head(patches, token), expected)
    torch.testing.assert_close(head(patches, None), head(patches, patches.mean(1)))
    with pytest.raises(FAEError, match="one-layer"):
        head(torch.zeros(2, 4, 7), None)
    torch.save({"weight": weight}, tmp_path / "no-bias.pth")
    with pytest.raises(InvalidFile, match="one weight and one bias"):
        LinearHead(tmp_path / "no-bias.pth")


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (301, 200)])
def test_images_are_prepared_as_torchvision_does_for_dinov2(size):
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is not installed")
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    theirs = transforms.CenterCrop(224)(transforms.Resize(256, transforms.InterpolationMode.BICUBIC)(image))
    assert dinov2_crop(image, 224).tobytes() == theirs.tobytes()
