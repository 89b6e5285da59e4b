"""The conformance suite of generators: subclass it in a package's tests and implement `make`.

class TestMyModel(GeneratorConformance):
    def make(self, spec):
        return MyModel(MyConfig(classes=3), spec)

A model without classes sets `classes = None`, one whose `sample` has no `guidance` sets `guidance = None`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import pytest
import torch
from torch import Tensor, nn

from fae_core.errors import FAEError, InvalidSettings, LatentSpecMismatch
from fae_core.models.draw import draw_latents
from fae_core.models.load import load_generator
from fae_core.protocols import Generator, Observer, SamplingStep
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec


def toy_latents(spec: LatentSpec, count: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normalised latents, easy to learn: one pattern per class plus a little noise.

    Args:
        spec: Their latent space.
        count: Number of latents.
        classes: Number of classes; labels take turns.
        seed: Seed of patterns and noise.

    Returns:
        (latents, labels): (count, C, H, W) in fp32, and (count,).
    """
    random = torch.Generator().manual_seed(seed)
    patterns = torch.randn(classes, *spec.shape, generator=random)
    labels = torch.arange(count) % classes
    return patterns[labels] + 0.1 * torch.randn(count, *spec.shape, generator=random), labels


class GeneratorModel(Generator, Protocol):
    """A generator that is a PretrainedModel, too, as far as the suite uses it."""

    def to(self, device: str, /) -> Self: ...
    def train(self) -> Self: ...
    def eval(self) -> Self: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def save_pretrained(self, folder: Path, /) -> object: ...


class GeneratorConformance:
    """Claims that every generator has to meet. Override the class attributes where a model needs it.

    Attributes:
        classes: Number of classes of the model; None for one that knows none and is given 0 for every latent.
        guidance: A scale that its `sample` takes, where 1 is off; None for one without guidance.
        steps: Optimiser steps for `test_loss_falls`.
        learning_rate: For the same.
        sample_options: Passed to every `sample`.
    """

    classes: ClassVar[int | None] = 3
    guidance: ClassVar[float | None] = 2.0
    steps = 60
    learning_rate = 3e-3
    sample_options: ClassVar[dict[str, Any]] = {}

    def make(self, spec: LatentSpec) -> GeneratorModel:
        """A small model for `spec` with `classes` classes, seeded by the caller.

        Args:
            spec: The latent space.
        """
        raise TypeError("subclasses of GeneratorConformance implement make(spec)")

    def _latents(self, spec: LatentSpec, count: int) -> tuple[Tensor, Tensor]:
        """Latents of as many patterns as the model has classes, and their labels."""
        return toy_latents(spec, count, self.classes or 1)

    @pytest.fixture(params=[(8, 4, 4), (5, 2, 6)], ids=["square", "wide"])
    def spec(self, request: pytest.FixtureRequest) -> LatentSpec:
        channels, height, width = request.param
        return LatentSpec(channels, height, width, (height * 16, width * 16), "toy/backbone", fingerprint="toy")

    @pytest.fixture
    def generator(self, spec: LatentSpec) -> GeneratorModel:
        torch.manual_seed(0)
        return self.make(spec)

    def test_is_a_generator(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        assert isinstance(generator, Generator)
        assert generator.spec == spec

    def test_the_loss_stays_on_its_device(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        """On meta tensors, which raise where they meet a tensor that was left on the CPU, as a GPU's would."""
        z, labels = self._latents(spec, 4)
        random = SlotRandom(0, range(4), on_device=True)
        terms = generator.to("meta").train().loss(z.to("meta"), labels.to("meta"), random=random)
        assert {name: term.device.type for name, term in terms.items()} == dict.fromkeys(terms, "meta")

    def test_loss_falls(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        z, labels = self._latents(spec, 12)
        optimizer = torch.optim.AdamW([p for p in generator.parameters() if p.requires_grad], lr=self.learning_rate)
        generator.train()
        history = []
        for step in range(self.steps):
            terms = generator.loss(z, labels, random=SlotRandom(0, range(12), step=step))
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            history.append(terms["loss"].item())
        assert sum(history[-10:]) < sum(history[:10]) - 0.5, f"loss went from {history[0]:.3f} to {history[-1]:.3f}"

    def test_the_loss_reaches_all_that_is_trained(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        """Processes that train together wait for every gradient; what is not used must not require one."""
        _perturb(generator)
        z, labels = self._latents(spec, 4)
        generator.train().loss(z, labels, random=SlotRandom(0, range(4)))["loss"].backward()
        assert all(p.grad is not None for p in generator.parameters() if p.requires_grad)

    def test_loss_is_a_mean_over_samples(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        generator.train()
        z, labels = self._latents(spec, 6)
        random = SlotRandom(3, range(6))
        whole = generator.loss(z, labels, random=random)["loss"]
        halves = [generator.loss(z[s], labels[s], random=random.select(s))["loss"] for s in (slice(0, 3), slice(3, 6))]
        torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2, atol=1e-5, rtol=1e-5)

    def test_sampling_is_deterministic_and_batch_size_does_not_matter(
        self, generator: GeneratorModel, spec: LatentSpec
    ) -> None:
        _perturb(generator)
        labels = torch.tensor([0, 1, 2, 0]) % (self.classes or 1)
        whole = generator.sample(labels, random=SlotRandom(5, range(4)), **self.sample_options)
        again = generator.sample(labels, random=SlotRandom(5, range(4)), **self.sample_options)
        parts = [generator.sample(labels[[i]], random=SlotRandom(5, [i]), **self.sample_options) for i in range(4)]
        assert whole.shape == (4, *spec.shape)
        assert torch.equal(whole, again)
        torch.testing.assert_close(whole, torch.cat(parts), atol=1e-4, rtol=1e-4)

    def test_noise_decides_the_sample(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        _perturb(generator)
        labels = torch.zeros(2, dtype=torch.long)
        noise = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1))
        first = generator.sample(labels, noise=noise, random=SlotRandom(0, range(2)), **self.sample_options)
        assert not torch.allclose(first[0], first[1])

    def test_conditions_differ(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        if self.classes is None:
            pytest.skip("the model has no classes")
        _perturb(generator)
        noise = (
            torch.randn(1, *spec.shape, generator=torch.Generator().manual_seed(1)).expand(2, -1, -1, -1).contiguous()
        )
        pair = generator.sample(torch.tensor([0, 1]), noise=noise, random=SlotRandom(0, [0, 0]), **self.sample_options)
        assert not torch.allclose(pair[0], pair[1])

    def test_guidance_is_an_option(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        """As `fae sample --guidance` gives it; a model without guidance refuses it by name."""
        _perturb(generator)
        labels, random = torch.zeros(2, dtype=torch.long), SlotRandom(0, range(2))
        options = {name: value for name, value in self.sample_options.items() if name != "guidance"}
        if self.guidance is None:
            with pytest.raises(InvalidSettings, match="unknown sampling option 'guidance'"):
                draw_latents(generator, labels, random, {**options, "guidance": 2.0})
            return
        plain, guided = (
            draw_latents(generator, labels, random, {**options, "guidance": g}) for g in (1.0, self.guidance)
        )
        assert plain.shape == guided.shape == (2, *spec.shape)
        assert not torch.allclose(plain, guided)

    def test_an_observer_sees_the_way_to_the_sample_and_can_end_it(
        self, generator: GeneratorModel, spec: LatentSpec
    ) -> None:
        """For a generator whose `sample` takes `observe`; watching changes nothing."""
        if "observe" not in inspect.signature(generator.sample).parameters:
            pytest.skip("the model's sample takes no observer")
        _perturb(generator)
        labels, seen = torch.zeros(2, dtype=torch.long), []

        def draw(observe: Observer | None) -> Tensor:
            return draw_latents(generator, labels, SlotRandom(0, range(2)), self.sample_options, observe=observe)

        torch.testing.assert_close(draw(seen.append), draw(None), atol=0, rtol=0)
        states = [step for step in seen if step.z is not None]
        assert [step.done for step in seen] == sorted(step.done for step in seen)
        assert states[0].done == 0 and states[-1].done == pytest.approx(1) and len(states) > 2
        assert all(step.z.shape == (2, *spec.shape) and step.name for step in states)

        def end(step: SamplingStep) -> None:
            if step.done > 0:
                raise StopIteration

        with pytest.raises(StopIteration):
            draw(end)

    def test_evaluations_are_counted_by_sample(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        """For a generator with an attribute `evaluations`: the same sample costs the same in any batch."""
        if not isinstance(getattr(generator, "evaluations", None), int | float):
            pytest.skip("the model counts no evaluations")
        _perturb(generator)
        each, counted = [], 0.0
        for rows in (1, 3):
            random = SlotRandom(5, [0] * rows)
            generator.sample(torch.zeros(rows, dtype=torch.long), random=random, **self.sample_options)
            each.append((generator.evaluations - counted) / rows)  # pyright: ignore[reportAttributeAccessIssue]
            counted = generator.evaluations  # pyright: ignore[reportAttributeAccessIssue]
        assert each[0] == pytest.approx(each[1]) and each[0] > 0

    def test_save_and_load_agree(self, generator: GeneratorModel, spec: LatentSpec, tmp_path) -> None:
        _perturb(generator)
        generator.eval()
        generator.save_pretrained(tmp_path / "model")
        loaded = load_generator(tmp_path / "model", spec=spec)
        z, labels = self._latents(spec, 4)
        random = SlotRandom(0, range(4))
        assert torch.equal(
            generator.loss(z, labels, random=random)["loss"], loaded.loss(z, labels, random=random)["loss"]
        )

    def test_refuses_a_foreign_spec(self, generator: GeneratorModel, spec: LatentSpec, tmp_path) -> None:
        generator.save_pretrained(tmp_path / "model")
        foreign = spec.with_statistics([1.0] * spec.channels, [2.0] * spec.channels)
        with pytest.raises(LatentSpecMismatch, match="mean"):
            load_generator(tmp_path / "model", spec=foreign)

    def test_refuses_latents_of_another_shape(self, generator: GeneratorModel, spec: LatentSpec) -> None:
        wrong = torch.zeros(2, spec.channels + 1, spec.height, spec.width)
        with pytest.raises(FAEError, match="expected latents of shape"):
            generator.loss(wrong, torch.zeros(2, dtype=torch.long), random=SlotRandom(0, range(2)))


def _perturb(generator: GeneratorModel) -> None:
    """Change every weight a little: fresh models start with zeros that hide the condition."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    generator.eval()
