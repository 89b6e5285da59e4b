"""Several judges of the same images: columns of each, images drawn once, comparisons by either."""

from __future__ import annotations

import pytest
import torch

from fae_core.errors import FAEError
from fae_eval import evaluate
from fae_eval.data.kept import KeptSamples
from fae_eval.data.samples import WHOLE, ArraySamples, Samples
from fae_eval.extractors import FeatureExtractor
from fae_eval.extractors.base import as_uint8_nchw
from fae_eval.studies.comparison import compare, read_group
from fae_eval.studies.convergence import evaluate_convergence
from fae_eval.studies.reference import KeptReference


class Corner(FeatureExtractor):
    """The mean colour of the upper left quarter."""

    name, dim, resize, fingerprint = "corner", 3, "none", "fedcba9876543210"

    def outputs(self, images):
        x = as_uint8_nchw(images).float() / 255
        return {"pool": torch.nn.functional.adaptive_avg_pool2d(x, 2)[:, :, 0, 0]}


class Drawn(Samples):
    """Images that count how often they are drawn; their labels are known only then."""

    def __init__(self, seed: int) -> None:
        self.images = ArraySamples(torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(seed)), "drawn")
        self.origin, self.passes = "drawn", 0

    def __len__(self) -> int:
        return 24

    def batches(self, batch_size, share=WHOLE):
        self.passes += 1
        self.labels = [0] * len(self)
        yield from self.images.batches(batch_size, share)


@pytest.fixture
def sets(photographs):
    return photographs("real"), photographs("floor", seed=2)


def test_each_judge_says_of_the_same_images_what_it_says_alone(extractor, sets):
    real, floor = sets
    made = Drawn(0)
    both = evaluate(made, real, floor=floor, extractor=extractor, also=[Corner()], metrics=["fid", "pr"])
    first = evaluate(made, real, floor=floor, extractor=extractor, metrics=["fid", "pr"])
    second = evaluate(made, real, floor=floor, extractor=Corner(), metrics=["fid"])
    names = ["FDr-corner", "FD-corner", "FDr", "FD-pixels", "precision", "recall"]
    assert both.columns == ["", "images", *names]
    assert [row[2:4] for row in both.rows] == [row[2:] for row in second.rows]
    assert [row[4:] for row in both.rows] == [row[2:] for row in first.rows]
    assert both.values["FD-corner"] == second.values["FD-corner"] and both.values["FDr"] == first.values["FDr"]
    assert both.provenance["extractor"]["name"] == "pixels"
    assert both.provenance["also"]["corner"]["extractor"]["weights"] == "fedcba9876543210"
    assert any("FD-corner is not FID" in note for note in both.notes)


def test_images_are_drawn_once_for_all_judges(extractor, sets):
    made = Drawn(0)
    both = evaluate(made, sets[0], extractor=extractor, also=[Corner()], metrics=["fid"], batch_size=5)
    assert made.passes == 1
    alone = evaluate(Drawn(0), sets[0], extractor=Corner(), metrics=["fid"], batch_size=5)
    assert both.values["FD-corner"] == alone.values["FD-corner"]
    kept = KeptSamples.of(Drawn(0))
    assert kept.labels is None and len(list(kept.batches(7))) == 4 and kept.labels == [0] * 24


def test_a_stream_as_reference_serves_all_judges(extractor, sets):
    batches = [torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    stream = evaluate(Drawn(0), iter(batches), extractor=extractor, also=[Corner()], metrics=["fid"])
    whole = evaluate(Drawn(0), torch.cat(batches), extractor=extractor, also=[Corner()], metrics=["fid"])
    assert stream.values == whole.values and len(stream.values) == 2


def test_a_judge_is_named_once(extractor, sets):
    with pytest.raises(FAEError, match="pixels is named twice"):
        evaluate(sets[1], sets[0], extractor=extractor, also=[type(extractor)()])


def test_a_reference_that_is_kept_is_kept_for_each_judge(extractor, sets):
    real, made = sets
    kept = KeptReference(real)
    for judge in (extractor, Corner(), extractor):
        once = evaluate(made, kept, extractor=judge, metrics=["fid"])
        assert once.values == evaluate(made, real, extractor=judge, metrics=["fid"]).values


def test_runs_are_compared_by_either_judge(extractor, sets):
    real, floor = sets
    curves = [
        evaluate_convergence({1: Drawn(seed), 2: floor}, real, extractor=extractor, also=[Corner()], floor=Drawn(9))
        for seed in (0, 1)
    ]
    assert curves[0].columns[1:] == ["step", "seconds", "images", "FDr-corner", "FD-corner", "FDr", "FD-pixels"]
    groups = [read_group(name, [curve]) for name, curve in zip("ab", curves, strict=True)]
    assert groups[0].last == [curves[0].rows[-1][-1]]  # by default the first judge, whose column is the last
    by_corner = [read_group(name, [curve], "FD-corner") for name, curve in zip("ab", curves, strict=True)]
    assert by_corner[0].last == [curves[0].rows[-1][5]]
    assert by_corner[0].floor == pytest.approx(curves[0].rows[0][5] / curves[0].rows[0][4])
    assert compare(by_corner, column="FD-corner").columns[2] == "FDr"
