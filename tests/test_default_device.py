"""Whatever torch's default device is, tensors are where their data or their model is.

A notebook may say torch.set_default_device("cuda"). Here the meta device stands for it: nothing can be read from a
tensor on it, so that one that was left to the default device ends the call.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fae_core import LatentSpec, LatentStore, SlotRandom, load_generator, load_tokenizer, show
from fae_core.images import open_images
from fae_core.latent_store import write_store
from fae_core.training import GeneratorTask
from fae_decoders.stages import DataConfig
from fae_decoders.stages.data import StageData
from fae_diffusion import integrate, integrate_sde, sde_grid, time_grid
from fae_eval import FeatureExtractor, evaluate, evaluate_reconstruction
from fae_eval.extractors.base import as_uint8_nchw
from fae_eval.figures import matching_picture, pca_picture, similarity_picture
from fae_eval.studies.probe import trained_probe
from fae_flow import STARFlow, STARFlowConfig

PACKAGES = Path(__file__).parents[1] / "packages"
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand"),
    *("randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}
# They write into buffers, wherever these are.
ELSEWHERE = {"fae_encoder/feature_norm.py"}


def undecided(path: Path) -> Iterator[str]:
    """Calls of torch's factories that leave the device to the default.

    Constructors may, and what a docstring says of: modules are built on the default device, as torch's are.
    """

    def visit(node: ast.AST, free: bool) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            said = "default device" in (ast.get_docstring(node) or "")
            free = free or said or node.name in ("__init__", "tables")
        if isinstance(node, ast.With):
            free = free or any("torch.device(" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call) and not free:
            module, _, name = ast.unparse(node.func).rpartition(".")
            named = {keyword.arg for keyword in node.keywords}
            if module == "torch" and name in FACTORIES and not named & {"device", None}:
                yield f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, free)

    return visit(ast.parse(path.read_text(encoding="utf-8")), False)


def test_tensors_that_no_constructor_makes_name_their_device() -> None:
    sources = {
        str(path.relative_to(source)): path for source in PACKAGES.glob("*/src") for path in source.rglob("*.py")
    }
    assert len(sources) > 300
    checked = [path for name, path in sources.items() if name not in ELSEWHERE and "/testing/" not in name]
    assert [call for path in checked for call in undecided(path)] == []


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    for number in range(8):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return str(folder)


class Pixels(FeatureExtractor):
    """Mean colours of a picture's quarters."""

    name, dim, resize, fingerprint = "pixels", 12, "none", "1"

    def outputs(self, images: Any) -> dict[str, Tensor]:
        x = as_uint8_nchw(images).float() / 255
        return {"pool": torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)}


def everything(photographs: str, folder: Path) -> dict[str, Callable[[], object]]:
    """What the packages do, each as a function; models and data are made now."""
    tokenizer: Any = load_tokenizer("cifar10")
    generator: Any = load_generator("cifar10")
    spec: LatentSpec = tokenizer.spec
    x, labels, random = torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), SlotRandom(0, [0, 1])
    z = tokenizer.encode(x)
    pictures = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
    stored = write_store(folder / "first", spec, z, labels=[0, 1], classes=["a", "b"]).folder
    store = LatentStore(stored)
    small = LatentSpec(3, 4, 4, 32, "toy/backbone")
    flow = STARFlow(STARFlowConfig(width=16, layers=(1, 1), head_dim=8, classes=2), small).eval()
    task = GeneratorTask(generator, store)
    data = StageData(open_images(photographs), tokenizer.encoder, DataConfig(), target_size=(32, 32))

    def sample(**options: Any) -> Callable[[], Tensor]:
        return lambda: generator.sample(labels, random=random, steps=3, **options)

    def evaluated(metric: str) -> Callable[[], object]:
        return lambda: evaluate(pictures, pictures[::-1].copy(), extractor=Pixels(), metrics=[metric], kernel_subsets=2)

    return {
        "read": lambda: store.read([0, 1]),
        "item": lambda: store[0],
        "stream": lambda: list(store.stream(seed=0)),
        "write": lambda: write_store(folder / "second", spec, z, labels=[0, 1], classes=["a", "b"]),
        "encode": lambda: tokenizer.encode(x),
        "posterior": lambda: tokenizer.posterior(x).sample(random),
        "decode": lambda: tokenizer.decode(z),
        "normalise": lambda: spec.normalize(spec.denormalize(z)),
        "show": lambda: show(x, labels=["a", "b"]),
        **{f"sample {options}": sample(**options) for options in ({"guidance": 2.0}, {"sampling": "fast"})},
        **{f"sample {method}": sample(method=method) for method in ("euler", "heun", "dpm++2m", "sde", "mean_flow")},
        "sample a list": lambda: generator.sample([0, 1], steps=2),
        "loss": lambda: generator.loss(z, labels),
        "train": lambda: task.load([0, 1], random),
        "flow": lambda: flow.sample(labels, random=random, guidance=2.0, jacobi={"stretch": 4}),
        "density": lambda: flow.bits_per_dim(torch.zeros(2, *small.shape, device="cpu"), labels),
        "integrate": lambda: integrate(lambda z, t: -z, z, time_grid(4, shift=2.0)),
        "integrate_sde": lambda: integrate_sde(lambda z, t: -z, z, sde_grid(4)),
        **{metric: evaluated(metric) for metric in ("frechet", "kid", "pr", "dc")},
        "reconstruction": lambda: evaluate_reconstruction(tokenizer, photographs, extractor=Pixels()),
        "components": lambda: pca_picture(tokenizer, x),
        "similarity": lambda: similarity_picture(tokenizer, x),
        "matches": lambda: matching_picture(tokenizer, x[0], x[1]),
        "mutual matches": lambda: matching_picture(tokenizer, x[0], x[1], select="mutual"),
        "probe": lambda: trained_probe(tokenizer, photographs),
        "features of a stage": data.prepare,
    }


def test_everything_works_beside_another_default_device(photographs: str, tmp_path: Path) -> None:
    failed = {}
    for name, run in everything(photographs, tmp_path).items():
        with torch.device("meta"):
            try:
                run()
            except Exception as error:
                failed[name] = repr(error)[:200]
    assert not failed
