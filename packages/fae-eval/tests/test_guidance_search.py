"""The search over guidance scales: what it measures in which order, what it keeps, and what it refuses."""

from __future__ import annotations

import itertools
import shlex
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import Field

from fae_core import LatentSpec
from fae_core.cli.settings import parse_overrides
from fae_core.config import Config
from fae_core.errors import FAEError, InvalidFile, InvalidSettings
from fae_eval import Result, write_report
from fae_eval.cli.guidance_search import _draw
from fae_eval.data import GeneratedSamples
from fae_eval.studies.at_options import sample_command
from fae_eval.studies.guidance_plan import GuidancePlan
from fae_eval.studies.guidance_search import chart_groups, search_guidance


class Guidance(Config):
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)


class Sampling(Config):
    guidance: Guidance = Guidance()
    steps: int = 1


class Diffusion:
    """Latents whose contrast is the guidance scale; guidance has an interval, as in diffusion models."""

    spec = LatentSpec(3, 4, 4, 16, "test/colours", fingerprint="feed")
    config = SimpleNamespace(classes=4)
    sample_config = Sampling

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def sample(self, condition: torch.Tensor, *, random, **options: Any) -> torch.Tensor:
        self.calls += [options] * len(condition)
        noise = random.normal(self.spec.shape, "noise")
        scale = Guidance.model_validate(options.get("guidance", {})).scale
        return scale * 0.3 * (condition.view(-1, 1, 1, 1) / 4 - 0.4) + 0.02 * noise


class Flow(Diffusion):
    """The same with a number as guidance."""

    def sample(self, condition: torch.Tensor, *, random, guidance: Annotated[float, Field(ge=0)] = 1.0) -> torch.Tensor:
        return super().sample(condition, random=random, guidance={"scale": guidance})


@pytest.fixture
def images_at(fae):
    """A function that draws images at a scale, with the noise of seed 0."""

    def draw(scale: float, count: int) -> np.ndarray:
        drawn = GeneratedSamples(Diffusion(), fae, count, options={"guidance": {"scale": scale}})
        return np.concatenate(list(drawn.batches(32)))

    return draw


@pytest.fixture
def search(extractor, fae, images_at):
    """A function that searches with 24 images as the reference, which were drawn at scale 1.3."""
    real = images_at(1.3, 24)

    def run(plan: GuidancePlan, generator: Any = None, reference: Any = real, **options: Any) -> Result:
        return search_guidance(generator or Diffusion(), fae, reference, plan, extractor=extractor, **options)

    return run


def test_the_scale_that_made_the_reference_is_found(search) -> None:
    result = search(GuidancePlan(low=1.0, high=1.6, count=24, first_count=24))
    assert [row[1] for row in result.rows] == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    assert [row[0] for row in result.rows].index("best") == 3
    assert result.rows[3][3] == pytest.approx(0, abs=1e-8)  # the same noise at every scale, so the same images
    assert result.values["best scale"] == 1.3
    assert result.kind == "guidance-search" and result.columns == ["", "scale", "images", "FD-pixels"]


def test_the_best_of_few_samples_and_then_its_neighbours_are_measured_from_all(search) -> None:
    result = search(GuidancePlan(low=1.0, high=1.6, count=24, first_count=12, finalists=1))
    assert [row[1] for row in result.rows if row[2] == 12] == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    assert [row[1] for row in result.rows if row[2] == 24] == [1.2, 1.3, 1.4]
    assert [group.name for group in chart_groups(result)] == ["12 samples", "24 samples"]


def test_a_best_scale_at_the_end_of_the_range_is_said(search) -> None:
    plan = {"high": 1.6, "step": 0.2, "count": 12, "first_count": 12}
    assert any("widen the range" in w for w in search(GuidancePlan(low=1.4, **plan)).warnings)
    assert not any("widen the range" in w for w in search(GuidancePlan(low=1.0, **plan)).warnings)


def test_the_interval_is_the_papers_unless_another_is_given(search) -> None:
    plan = {"low": 1.0, "high": 1.2, "step": 0.2, "count": 4, "first_count": 4}
    for given, guidance in (
        (None, {"scale": 1.2, "interval": [0.0, 0.7]}),
        ((0.1, 0.5), {"scale": 1.2, "interval": [0.1, 0.5]}),
        ("all", {"scale": 1.2, "interval": [0.0, 1.0]}),  # said, as the model's own may be another
    ):
        chosen = GuidancePlan(interval=given, options={"steps": 3}, **plan)
        assert chosen.options_at(1.2, chosen.times(Diffusion())) == {"steps": 3, "guidance": guidance}
    generator = Diffusion()
    search(GuidancePlan(options={"steps": 3}, **plan), generator)
    assert generator.calls[-1] == {"steps": 3, "guidance": {"scale": 1.2, "interval": [0.0, 0.7]}}
    flow = Flow()
    result = search(GuidancePlan(**plan), flow)
    assert flow.calls[-1] == {"guidance": {"scale": 1.2}} and any("at every time" in note for note in result.notes)
    with pytest.raises(InvalidSettings, match="has no interval of times"):
        search(GuidancePlan(interval=(0.0, 0.7), **plan), flow)


def test_an_interrupted_search_continues_with_what_is_missing(search, tmp_path) -> None:
    plan = GuidancePlan(low=1.0, high=1.5, count=24, first_count=12, finalists=1)
    whole = search(plan)
    path = tmp_path / "search.json"

    class Interrupted(Exception):
        pass

    def keep(record: Result) -> None:
        record.save(path)
        if len(record.rows) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        search(plan, keep=keep)
    begun = Result.load(path)
    assert len(begun.rows) == 4 and any("not finished" in warning for warning in begun.warnings)
    generator = Diffusion()
    resumed = search(plan, generator, earlier=begun)
    assert resumed.table == whole.table and resumed.notes == whole.notes and resumed.warnings == whole.warnings
    assert len(generator.calls) == 2 * 12 + 3 * 24
    again = Diffusion()
    assert search(plan, again, earlier=resumed).table == whole.table and not again.calls
    wider = search(plan.model_copy(update={"high": 1.6}), again, earlier=resumed)
    assert len(again.calls) == 12 and wider.values == whole.values


def test_a_search_of_something_else_is_not_continued(search, images_at, tmp_path) -> None:
    plan = GuidancePlan(low=1.0, high=1.2, step=0.2, count=4, first_count=4)
    begun = search(plan)
    begun.save(tmp_path / "s.json")
    stored = Result.load(tmp_path / "s.json")
    with pytest.raises(FAEError, match="another seed; use a new --out"):
        search(plan, seed=1, earlier=stored)
    with pytest.raises(FAEError, match="another interval, options"):
        search(plan.model_copy(update={"interval": (0.0, 0.5), "options": {"steps": 2}}), earlier=stored)
    with pytest.raises(FAEError, match="another reference"):
        search(plan, reference=images_at(1.0, 8), earlier=stored)
    with pytest.raises(InvalidFile, match="not one of a guidance search"):
        search(plan, earlier=Result("generation", "x", provenance={"search": {}}))


def test_wrong_plans_are_refused_in_one_line() -> None:
    for settings, reason in (
        ({"low": 2.0, "high": 1.0}, "2 to 1000"),
        ({"low": 1.0, "high": 1.0}, "2 to 1000"),
        ({"low": 0.0, "high": 1000.0, "step": 0.001}, "2 to 1000"),
        ({"interval": (0.7, 0.1)}, "within"),
        ({"options": {"guidance": 2.0}}, "what is searched"),
    ):
        with pytest.raises(ValueError, match=reason):
            GuidancePlan(**settings)


def test_the_command_in_the_record_gives_the_options_that_were_measured() -> None:
    plan = GuidancePlan(options={"sampling": "paper-guided", "steps": 3, "precision": "fp32"}, count=99)
    about = {"generator": "runs/my dit", "decoder": "tok", "labels": "equal", "prompts": None, "seed": 7, "count": 99}
    words = shlex.split(sample_command(plan.options_at(1.7, (0.0, 0.7)), **about))
    assert words[:8] == ["fae", "sample", "--generator", "runs/my dit", "--decoder", "tok", "--count", "99"]
    assert words[words.index("--sampling") + 1] == "paper-guided"
    given = parse_overrides([value for name, value in itertools.pairwise(words) if name == "--set"])
    assert given == {"steps": 3, "precision": "fp32", "guidance": {"scale": 1.7, "interval": [0.0, 0.7]}}
    words = shlex.split(sample_command(GuidancePlan().options_at(1.5, None), **about))
    assert words[words.index("--guidance") + 1] == "1.5" and "--set" not in words


def test_the_chart_is_in_the_report(search, tmp_path) -> None:
    result = search(GuidancePlan(low=1.0, high=1.6, count=24, first_count=12))
    path = tmp_path / "results" / "guidance-search.json"
    _draw(result, path)
    result.save(path)
    drawn = path.with_suffix(".svg").read_text()
    assert drawn.count("<polyline") == 2 and "guidance scale" in drawn
    page = write_report([tmp_path / "results"], tmp_path / "r.html").read_text()
    assert "data:image/svg+xml" in page and "Best scale: 1.3" in page
