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


def test_precision_and_recall_agree_with_torch_fidelity():
    prc = pytest.importorskip("torch_fidelity.metric_prc", reason="torch-fidelity is not installed")
    generator = torch.Generator().manual_seed(0)
    ref, gen = torch.randn(150, 8, generator=generator), torch.randn(170, 8, generator=generator) * 0.8 + 0.3
    assert precision_recall(ref, gen, 3, tile=50) == pytest.approx(prc.calculate_precision_recall_full(gen, ref, 3))


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
