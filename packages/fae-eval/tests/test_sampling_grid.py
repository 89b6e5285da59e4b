"""The grid of sampling options: what it measures and counts, which combination it names, what it keeps and refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from fae_core import LatentSpec
from fae_core.config import Config, parse_config
from fae_core.errors import FAEError, InvalidFile, InvalidSettings
from fae_core.latent_store import write_store
from fae_core.models.identity import earlier_identity
from fae_eval import Result, write_report
from fae_eval.cli.sampling_grid import _draw, _values
from fae_eval.data import GeneratedSamples
from fae_eval.results import FLOOR
from fae_eval.studies.sampling_grid import SamplingGrid, chart_groups, measure_grid


class Sampling(Config):
    method: str = "euler"
    steps: int = 1
    guidance: float = 1.0


class Diffusion(nn.Module):
    """Latents whose error halves with each step; heun takes two evaluations a step, guidance twice as many rows."""

    spec = LatentSpec(3, 4, 4, 16, "test/colours", fingerprint="feed")
    config = SimpleNamespace(classes=4)
    sample_config = Sampling

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.sampled = 0

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z

    def sample(self, condition: torch.Tensor, *, random, **options: Any) -> torch.Tensor:
        given = Sampling.model_validate(options)
        self.sampled += len(condition)
        noise = random.normal(self.spec.shape, "noise")
        for _ in range(given.steps * (2 if given.method == "heun" else 1)):
            self(torch.cat([noise, noise]) if given.guidance != 1 else noise)
        return 0.3 * (condition.view(-1, 1, 1, 1) / 4 - 0.4) + 0.02 * noise + 0.5**given.steps


@pytest.fixture
def real(fae) -> np.ndarray:
    drawn = GeneratedSamples(Diffusion(), fae, 24, options={"steps": 30})
    return np.concatenate(list(drawn.batches(32)))


@pytest.fixture
def measure(extractor, fae, real):
    """A function that measures a grid with images of 30 steps as the reference."""

    def run(grid: SamplingGrid, generator: Any = None, **options: Any) -> Result:
        return measure_grid(generator or Diffusion(), fae, real, grid, extractor=extractor, batch_size=7, **options)

    return run


def test_evaluations_are_counted_and_the_cheapest_good_one_is_chosen(measure, real) -> None:
    other = 255 - real
    grid = SamplingGrid(vary={"method": ["euler", "heun"], "steps": [2, 20, 30], "guidance": [1, 2]}, count=24)
    result = measure(grid, floor=other)
    assert result.columns == ["", "method", "steps", "guidance", "evaluations", "images", "FDr", "FD-pixels"]
    assert len(result.rows) == 12 + 1
    for row in result.rows[:-1]:
        assert row[4] == row[2] * (2 if row[1] == "heun" else 1) * (2 if row[3] == 2 else 1)
        assert (row[-1] < 1e-9) == (row[2] == 30) or row[2] == 20
    chosen = [row for row in result.rows if row[0] == "chosen"]
    assert len(chosen) == 1 and chosen[0][1:5] == ["euler", 20, 1, 20]
    floor = result.rows[-1]
    assert floor[:7] == [FLOOR, None, None, None, None, 24, 1.0]
    assert all(row[-2] == pytest.approx(row[-1] / floor[-1]) for row in result.rows)
    assert any("--guidance 1 --set 'method=\"euler\"' --set steps=20" in note for note in result.notes)


class Parts(Diffusion):
    """A generator whose network is not called as a whole."""

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return self.forward(z)


class Counting(Parts):
    """One that counts: three passes a step."""

    evaluations = 0.0

    def sample(self, condition: torch.Tensor, *, random, **options: Any) -> torch.Tensor:
        self.evaluations += 3 * len(condition) * Sampling.model_validate(options).steps
        return super().sample(condition, random=random, **options)


def test_a_generator_says_itself_how_many_evaluations_it_took(measure) -> None:
    result = measure(SamplingGrid(vary={"steps": [2, 4]}, count=8), Counting())
    assert [row[2] for row in result.rows] == [6, 12]


def test_evaluations_that_nobody_counts_are_unknown(measure, real, tmp_path) -> None:
    grid = SamplingGrid(vary={"steps": [30, 2, 20], "guidance": [1, 2]}, count=24)
    result = measure(grid, Parts(), floor=255 - real)
    assert {row[3] for row in result.rows[:-1]} == {"unknown"}
    chosen = [row for row in result.rows if row[0] == "chosen"]
    assert len(chosen) == 1 and chosen[0][-1] == min(row[-1] for row in result.rows)
    assert "evaluations" not in result.values
    assert any(note.startswith("The smallest distance") and "not known" in note for note in result.notes)
    assert [group.name for group in chart_groups(result)][:2] == ["steps 30, guidance 1", "steps 30, guidance 2"]
    path = tmp_path / "grid.json"
    _draw(result, path)
    assert path.with_suffix(".svg").read_text().count("<circle") >= 6
    result.save(path)
    again = Parts()
    resumed = measure(grid, again, earlier=Result.load(path))
    assert (resumed.table, resumed.notes, again.sampled) == (result.table, result.notes, 0)
    for row in result.rows[:-1]:  # as earlier versions wrote it
        row[3] = 0.0
    assert measure(grid, Parts(), earlier=result).table == resumed.table


def test_without_a_margin_the_smallest_distance_is_chosen(measure) -> None:
    rows = measure(SamplingGrid(vary={"steps": [3, 1, 2]}, count=24, within=0)).rows
    assert [row[0] for row in rows] == ["chosen", "steps 1", "steps 2"]
    assert rows[0][-1] == min(row[-1] for row in rows)


def test_an_interrupted_grid_continues_with_what_is_missing(measure, real, tmp_path) -> None:
    grid = SamplingGrid(vary={"method": ["euler", "heun"], "steps": [1, 2]}, count=8)
    whole = measure(grid, floor=255 - real)
    assert whole.rows[-1][-3] == 8, "the floor is of as many images as there are samples"
    path = tmp_path / "grid.json"

    class Interrupted(Exception):
        pass

    def keep(record: Result) -> None:
        record.save(path)
        if len(record.rows) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        measure(grid, keep=keep, floor=255 - real)
    begun = Result.load(path)
    assert any("2 of 4 are missing" in warning for warning in begun.warnings)
    assert all(row[0] != "chosen" for row in begun.rows)
    generator = Diffusion()
    resumed = measure(grid, generator, earlier=begun, floor=255 - real)
    assert (resumed.table, resumed.notes, resumed.warnings) == (whole.table, whole.notes, whole.warnings)
    assert generator.sampled == 2 * 8
    again = Diffusion()
    larger = grid.model_copy(update={"vary": {"method": ["euler", "heun"], "steps": [1, 2, 3]}})
    assert len(measure(larger, again, earlier=resumed, floor=255 - real).rows) == 7 and again.sampled == 2 * 8


class Settings(Sampling):
    speed_only: ClassVar[frozenset[str]] = frozenset({"compile"})
    compile: bool = False


class Own(Config):
    classes: int = 4
    sampling: Settings = Settings()

    def sampling_settings(self, options: dict[str, Any], model: Any = None) -> Settings:
        return parse_config(Settings, {**self.sampling.model_dump(), **options}, "options")


def with_defaults(**fields: Any) -> Diffusion:
    generator = Diffusion()
    generator.config = Own(sampling=Settings(**fields))
    return generator


def test_a_grid_is_resumed_where_the_settings_that_decide_its_pictures_are_the_same(measure) -> None:
    grid = SamplingGrid(vary={"steps": [1, 2]}, count=4)
    begun = measure(grid, with_defaults(guidance=2.0))
    larger = grid.model_copy(update={"vary": {"steps": [1, 2, 3]}})
    faster = with_defaults(guidance=2.0, compile=True)
    assert len(measure(larger, faster, earlier=begun).rows) == 3 and faster.sampled == 4
    with pytest.raises(FAEError, match="measured steps 1 at other settings of sampling than the model has now"):
        measure(larger, with_defaults(guidance=1.0), earlier=begun)
    given = grid.model_copy(update={"options": {"guidance": 1.0}})
    first = measure(given, with_defaults(guidance=2.0))
    other = with_defaults(guidance=1.0, compile=True)
    assert measure(given, other, earlier=first).rows == first.rows and other.sampled == 0


def test_a_grid_is_resumed_with_other_options_of_speed_alone(measure) -> None:
    class Faster(Diffusion):
        sample_config, config = Settings, Own()

        def sample(self, condition: torch.Tensor, *, compile: bool = False, **options: Any) -> torch.Tensor:
            return super().sample(condition, **options)

    grid = SamplingGrid(vary={"steps": [1, 2]}, count=4, options={"compile": True})
    begun, again = measure(grid, Faster()), Faster()
    assert measure(grid.model_copy(update={"options": {}}), again, earlier=begun).rows == begun.rows
    assert again.sampled == 0
    with pytest.raises(FAEError, match="another options"):
        measure(grid.model_copy(update={"options": {"guidance": 2.0}}), Faster(), earlier=begun)


def test_a_record_of_an_earlier_version_is_resumed_with_the_model_that_it_was_begun_with(measure) -> None:
    grid = SamplingGrid(vary={"steps": [1, 2]}, count=4)
    generator = with_defaults(guidance=2.0, compile=True)
    begun = measure(grid, generator)
    search = begun.provenance["search"]
    del search["settings"]
    search["generator"] = earlier_identity(generator)
    again = with_defaults(guidance=2.0, compile=True)
    assert measure(grid, again, earlier=begun).rows == begun.rows and again.sampled == 0
    with pytest.raises(FAEError, match="another generator"):
        measure(grid, with_defaults(guidance=3.0, compile=True), earlier=begun)


def test_a_resumed_grid_keeps_its_floor_and_takes_no_other(measure, real) -> None:
    grid = SamplingGrid(vary={"steps": [1, 2]}, count=4)
    begun = measure(grid, floor=255 - real)
    kept = measure(grid, earlier=begun)
    assert kept.rows == begun.rows and kept.provenance["search"] == begun.provenance["search"]
    with pytest.raises(FAEError, match="another floor"):
        measure(grid, earlier=kept, floor=real)
    without = measure(grid)
    assert measure(grid, earlier=without, floor=255 - real).rows == begun.rows


def test_a_grid_says_what_is_wrong_with_its_floor(measure, real) -> None:
    grid = SamplingGrid(vary={"steps": [1]}, count=24)
    few, same = measure(grid, floor=255 - real[:9]), measure(grid, floor=real)
    assert any("units of 9 real images" in warning and "samples 24" in warning for warning in few.warnings)
    assert any("these are images of the reference" in warning for warning in same.warnings)
    for begun in (few, same):
        larger = measure(SamplingGrid(vary={"steps": [1, 2]}, count=24), earlier=begun)
        assert larger.warnings == begun.warnings


def test_real_images_of_a_grid_may_be_latents(extractor, fae, tmp_path) -> None:
    store = write_store(tmp_path / "latents", fae.spec, fae.encode(torch.rand(9, 3, 16, 16))).folder
    grid = SamplingGrid(vary={"steps": [1]}, count=8)
    result = measure_grid(Diffusion(), fae, str(store), grid, floor=str(store), extractor=extractor)
    assert result.rows[-1][0] == FLOOR and result.provenance["reference"]["preparation"] == "decoded from latents"


def test_a_grid_of_something_else_is_not_continued(measure, tmp_path) -> None:
    grid = SamplingGrid(vary={"steps": [1, 2]}, count=4)
    measure(grid).save(tmp_path / "g.json")
    stored = Result.load(tmp_path / "g.json")
    with pytest.raises(FAEError, match="sampling grid to resume was started with another seed"):
        measure(grid, seed=1, earlier=stored)
    with pytest.raises(FAEError, match="another count"):
        measure(grid.model_copy(update={"count": 5}), earlier=stored)
    with pytest.raises(InvalidFile, match="not one of a sampling grid"):
        measure(grid, earlier=Result("generation", "x", provenance={"search": {}}))


def test_wrong_grids_are_refused_before_anything_is_drawn(measure) -> None:
    for settings, reason in (
        ({"vary": {}}, "one option or more"),
        ({"vary": {"steps": []}}, "one option or more"),
        ({"vary": {"steps": [2, 2]}}, "a value twice"),
        ({"vary": {"steps": [2]}, "options": {"steps": 3}}, "both varied and fixed"),
        ({"vary": {"a": list(range(200)), "b": list(range(200))}}, "at most 10,000"),
    ):
        with pytest.raises(ValueError, match=reason):
            SamplingGrid(**settings)
    generator = Diffusion()
    with pytest.raises(InvalidSettings):
        measure(SamplingGrid(vary={"steps": [1, "many"]}), generator)
    with pytest.raises(FAEError, match=r"not 'guidance\.scale'"):
        _values(["guidance.scale=1,2"])
    assert generator.sampled == 0
    assert _values(["method=euler,dpm++2m", "steps=8, 12"]) == {"method": ["euler", "dpm++2m"], "steps": [8, 12]}


def test_the_chart_has_a_curve_per_method_and_guidance_and_is_in_the_report(measure, tmp_path) -> None:
    grid = SamplingGrid(vary={"method": ["euler", "heun"], "guidance": [1, 2], "steps": [1, 2]}, count=4)
    result = measure(grid)
    groups = chart_groups(result)
    assert [group.name for group in groups] == [f"{m}, guidance {g}" for m in ("euler", "heun") for g in (1, 2)]
    assert groups[3].steps == (4, 8)
    path = tmp_path / "results" / "sampling-grid.json"
    _draw(result, path)
    result.save(path)
    assert path.with_suffix(".svg").read_text().count("<polyline") == 4
    assert "The fewest evaluations" in write_report([tmp_path / "results"], tmp_path / "r.html").read_text()
