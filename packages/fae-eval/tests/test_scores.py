"""Inception score, precision and recall, kernel distance, retrieval."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fae_core.errors import FAEError
from fae_core.testing import shared_folder
from fae_eval.metrics import (
    clip_score,
    density_coverage,
    inception_score,
    kernel_distance,
    manifold_radii,
    precision_recall,
    retrieval_recall,
)


@pytest.mark.parametrize("size", [100, 250, 600])
@pytest.mark.parametrize("order", ["class_ordered", "shuffled"])
def test_inception_score_of_the_adm_evaluator(size, order):
    case = np.load(shared_folder("cases/eval/is_softmax.npz"))
    probs = torch.softmax(torch.from_numpy(case["acts"]) @ torch.from_numpy(case["W"]), 1).numpy()
    probs = probs[case["perm"]] if order == "shuffled" else probs
    assert inception_score(probs, split_size=size) == pytest.approx(float(case[f"{order}_split{size}"]), rel=1e-5)


def test_inception_score_of_certain_and_even_classes_is_their_number():
    assert inception_score(np.eye(7)[np.arange(70) % 7], splits=1) == pytest.approx(7)
    assert inception_score(np.full((10, 4), 0.25), splits=2) == pytest.approx(1)


@pytest.mark.parametrize("name", ["pr_d64", "pr_duplicates"])
@pytest.mark.parametrize("tile", [64, 1024])
def test_precision_and_recall_of_the_adm_evaluator(name, tile):
    case = np.load(shared_folder(f"cases/eval/{name}.npz"))
    expected = json.loads(shared_folder("cases/eval/expected_adm.json").read_text())[f"{name}.npz"]
    ref, gen = torch.from_numpy(case["ref"]), torch.from_numpy(case["sample"])
    assert precision_recall(ref, gen, int(case["k"]), tile=tile) == pytest.approx(expected["fp32"], abs=1e-9)
    # fp16 rounds differently on every device: 1 % of the rows may flip.
    assert precision_recall(ref, gen, 3, precision="adm", tile=tile) == pytest.approx(expected["adm_tf_cpu"], abs=0.01)
    np.testing.assert_allclose(manifold_radii(ref, 3, tile=tile).numpy(), case["radii_ref_fp32"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spread", [1, 3e-2, 1e-3])
def test_neighbours_are_found_however_far_the_mean_is(spread):
    """Against distances in double precision, of features that vary by a share `spread` of their mean."""
    generator = torch.Generator().manual_seed(0)
    ref, gen = (spread * torch.randn(200, 64, generator=generator) + 1 for _ in range(2))
    within, across = (
        torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
        for a, b in ((ref, ref), (ref, gen))
    )
    of_gen = torch.cdist(gen.double(), gen.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
    radii = within.sort(1).values
    precision = (across <= radii[:, 3:4]).any(0).double().mean().item()
    recall = (across <= of_gen[None, :, 3]).any(1).double().mean().item()
    assert precision_recall(ref, gen, 3) == pytest.approx((precision, recall), abs=0.006)
    inside = across < radii[:, 5:6]
    wanted = inside.sum(0).double().mean().item() / 5, inside.any(1).double().mean().item()
    assert density_coverage(ref, gen) == pytest.approx(wanted, abs=0.006)


def test_precision_and_recall_agree_with_torch_fidelity():
    prc = pytest.importorskip("torch_fidelity.metric_prc", reason="torch-fidelity is not installed")
    generator = torch.Generator().manual_seed(0)
    ref, gen = torch.randn(150, 8, generator=generator), torch.randn(170, 8, generator=generator) * 0.8 + 0.3
    assert precision_recall(ref, gen, 3, tile=50) == pytest.approx(prc.calculate_precision_recall_full(gen, ref, 3))


def test_density_and_coverage_count_the_balls_by_hand():
    ref = torch.tensor([[0.0], [1.0], [3.0], [10.0]])  # nearest neighbours at 1, 1, 2, 7
    gen = torch.tensor([[0.5], [2.5], [50.0]])
    # 0.5 lies in the balls of 0 and 1; 2.5 in that of 3 alone (it is 7.5 from 10); 50 in none.
    density, coverage = density_coverage(ref, gen, k=1)
    assert density == pytest.approx(3 / 3) and coverage == 3 / 4
    assert density_coverage(ref, ref[:1] + 7, k=1) == (1.0, 0.25)  # a point at 7 is in the last ball alone
    # The sphere itself does not belong to a ball: 2 is exactly 1 from 1.
    assert density_coverage(ref[:2], torch.tensor([[2.0]]), k=1) == (0.0, 0.0)


@pytest.mark.parametrize("tile", [7, 1024])
def test_density_and_coverage_of_equal_distributions(tile):
    ref, gen = torch.randn(2, 600, 6, generator=torch.Generator().manual_seed(0)).unbind()
    density, coverage = density_coverage(ref, gen, tile=tile)
    squares = torch.cdist(ref.double(), ref.double()).sort(1).values[:, 5]
    inside = torch.cdist(ref.double(), gen.double()) < squares[:, None]
    assert density == pytest.approx(inside.sum().item() / 600 / 5, abs=1e-3)
    assert coverage == pytest.approx(inside.any(1).double().mean().item(), abs=2e-3)
    assert density == pytest.approx(1, abs=0.1) and coverage == pytest.approx(1 - 2**-5, abs=0.03)


def test_overflow_in_half_precision_falls_back_to_single():
    ref = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * 1e4
    assert precision_recall(ref, ref, 3, precision="adm") == (1.0, 1.0)


def test_too_few_rows_are_refused():
    with pytest.raises(FAEError, match="more than 3"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2), 3)


def test_kernel_distance_agrees_with_torch_fidelity():
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not installed")
    random = np.random.default_rng(0)
    ref, gen = random.standard_normal((60, 6)), random.standard_normal((50, 6)) + 0.2
    theirs = kid.kid_features_to_metric(
        torch.from_numpy(gen), torch.from_numpy(ref), kid_subsets=5, kid_subset_size=40, rng_seed=2020, verbose=False
    )
    mean, deviation = kernel_distance(ref, gen, subsets=5, subset_size=40)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_retrieval_counts_what_a_full_table_counts():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(30, 8, generator=generator)
    owner = torch.arange(60) % 30
    texts = images[owner] + 1.2 * torch.randn(60, 8, generator=generator)
    cosine = torch.nn.functional.normalize(texts, dim=1) @ torch.nn.functional.normalize(images, dim=1).T
    by_text = (cosine.argmax(1) == owner).double().mean().item()
    by_image = (owner[cosine.argmax(0)] == torch.arange(30)).double().mean().item()
    assert retrieval_recall(images, texts, owner, 1, block=7) == pytest.approx((by_image, by_text))
    assert clip_score(images, images * 3) == pytest.approx(100, rel=1e-5)


def test_sets_of_equal_rows_lie_inside_each_other():
    """A model that always makes one image: all distances and radii are 0, though rounding would leave some above."""
    row = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)) * 30
    for tile in (7, 1024):
        assert precision_recall(row.expand(40, -1), row.expand(30, -1), 3, tile=tile) == (1.0, 1.0)
        far = precision_recall(row.expand(40, -1), row.expand(30, -1) + 1, 3, tile=tile)
        assert far == (0.0, 0.0)
    twice = torch.randn(20, 300, generator=torch.Generator().manual_seed(1)).repeat(2, 1)
    assert manifold_radii(twice, 1, tile=7).tolist() == [0.0] * 40
    assert precision_recall(-torch.zeros(5, 2), torch.zeros(5, 2), 1) == (1.0, 1.0)


@pytest.mark.parametrize("k", [0, -1, 9, 10])
def test_neighbours_must_be_there(k):
    with pytest.raises(FAEError, match="more than"):
        precision_recall(torch.rand(9, 2), torch.rand(12, 2), k)


def test_the_parts_of_the_inception_score_are_as_many_as_were_asked_for():
    probs = np.random.default_rng(0).dirichlet(np.ones(4), 10)
    parts = [probs[i * 10 // 7 : (i + 1) * 10 // 7] for i in range(7)]
    one_by_one = [inception_score(part, splits=1) for part in parts]
    assert inception_score(probs, splits=7) == pytest.approx(np.mean(one_by_one))
    assert inception_score(probs[:1]) == pytest.approx(1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_number_that_is_none_is_no_score(bad):
    rows = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    broken = rows.clone()
    broken[7, 2] = bad
    for metric in (precision_recall, kernel_distance, retrieval_recall, lambda a, b: clip_score(a, b)):
        for pair in ((rows, broken), (broken, rows)):
            with pytest.raises(FAEError, match="not finite"):
                metric(*pair)
    probs = (rows / rows.sum(1, keepdim=True)).numpy()
    probs[3, 1] = bad
    with pytest.raises(FAEError, match="probabilities"):
        inception_score(probs)


def test_what_cannot_be_scored_is_refused():
    rows = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
    cases = [
        (lambda: precision_recall(rows[:, :0], rows[:, :0]), "shape"),
        (lambda: precision_recall(rows, rows[:, :3]), "dimensions"),
        (lambda: precision_recall(rows * 1e30, rows * 1e30), "too large"),
        (lambda: precision_recall(rows[0], rows), "shape"),
        (lambda: kernel_distance(rows[:1], rows), "too few"),
        (lambda: kernel_distance(rows[:0], rows), "too few"),
        (lambda: kernel_distance(rows, rows[:, :3]), "dimensions"),
        (lambda: kernel_distance(rows, rows, subsets=0), "subset"),
        (lambda: kernel_distance(rows, rows, seed=2**32), "seed"),
        (lambda: kernel_distance(rows.double() * 1e200, rows.double() * 1e200), "too large"),
        (lambda: inception_score(np.zeros((0, 3))), "probabilities"),
        (lambda: inception_score(np.full((3, 4), 0.5)), "add up to 1"),
        (lambda: inception_score(np.array([[1.5, -0.5]])), "add up to 1"),
        (lambda: inception_score(np.full((3, 2), 0.5), splits=4), "cannot be cut"),
        (lambda: inception_score(np.full((3, 2), 0.5), split_size=0), "at least one row"),
        (lambda: retrieval_recall(rows, rows[:5]), "which image"),
        (lambda: retrieval_recall(rows, rows, torch.arange(12) + 1), "describes one of"),
        (lambda: retrieval_recall(rows, rows, k=0), "at least 1"),
        (lambda: retrieval_recall(rows, rows[:0], torch.arange(0)), "too few"),
        (lambda: retrieval_recall(rows * 0, rows), "no direction"),
        (lambda: clip_score(rows[:0], rows[:0]), "too few"),
        (lambda: clip_score(rows, rows[:1]), "not pairs"),
    ]
    for call, says in cases:
        with pytest.raises(FAEError, match=says):
            call()


def test_equal_embeddings_find_each_other_by_chance_only():
    """A collapsed encoder: every image is as near to every text, and k of N are found, not all."""
    same = torch.ones(10, 4)
    assert retrieval_recall(same, same, k=3, block=4) == pytest.approx((0.3, 0.3))
    assert retrieval_recall(same, same, k=10) == pytest.approx((1, 1))
    # Two texts of each image: the chance that neither is among the first three of twenty.
    owner = torch.arange(20) % 10
    expected = 1 - (18 * 17 * 16) / (20 * 19 * 18)
    assert retrieval_recall(same, torch.ones(20, 4), owner, 3, block=7) == pytest.approx((expected, 0.3))
    # Two images of a pair cannot be told apart, the others can.
    images = torch.eye(4)[[0, 0, 1, 2]]
    assert retrieval_recall(images, images, k=1) == pytest.approx((0.75, 0.75))
