"""Pictures show what they claim: queries, matches, components, ticks."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from fae_core import LatentSpec
from fae_core.errors import FAEError
from fae_eval.figures import Series, line_chart, matching_picture, pca_picture, similarity_picture
from fae_eval.figures.charts import Axis, ticks
from fae_eval.figures.kmeans import foreground, kmeans
from fae_eval.figures.matching import mutual_matches, nearest_matches, random_patches
from fae_eval.figures.pca import align, principal_components
from fae_eval.figures.similarity import cosine_map, token_spaces, typical_patches


def test_kmeans_finds_two_clear_clusters():
    random = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(30, 4, generator=random), torch.randn(20, 4, generator=random) + 12])
    found = kmeans(points, 2)
    assert len(set(found[:30].tolist())) == len(set(found[30:].tolist())) == 1
    assert found[0] != found[-1]
    assert torch.equal(found, kmeans(points, 2))


def test_foreground_is_the_cluster_that_avoids_the_border():
    tokens = torch.tensor([1.0, 0.0]).repeat(1, 36, 1)
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[2:4, 2:5] = True
    tokens[0, inside.flatten()] = torch.tensor([0.0, 1.0])
    assert torch.equal(foreground(tokens, (6, 6))[0], inside.flatten())
    y, x = typical_patches(tokens, (6, 6))[0]
    assert inside[int(y * 6), int(x * 6)]


def test_similarity_is_one_at_the_query_and_needs_as_many_queries_as_images(fae):
    tokens = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert cosine_map(tokens, 4)[4].item() == pytest.approx(1)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    picture, agreement = similarity_picture(fae, images, [(0.1, 0.9), (0.5, 0.5)])
    assert picture.width > picture.height
    # This tokenizer rebuilds its features exactly.
    assert agreement["rebuilt features"] == pytest.approx(1, abs=1e-6)
    with pytest.raises(FAEError, match="as many queries"):
        similarity_picture(fae, images, [(0.5, 0.5)])
    with pytest.raises(FAEError, match="query is"):
        similarity_picture(fae, images[:1], [(1.5, 0.5)])


def test_an_image_of_one_patch_has_no_foreground_but_may_be_asked_about_it(fae):
    fae.spec = LatentSpec(3, 1, 1, 16, "test/colour")
    fae.encoder = SimpleNamespace(features=lambda images: torch.cat([images, 1 - images], 1).mean((2, 3))[:, None])
    fae.encode = lambda images: images.mean((2, 3), keepdim=True)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for draw in (
        lambda: similarity_picture(fae, images),
        lambda: matching_picture(fae, images[0], images[1]),
        lambda: matching_picture(fae, images[0], images[1], select="mutual"),
    ):
        with pytest.raises(FAEError, match="at least 2 patches, not 1"):
            draw()
    assert similarity_picture(fae, images, [(0.5, 0.5)] * 2)[0].width > 0


def test_matches_follow_a_permutation(fae):
    tokens = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    everywhere = torch.ones(12, dtype=torch.bool)
    pairs = mutual_matches(tokens, tokens[order], everywhere, everywhere)
    assert {i: int(order[j]) for i, j in pairs} == {i: i for i in range(12)}
    few = everywhere.clone()
    few[3:] = False
    assert {i for i, _ in mutual_matches(tokens, tokens[order], few, everywhere)} <= {0, 1, 2}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    _, shared = matching_picture(fae, images[0], images[1])
    assert shared["rebuilt features"] == pytest.approx(1)
    _, shared = matching_picture(fae, images[0], images[1], select="mutual")
    assert shared["rebuilt features"] == pytest.approx(1)


def test_latents_are_compared_normalised_unless_raw_ones_are_asked_for(fae):
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([4.0, 1.0, 0.25])
    fae.spec = fae.spec.with_statistics(mean, std)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    normalised, raw = (token_spaces(fae, images, scale)["latents"][0] for scale in ("normalised", "raw"))
    torch.testing.assert_close(raw, normalised * std + mean)
    assert torch.equal(token_spaces(fae, images)["latents"][0], normalised)
    _, (one, other) = zip(
        *(similarity_picture(fae, images, latent_scale=s) for s in ("normalised", "raw")), strict=True
    )
    assert one["latents"] != other["latents"] and one["rebuilt features"] == other["rebuilt features"]
    _, shared = matching_picture(fae, images[0], images[1], latent_scale="raw")
    assert set(shared) == {"latents", "rebuilt features"}


def test_random_patches_lie_in_the_foreground_and_each_is_matched_one_way():
    mask = torch.zeros(12, dtype=torch.bool)
    mask[2:9] = True
    chosen = random_patches(mask, 4, seed=0)
    assert len(set(chosen)) == 4 and all(2 <= i < 9 for i in chosen)
    assert random_patches(mask, 4, seed=0) == chosen != random_patches(mask, 4, seed=3)
    assert random_patches(mask, 99, seed=0) == list(range(2, 9))
    tokens = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    # Two patches may have one nearest, which a mutual match forbids.
    assert nearest_matches(tokens, torch.tensor([[0.0, 2.0], [3.0, 0.0]]), [0, 1, 2]) == [(0, 1), (1, 1), (2, 0)]


def test_principal_components_agree_with_svd_and_can_be_aligned(fae):
    points = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double() @ torch.diag(
        torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1, 0.1]).double()
    )
    projected, share = principal_components(points, 3)
    singular = torch.linalg.svdvals(points - points.mean(0))
    torch.testing.assert_close(projected.norm(dim=0), singular[:3])
    assert share == pytest.approx((singular[:3] ** 2).sum().item() / (singular**2).sum().item())
    turned = projected[:, [2, 0, 1]] * torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(align(turned, projected), projected / projected.std(0))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    picture, shares = pca_picture(fae, images)
    assert set(shares) == {"features", "latents", "rebuilt features"}
    assert picture.mode == "RGBA"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (25, 1250), (-3, 7), (0, 0.0004), (1e6, 5e6)])
def test_ticks_are_round_and_few(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert len({re.sub(r"[0.eE+-]", "", f"{b - a:.6g}") for a, b in pairwise(found)}) == 1


def test_chart_places_the_ends_of_a_line_at_the_ends_of_the_axes_and_survives_bad_numbers():
    chart = line_chart([Series("loss <b>", [0, 5, 10], [1.0, float("nan"), 3.0], [0, 1, 2])], title="a & b")
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", chart, re.S)[0])
    points = svg.find(".//{*}polyline").get("points").split()
    (x0, y0), (x1, y1) = (tuple(map(float, p.split(","))) for p in points)
    assert (x0, x1) == (58.0, 544.0)
    assert y1 < y0
    assert "loss &lt;b&gt;" in chart
    assert " s</text>" in chart
    assert Axis(2.0, 2.0, 10, 90, False).place(2.0) == Axis(2.0, 2.0, 10, 90, True).place(2.0) == 10
    assert line_chart([Series("nothing", [1], [float("inf")])], title="t") == ""


def test_wide_ranges_become_logarithmic_only_where_all_values_are_positive():
    steep = line_chart([Series("a", [1, 2], [0.001, 10])], title="t")
    assert ">0.01<" in steep
    assert ">0.01<" not in line_chart([Series("a", [1, 2], [0, 10])], title="t")
