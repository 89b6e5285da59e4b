"""Claims about docs/fine-tune-quantise-export.md: its lines run in order, and the differences are as stated."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest
import torch
from page_blocks import blocks
from PIL import Image

from fae_core import LatentSpec, load_generator, load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.models.pretrained import PretrainedModel
from fae_diffusion import LightningDiT, MMDiT, SiT

PAGE = "docs/fine-tune-quantise-export.md"
TIMES = torch.tensor([0.2, 0.5, 0.9, 0.4, 0.7])
LABELS = torch.tensor([0, 1, 2, 3, 4])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names of the page after its lines were run, in a folder with some photographs."""
    for needed in ("peft", "torchao", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed, reason="the page's tools are not part of the packages")
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    for label in range(2):
        (folder / "photos" / str(label)).mkdir(parents=True)
        for index in range(8):
            picture = Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8))
            picture.save(folder / "photos" / str(label) / f"{index}.png")
    names: dict[str, Any] = {"__name__": "page"}
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks(PAGE):
            if block.reason is not None:
                continue
            if block.language == "bash":
                invoke(shlex.split(block.text)[1:])
            else:
                exec(compile(block.text, PAGE, "exec"), names)
    return {**names, "folder": folder}


def noise(spec: LatentSpec, count: int = 5) -> torch.Tensor:
    return torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@torch.no_grad()
def test_lora_is_learned_saved_and_merged(ran: dict[str, Any]) -> None:
    generator, merged = load_generator("cifar10"), load_generator(ran["folder"] / "fine-tuned")
    given = (noise(generator.spec), TIMES, LABELS)
    tuned = ran["again"].velocity(*given)
    assert (tuned - generator.velocity(*given)).abs().max() > 1e-3
    torch.testing.assert_close(ran["adapted"].get_base_model().velocity(*given), tuned)
    torch.testing.assert_close(merged.velocity(*given), tuned, atol=1e-4, rtol=0)
    assert type(merged) is type(generator) and merged.class_names == generator.class_names


@pytest.mark.slow
@torch.no_grad()
def test_int8_differs_by_as_much_as_is_stated(ran: dict[str, Any]) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    generator, tokenizer = load_generator("cifar10"), load_tokenizer("cifar10")
    given, pictures = (noise(generator.spec), TIMES, LABELS), torch.rand(5, 3, *tokenizer.spec.image_shape)

    def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
        return ((found - wanted).norm() / wanted.norm()).item()

    assert 0.003 < error(ran["small"].velocity(*given), generator.velocity(*given)) < 0.02
    both = load_generator("cifar10")
    quantize_(both, Int8DynamicActivationInt8WeightConfig())
    assert 0.005 < error(both.velocity(*given), generator.velocity(*given)) < 0.04
    smaller = load_tokenizer("cifar10")
    quantize_(smaller, Int8WeightOnlyConfig())
    assert 1e-4 < error(smaller.encode(pictures), tokenizer.encode(pictures)) < 0.01
    assert ran["images"].shape == (2, 3, *tokenizer.spec.image_shape)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "exported", "onnx"), [("encode", 1e-5, 4e-5), ("decode", 2e-6, 4e-6)])
@torch.no_grad()
def test_the_tokenizer_is_exported(ran: dict[str, Any], method: str, exported: float, onnx: float) -> None:
    differences(ran, method, exported, onnx, (noise(load_tokenizer("cifar10").spec),))


@pytest.mark.slow
@torch.no_grad()
def test_the_velocity_is_exported(ran: dict[str, Any]) -> None:
    differences(ran, "velocity", 3e-5, 3e-5, (noise(load_tokenizer("cifar10").spec), TIMES, LABELS))


def differences(
    ran: dict[str, Any], method: str, exported: float, onnx: float, inputs: tuple[torch.Tensor, ...]
) -> None:
    """Compare the exported programs with the model, at a batch size of 5 and of 1."""
    import onnxruntime

    model = ran["calls"][method][0]
    if method == "encode":
        inputs = (torch.rand(5, 3, *model.spec.image_shape, generator=torch.Generator().manual_seed(0)),)
    saved = torch.export.load(ran["folder"] / f"{method}.pt2").module()
    session = onnxruntime.InferenceSession(str(ran["folder"] / f"{method}.onnx"))
    for count in (5, 1):
        some = tuple(one[:count] for one in inputs)
        wanted = getattr(model, method)(*some)
        torch.testing.assert_close(saved(*some), wanted, atol=exported, rtol=0)
        fed = {one.name: part.numpy() for one, part in zip(session.get_inputs(), some, strict=True)}
        torch.testing.assert_close(torch.from_numpy(session.run(None, fed)[0]), wanted, atol=onnx, rtol=0)


class Velocity(torch.nn.Module):
    """A generator's velocity as forward."""

    def __init__(self, generator: PretrainedModel) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: torch.Tensor, t: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        return self.generator.velocity(z, t, condition if len(condition) > 1 else condition[0])


SPEC = LatentSpec(4, 4, 4, 32, "toy")
GENERATORS = {
    "lightningdit": (LightningDiT, {"width": 32, "depth": 1, "heads": 2}),
    "sit predicting noise": (SiT, {"width": 32, "depth": 1, "heads": 2, "transport": {"prediction": "noise"}}),
    "mmdit": (MMDiT, {"width": 32, "depth": 2, "heads": 2}),
}


@pytest.mark.parametrize("kind", GENERATORS)
@torch.no_grad()
def test_every_velocity_exports_with_a_dynamic_batch(kind: str) -> None:
    model_class, fields = GENERATORS[kind]
    generator = model_class.from_preset(f"{model_class.model_type}-tiny", spec=SPEC, seed=0, **fields).eval()
    for weight in generator.parameters():
        weight.normal_(std=0.05)
    condition = (LABELS,)
    if model_class is MMDiT:
        condition = (torch.randn(5, 6, generator.config.text_width), torch.arange(6).expand(5, 6) < 4)
    given = (noise(SPEC), TIMES, *condition)
    batch = torch.export.Dim("batch", min=1, max=64)
    dynamic = ({0: batch}, {0: batch}, tuple({0: batch} for _ in condition))
    program = torch.export.export(Velocity(generator), tuple(g[:3] for g in given), dynamic_shapes=dynamic).module()
    for count in (1, 2, 5):
        some = tuple(g[:count] for g in given)
        torch.testing.assert_close(program(*some), Velocity(generator)(*some), atol=1e-5, rtol=1e-4)
