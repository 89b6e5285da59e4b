"""Sampling options of any generator: unknown ones, and values out of range, are refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from fae_core import LatentSpec
from fae_core.config import Config, parse_config
from fae_core.errors import DataError, FAEError, InvalidFile
from fae_core.latent_store import write_store
from fae_core.models.draw import check_options, check_samples, draw_latents
from fae_core.random import SlotRandom
from fae_core.sampling.draw import choose_labels
from fae_core.sampling.job import SampleJob
from fae_core.training import GeneratorTask, PreviewConfig, TrainConfig

SPEC = LatentSpec(3, 4, 4, 4, "toy/backbone", fingerprint="toy")


class ThirdParty(nn.Module):
    """A generator of another package: it has nothing but `sample` and `loss`."""

    spec, config = SPEC, SimpleNamespace(classes=2)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def sample(
        self,
        labels: Tensor,
        *,
        noise: Tensor | None = None,
        random: SlotRandom | None = None,
        temperature: float = 1.0,
        rounds: Annotated[int, Field(ge=1, le=8)] = 2,
        order: str = "raster",
        plain=3,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        self.calls.append({"temperature": temperature, "rounds": rounds, "order": order, "plain": plain, "grid": grid})
        return temperature * random.normal(SPEC.shape, "noise")

    def loss(self, z: Tensor, condition: Any, *, random: SlotRandom | None = None) -> dict[str, Tensor]:
        return {"loss": z.square().mean()}


def test_prompts_that_are_not_drawn_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Labels choose among prompts; a count below their number leaves some out, unless the labels say which."""
    prompts = ("a", "b", "c")
    assert choose_labels(ThirdParty(), "equal", 2, prompts=prompts) == ([0, 1], None)
    assert "2 samples of 3 prompts: the last 1 are not drawn" in caplog.text
    caplog.clear()
    assert choose_labels(ThirdParty(), "2", 2, prompts=prompts) == ([2, 2], None)
    assert choose_labels(ThirdParty(), "equal", 3, prompts=prompts) == ([0, 1, 2], None)
    assert choose_labels(ThirdParty(), "equal", 1) == ([0], None)
    assert not caplog.text


class Trusting(ThirdParty):
    def sample(self, condition: Any, *, noise=None, random=None, **options: Any) -> Tensor:
        self.calls.append(options)
        return random.normal(SPEC.shape, "noise")


class Declaring(Trusting):
    class sample_config(Config):
        steps: int = Field(5, ge=1, le=100)
        cool: bool = False


WRONG = {
    "temprature": 1.0,
    "guidance": 2.0,
    "temperature": "warm",
    "rounds": 0,
    "order": 5,
    "plain": "a",
    "grid": [1],
    "noise": 3,
    "random": 1,
    "condition": [0],
    "labels": [0],
}


@pytest.mark.parametrize("generator", [ThirdParty, ThirdParty()], ids=["class", "instance"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_one_line_that_names_it(name: str, generator: Any) -> None:
    with pytest.raises(InvalidFile) as raised:
        check_options(generator, {"order": "spiral", name: WRONG[name]})
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)
    if name == "temprature":
        assert "of ThirdParty; did you mean temperature?" in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, None, [1.0], {}])
def test_a_number_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidFile, match="sampling option temperature"):
        check_options(ThirdParty, {"temperature": value})


def test_what_is_accepted_arrives_as_it_was_declared() -> None:
    generator = ThirdParty()
    options = {"temperature": "0.5", "rounds": 8, "grid": [2, 3], "plain": 1.5}
    z = draw_latents(generator, torch.zeros(2), SlotRandom(0, range(2)), options)
    assert generator.calls == [{"temperature": 0.5, "rounds": 8, "order": "raster", "plain": 1.5, "grid": (2, 3)}]
    assert z.shape == (2, *SPEC.shape)


def test_options_may_be_declared_beside_a_sample_that_takes_any() -> None:
    assert check_options(Declaring, {"steps": 7}) == {"steps": 7}
    for options, message in (
        ({"stps": 1}, "of Declaring; did you mean steps"),
        ({"steps": 0}, "steps: "),
        ({"steps": 10**9}, "steps: "),
        ({"cool": "very"}, "cool: "),
        ({"noise": 1}, "noise"),
    ):
        with pytest.raises(InvalidFile, match=message):
            check_options(Declaring, options)
    assert check_options(Trusting(), {"anything": 1}) == {"anything": 1}
    with pytest.raises(InvalidFile, match="random is no sampling option"):
        check_options(Trusting, {"random": 1})


def test_lost_samples_are_counted_and_the_first_is_named() -> None:
    z = torch.zeros(3, *SPEC.shape)
    assert check_samples(z) is z
    z[1, 0, 0, 0] = float("nan")
    with pytest.raises(FAEError, match=r"1 of 3 samples are not finite \(sample 8 first.*lower the guidance"):
        check_samples(z, SlotRandom(0, [7, 8, 9]))
    z[1:] = 1e30
    with pytest.raises(FAEError, match="2 of 3 samples exploded"):
        check_samples(z)
    check_samples(z[:0])


class Painter(nn.Module):
    spec = SPEC

    def decode(self, z: Tensor) -> Tensor:
        return z.sigmoid()


def _job(monkeypatch: pytest.MonkeyPatch, generator: Any, out: Path, **settings: Any) -> None:
    monkeypatch.setattr("fae_core.sampling.draw.load_generator", lambda source, device=None: generator)
    monkeypatch.setattr("fae_core.sampling.draw.load_decoder", lambda source, device=None: Painter())
    SampleJob("generator", "decoder", out, count=2, **settings).run(device="cpu")


@pytest.mark.parametrize(
    "settings",
    [{"options": {"steps": 3}}, {"guidance": 2.0}, {"options": {"rounds": 99}}, {"options": {"temperature": "x"}}],
)
def test_sampling_with_a_wrong_option_leaves_no_folder(tmp_path: Path, monkeypatch, settings) -> None:
    with pytest.raises(InvalidFile, match="sampling option"):
        _job(monkeypatch, ThirdParty(), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    _job(monkeypatch, ThirdParty(), tmp_path / "out", options={"rounds": 3})
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["job"]["options"] == {"rounds": 3}


def test_options_are_looked_at_before_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fae_core.sampling.job.generator_class", lambda source: ThirdParty)
    with pytest.raises(InvalidFile, match="unknown sampling option"):
        SampleJob(str(tmp_path / "absent"), "absent", tmp_path / "out", count=2, options={"steps": 3}).run(device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"count": 10**12},
        {"count": 0},
        {"batch_size": 2**31},
        {"columns": 10**9},
        {"columns": 0},
        {"seed": 2**64},
        {"seed": -(2**63) - 1},
    ],
    ids=str,
)
def test_absurd_numbers_of_a_sampling_job_are_refused(tmp_path: Path, settings: dict[str, int]) -> None:
    name = next(iter(settings)).replace("_", "-")
    with pytest.raises(FAEError, match=f"--{name} must lie between"):
        SampleJob("generator", "decoder", tmp_path / "out", **{"count": 2, **settings})


class Store:
    """Latents in memory with the labels that it is given."""

    spec, folder, classes = SPEC, "store", None

    def __init__(self, labels: list[int] | None) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return 4

    def read(self, indices, random=None):
        return torch.zeros(len(indices), *SPEC.shape), None


@pytest.mark.parametrize(
    ("statistics", "scale"),
    [
        ((None, None), 13.0),
        (([5.0] * 3, [12.0] * 3), 1.0),
        (([5.0] * 3, [1.5] * 3), 8.0),
        (([-60.0] * 3, [12.0] * 3), 5.5),
    ],
)
def test_latents_that_their_spec_does_not_normalise_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, statistics: tuple[object, object], scale: float
) -> None:
    """They are trained on as they are, far from the noise, and nothing but the samples would tell."""
    z = 5 + 12 * torch.randn(200, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    store = write_store(tmp_path / "store", SPEC.with_statistics(*statistics), z)
    generator = ThirdParty()
    generator.spec = store.spec
    with caplog.at_level("WARNING", "fae"):
        GeneratorTask(generator, store)
    assert store.scale == pytest.approx(scale, rel=0.05)
    assert store.read(range(200))[0].square().mean().sqrt().item() == pytest.approx(store.scale, rel=1e-4)
    assert ("have a root mean square of" in caplog.text) == (scale != 1.0)


def test_preview_options_are_refused_when_the_task_is_made() -> None:
    preview = parse_config(PreviewConfig, {"decoder": "absent", "options": {"steps": 4}}, "preview")
    with pytest.raises(InvalidFile, match="unknown sampling option 'steps' of ThirdParty; known: "):
        GeneratorTask(ThirdParty(), Store([0, 1, 0, 1]), preview)


@pytest.mark.parametrize(("labels", "first"), [([1, 2, 1, 2], 2), ([0, 1, -1, 0], -1), ([0, 0, 0, 7], 7)])
def test_labels_that_are_no_classes_are_refused_before_training(labels: list[int], first: int) -> None:
    with pytest.raises(DataError, match=rf"the label {first} .*classes are 0\.\.1"):
        GeneratorTask(ThirdParty(), Store(labels))
    GeneratorTask(ThirdParty(), Store([0, 1, 1, 0]))
    GeneratorTask(ThirdParty(), Store(None))
    unconditional = ThirdParty()
    unconditional.config = SimpleNamespace(classes=None)
    GeneratorTask(unconditional, Store(labels))


def test_classes_without_samples_are_named_and_left_out_of_previews(monkeypatch, caplog) -> None:
    monkeypatch.setattr("fae_core.training.generator_task.GeneratorPreview", lambda *_: SimpleNamespace(device="cpu"))
    generator = ThirdParty()
    generator.config = SimpleNamespace(classes=4)
    store = Store([3, 0, 0, 3])
    store.classes = ["ant", "bee", "cow", "dog"]
    task = GeneratorTask(generator, store, PreviewConfig(decoder="any"))
    assert "samples of 2 of the model's 4 classes; others, such as 1 (bee), are not trained" in caplog.text
    task.prepare("cpu")
    assert task.preview_conditions(range(5)).tolist() == [0, 3, 0, 3, 0]
    caplog.clear()
    GeneratorTask(generator, Store([3, 1, 0, 2]))
    assert not caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"betas": [0.9, 1.0]},
        {"betas": [1.5, 0.9]},
        {"betas": [-0.1, 0.9]},
        {"betas": [0.9]},
        {"betas": [0.9, float("nan")]},
        {"seed": 2**64},
        {"seed": -(2**63) - 1},
        {"seed": 1.5},
        {"batch_size": 2**31},
        {"batch_size": 10**400},
        {"accumulation": 10**12},
        {"learning_rate": 1e9},
        {"learning_rate": float("inf")},
        {"weight_decay": 1e30},
        {"clip_norm": 1e30},
        {"loader_threads": 10**6},
        {"shuffle_window": 10**12},
        {"stall_limit": 1e300},
        {"steps": 10**13},
        {"checkpoint_every": 10**400},
    ],
    ids=str,
)
def test_training_settings_that_cannot_be_are_one_line(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidFile) as raised:
        parse_config(TrainConfig, fields, "training settings")
    assert next(iter(fields)) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_seeds_of_64_bits_are_seeds() -> None:
    for seed in (0, -1, -(2**63), 2**64 - 1):
        torch.Generator().manual_seed(parse_config(TrainConfig, {"seed": seed}, "x").seed)


def test_a_model_larger_than_the_machine_is_refused_without_being_built() -> None:
    from fae_core.cost.counted import require_room

    require_room(lambda: nn.Linear(8, 8), "model settings")
    with pytest.raises(InvalidFile, match=r"model settings make 1,099,512,\d+,\d+ parameters"):
        require_room(lambda: nn.Linear(2**20, 2**20), "model settings")
