"""The Frechet distance against closed forms, OpenAI's evaluator's values, scipy and torch-fidelity."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fae_core.errors import FAEError
from fae_core.testing import shared_folder
from fae_eval.metrics import GaussianFactor, Moments, frechet_distance


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.mean(0), np.cov(features, rowvar=False)


@pytest.mark.parametrize(
    "name", ["identical", "mean_shift", "isotropic_scale", "commuting", "one_singular", "noncommuting_2d"]
)
def test_closed_forms(name):
    case = json.loads(shared_folder("cases/eval/fid_analytic.json").read_text())[name]
    found = frechet_distance(case["mu1"], case["sigma1"], case["mu2"], case["sigma2"])
    assert found == pytest.approx(case["exact"], abs=1e-11)


def test_statistics_of_the_adm_evaluator():
    case = np.load(shared_folder("cases/eval/fid_stats_d256.npz"))
    assert frechet_distance(case["mu"], case["sigma"], case["mu_ref"], case["sigma_ref"]) == pytest.approx(
        float(case["fid"]), rel=1e-6
    )


def test_fewer_samples_than_dimensions_is_exact():
    case = np.load(shared_folder("cases/eval/fid_rankdef_d256.npz"))
    ref, sample = case["ref"].astype(np.float64), case["sample"].astype(np.float64)
    assert frechet_distance(*gaussian(ref), *gaussian(sample)) == pytest.approx(float(case["fid_exact"]), rel=1e-12)
    # Through the rounded, exactly summed moments: the documented rounding, well inside what sqrtm itself loses.
    a, b = Moments.of(torch.from_numpy(case["ref"])), Moments.of(torch.from_numpy(case["sample"]))
    streamed = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert streamed == pytest.approx(float(case["fid_exact"]), rel=2e-7)
    assert abs(streamed - float(case["fid_exact"])) < abs(float(case["fid_adm"]) - float(case["fid_exact"]))


def test_spatial_features_take_the_first_seven_channels_in_nhwc_order():
    case = np.load(shared_folder("cases/eval/sfid_spatial.npz"))
    ref = Moments.of(torch.from_numpy(case["ref_flat"].astype(np.float32)))
    reference = GaussianFactor.of(ref.mean, ref.covariance)

    def distance(chosen: np.ndarray, layout: tuple[int, ...]) -> float:
        flat = chosen.transpose(layout).reshape(len(chosen), -1).astype(np.float32)
        moments = Moments.of(torch.from_numpy(np.ascontiguousarray(flat)))
        return frechet_distance(reference, mu2=GaussianFactor.of(moments.mean, moments.covariance))

    assert distance(case["sample_nchw"][:, :7], (0, 2, 3, 1)) == pytest.approx(float(case["sfid_exact"]), rel=1e-8)
    # The wrong order gives the value that is known for it, so the right one is no accident.
    wrong = distance(case["sample_nchw"][:, :7], (0, 1, 2, 3))
    assert wrong == pytest.approx(float(case["wrong_layout_nchw"]), rel=1e-6)


def test_agrees_with_scipy_and_torch_fidelity_on_the_same_features():
    scipy_linalg = pytest.importorskip("scipy.linalg", reason="scipy is not installed")
    fidelity = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    random = np.random.default_rng(0)
    mixing = random.standard_normal((48, 48))
    a = random.standard_normal((400, 48)) @ mixing
    b = random.standard_normal((300, 48)) * 1.1 + 0.1
    (mu1, sigma1), (mu2, sigma2) = gaussian(a), gaussian(b)
    root = scipy_linalg.sqrtm(sigma1 @ sigma2).real
    by_scipy = ((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root)
    ours = frechet_distance(mu1, sigma1, mu2, sigma2)
    assert ours == pytest.approx(by_scipy, rel=1e-10)
    theirs = fidelity.fid_statistics_to_metric(
        {"mu": mu1, "sigma": sigma1}, {"mu": mu2, "sigma": sigma2}, verbose=False
    )
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-10)


def test_is_symmetric_across_ranks():
    random = np.random.default_rng(1)
    full, thin = random.standard_normal((200, 20)), random.standard_normal((8, 20))
    forward = frechet_distance(*gaussian(full), *gaussian(thin))
    assert forward == pytest.approx(frechet_distance(*gaussian(thin), *gaussian(full)), rel=1e-12)


@pytest.mark.parametrize("smallest", [1e-4, 1e-9, 1e-11])
def test_ill_conditioned_covariances_of_full_rank_are_exact(smallest):
    # With common axes the distance is the sum of (sqrt a - sqrt b)^2 over them.
    random = np.random.default_rng(2)
    axes = np.linalg.qr(random.standard_normal((30, 30)))[0]
    first, second = np.geomspace(1, smallest, 30), np.geomspace(2, smallest, 30)[random.permutation(30)]
    exact = ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    one, two = ((axes * spread) @ axes.T for spread in (first, second))
    for pair in ((one, two), (two, one)):
        found = frechet_distance(np.zeros(30), (pair[0] + pair[0].T) / 2, np.zeros(30), (pair[1] + pair[1].T) / 2)
        assert found == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(
    ("mu", "sigma", "says"),
    [
        ([0.0], np.eye(2), "fit together"),
        ([0.0, np.nan], np.eye(2), "finite"),
        ([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]], "symmetric"),
    ],
)
def test_bad_statistics_are_refused(mu, sigma, says):
    with pytest.raises(FAEError, match=says):
        frechet_distance(mu, sigma, [0.0, 0.0], np.eye(2))


def test_a_lapack_that_gives_up_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11's does on a covariance of few samples."""
    random = np.random.default_rng(3)
    few, many = random.normal(size=(5, 12)), random.normal(size=(40, 12))
    pairs = [(few, many), (many, few), (many, 2 * many), (few, few + 1)]
    expected = [frechet_distance(*gaussian(a), *gaussian(b)) for a, b in pairs]

    def gives_up(matrix: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    monkeypatch.setattr(torch.linalg, "eigvalsh", gives_up)
    assert [frechet_distance(*gaussian(a), *gaussian(b)) for a, b in pairs] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [2, 5, 9, 12])  # of 96 dimensions: up to rank 12 without eigenvalues
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_very_few_samples_have_the_distance_of_their_factors(count: int, scale: float) -> None:
    """The closed form: tr (S1 S2)^(1/2) is the nuclear norm of the product of the centred samples."""
    random = np.random.default_rng(count)
    a, b = random.normal(size=(count, 96)) * scale, random.normal(size=(7, 96)) @ random.normal(size=(96, 96)) * scale
    factors = [(rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (a, b)]
    roots = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum((rows**2).sum() for rows in factors) - 2 * roots
    assert frechet_distance(*gaussian(a), *gaussian(b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*gaussian(a), *gaussian(a)) == pytest.approx(0, abs=1e-9 * scale**2)


def test_negative_variances_of_low_rank_are_refused() -> None:
    for sigma in (np.zeros((64, 64)), np.diag([1.0] + 63 * [0.0])):
        sigma[2, 3] = sigma[3, 2] = 1.0
        with pytest.raises(FAEError, match="negative variances"):
            frechet_distance(np.zeros(64), sigma, np.zeros(64), np.eye(64))


def test_few_or_constant_features_have_their_distance():
    """By the closed form: covariances of rank 0 leave the means and traces."""
    zeros = np.zeros((5, 5))
    assert frechet_distance(np.ones(5), zeros, np.zeros(5), zeros) == 5
    assert frechet_distance(np.ones(5), np.eye(5), np.zeros(5), zeros) == pytest.approx(10)
    assert frechet_distance(np.zeros(5), zeros, np.zeros(5), zeros) == 0
    one = np.random.default_rng(0).standard_normal((2, 5))
    assert frechet_distance(*_moments(one), *_moments(one)) == pytest.approx(0, abs=1e-12)


def _moments(rows):
    return rows.mean(0), np.cov(rows, rowvar=False)


@pytest.mark.parametrize(
    ("mu", "sigma", "says"),
    [
        (np.zeros(3), np.diag([1.0, 1.0, -1.0]), "negative variances"),
        (np.full(3, 1e200), np.eye(3), "too large"),
        (np.zeros(3), np.eye(3) * 1.7e308, "too large|finite"),
        (np.zeros(0), np.zeros((0, 0)), "fit together"),
        (np.array(["a", "b", "c"]), np.eye(3), "arrays of numbers"),
        (np.array([0.0, np.nan, 0.0]), np.eye(3), "not finite"),
    ],
)
def test_statistics_that_are_none_have_no_distance(mu, sigma, says):
    for pair in ((mu, sigma, np.zeros(3), np.eye(3)), (np.zeros(3), np.eye(3), mu, sigma)):
        with pytest.raises(FAEError, match=says):
            frechet_distance(*pair)


def test_features_that_are_all_alike_are_at_distance_0_from_themselves() -> None:
    rows = np.repeat(3.3 * np.linspace(0.1, 7.3, 8)[None], 50, 0)
    mu, sigma = rows.mean(0), np.cov(rows.T) + np.diag([7e-14, -7e-14] * 4)  # as rounding leaves it
    assert frechet_distance(mu, sigma, mu, sigma) == pytest.approx(0, abs=1e-9)
