"""The latent spec: round trips exactly, refuses what is not a latent space, normalises by its statistics, names
differences."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from fae_core import LatentSpec
from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch

PROPERTY = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SPEC = LatentSpec(2, 3, 4, (48, 64), "timm/x", mean=(1.0, -2.0), std=(0.5, 4.0), fingerprint="abc", adapter="attention")

finite = st.floats(-1e30, 1e30)
sizes = st.integers(1, 300)


@st.composite
def specs(draw: st.DrawFn) -> LatentSpec:
    channels = draw(st.integers(1, 8))
    return LatentSpec(
        channels,
        draw(sizes),
        draw(sizes),
        draw(sizes | st.tuples(sizes, sizes)),
        draw(st.text(max_size=20)),
        mean=draw(st.none() | st.lists(finite, min_size=channels, max_size=channels)),
        std=draw(st.none() | st.lists(st.floats(1e-30, 1e30), min_size=channels, max_size=channels)),
        fingerprint=draw(st.text(max_size=20)),
        adapter=draw(st.text(max_size=20)),
    )


@PROPERTY
@given(spec=specs())
def test_what_is_saved_is_what_is_loaded(spec: LatentSpec, tmp_path: Path) -> None:
    assert spec.save(tmp_path) == tmp_path / "latent_spec.json"
    loaded = LatentSpec.load(tmp_path)
    assert loaded == spec
    assert hash(loaded) == hash(spec)
    spec.require(loaded)


def test_the_file_says_its_format(tmp_path: Path) -> None:
    SPEC.save(tmp_path)
    stored = json.loads((tmp_path / "latent_spec.json").read_text())
    assert stored["format_version"] == 1
    assert stored["std"] == [0.5, 4.0]
    (tmp_path / "latent_spec.json").write_text(json.dumps({**stored, "format_version": 2}))
    with pytest.raises(InvalidFile, match="format 2 is not known"):
        LatentSpec.load(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@PROPERTY
@given(
    changes=st.dictionaries(
        st.sampled_from([field.name for field in dataclasses.fields(LatentSpec)]) | st.text(max_size=6), json_values
    )
)
def test_any_json_object_is_a_spec_or_one_line_of_complaint(changes: dict[str, Any], tmp_path: Path) -> None:
    """A valid file with any fields replaced or added: never another exception, never a spec with senseless numbers."""
    path = tmp_path / "latent_spec.json"
    path.write_text(json.dumps({**SPEC.to_dict(), **changes}))
    try:
        spec = LatentSpec.load(tmp_path)
    except InvalidFile as error:
        assert "\n" not in str(error)
        return
    assert all(0 < size <= 65536 for size in (*spec.shape, *spec.image_shape))
    assert len(spec.mean) == len(spec.std) == spec.channels
    assert all(math.isfinite(v) for v in (*spec.mean, *spec.std))
    assert min(spec.std) > 0


@PROPERTY
@given(data=st.binary(max_size=200))
def test_any_bytes_are_one_line_of_complaint(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "latent_spec.json").write_bytes(data)
    with pytest.raises(InvalidFile) as caught:
        LatentSpec.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 0),
        ("channels", 3),  # the statistics have two
        ("height", -1),
        ("width", 65537),
        ("image_size", 0),
        ("image_size", (1, 2, 3)),
        ("mean", (math.nan, 0.0)),
        ("mean", (math.inf, 0.0)),
        ("mean", (1e300, 0.0)),
        ("mean", (1.0,)),
        ("mean", "12"),
        ("std", (0.0, 1.0)),
        ("std", (-1.0, 1.0)),
        ("std", (1e-50, 1.0)),  # zero in single precision
        ("unknown", 1),
    ],
)
def test_what_is_no_latent_space_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidFile, match=r"here: .*(mean|std|channels|height|width|image_size|unknown|spec)"):
        LatentSpec.from_dict({**SPEC.to_dict(), field: value}, "here")


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.channels = 4  # type: ignore[misc]


def test_a_missing_file_and_a_missing_field_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"latent_spec\.json does not exist"):
        LatentSpec.load(tmp_path)
    fields = SPEC.to_dict()
    del fields["backbone"]
    with pytest.raises(InvalidFile, match="backbone"):
        LatentSpec.from_dict(fields)


def test_normalisation_by_hand() -> None:
    z = torch.tensor([3.0, 6.0]).view(2, 1, 1).expand(2, 3, 4)
    normalized = SPEC.normalize(z)
    assert normalized[:, 0, 0].tolist() == [4.0, 2.0]  # (3 - 1) / 0.5 and (6 + 2) / 4
    assert torch.equal(SPEC.denormalize(normalized), z)


@PROPERTY
@given(spec=specs().filter(lambda s: max(s.std) / min(s.std) < 1e6 and max(map(abs, s.mean)) < 1e3 * min(s.std)))
def test_denormalize_inverts_normalize(spec: LatentSpec) -> None:
    z = torch.randn(2, *spec.shape[:1], 2, 2, generator=torch.Generator().manual_seed(0))
    # An error of a rounding of |z - mean| / std, at most some 1e3 here, at the scale of 1.
    torch.testing.assert_close(spec.normalize(spec.denormalize(z)), z, atol=2e-3, rtol=1e-5)


def test_normalised_data_has_the_statistics_of_the_unit() -> None:
    z = (
        torch.randn(500, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 9.0, 0.1]).view(3, 1, 1)
        + 5
    )
    spec = LatentSpec(3, 4, 4, 64, "x").with_statistics(z.mean((0, 2, 3)), z.std((0, 2, 3)))
    assert spec.is_normalized
    normalized = spec.normalize(z)
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_low_precision_is_normalised_in_single_precision() -> None:
    spec = LatentSpec(1, 1, 1, 16, "x", mean=(1000.0,), std=(3.0,))
    z = torch.full((1, 1, 1, 1), 1003.0).bfloat16()  # 1004 in bfloat16
    assert spec.normalize(z).dtype == torch.bfloat16
    assert spec.normalize(z).item() == torch.tensor((z.float().item() - 1000) / 3).bfloat16().item()


def test_latents_of_another_shape_are_refused() -> None:
    SPEC.check(torch.zeros(7, 2, 3, 4))
    for shape in ((2, 3, 4), (1, 2, 4, 3), (1, 3, 3, 4)):
        with pytest.raises(FAEError, match=r"expected latents of shape \(B, 2, 3, 4\)"):
            SPEC.check(torch.zeros(shape))
    with pytest.raises(FAEError, match="expected latents"):
        SPEC.normalize(torch.zeros(1, 3, 3, 4))


def test_require_names_every_field_that_differs() -> None:
    other = dataclasses.replace(SPEC, height=5, backbone="timm/y", std=(0.5, 5.0))
    with pytest.raises(LatentSpecMismatch, match="my generator") as caught:
        SPEC.require(other, context="my generator")
    assert set(caught.value.fields) == {"height", "backbone", "std"}
    assert caught.value.fields["height"] == (3, 5)
    for name in ("height", "backbone", "std"):
        assert f"{name}: wanted" in str(caught.value)
    SPEC.require(other, ignore=("height", "backbone", "std"))


def test_arrays_and_numbers_of_other_kinds_become_plain_floats() -> None:
    for values in ([1, 2], np.array([1.0, 2.0], np.float32), torch.tensor([1.0, 2.0])):
        spec = LatentSpec(2, 3, 4, 64, "x", mean=values, std=values)
        assert spec.mean == (1.0, 2.0)
        assert all(type(v) is float for v in spec.std)


def test_one_image_size_is_two_equal_ones() -> None:
    assert LatentSpec(1, 1, 1, (64, 64), "x") == LatentSpec(1, 1, 1, 64, "x")
    assert LatentSpec(1, 1, 1, 64, "x").image_shape == (64, 64)


@pytest.mark.parametrize(
    ("mean", "std"), [([float("nan")] * 3, [1.0] * 3), ([0.0] * 3, [0.0] * 3), ([0.0], [1.0]), ("x", None)]
)
def test_statistics_that_cannot_normalise_are_one_line(mean, std) -> None:
    with pytest.raises(FAEError, match="cannot be normalised by these statistics") as caught:
        LatentSpec(3, 4, 4, 64, "x").with_statistics(mean, std)
    assert "\n" not in str(caught.value)


def test_statistics_may_differ_by_position(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.randn(2, 3, 4, generator=generator), torch.rand(2, 3, 4, generator=generator) + 0.5
    spec = SPEC.with_statistics(mean, std)
    assert spec.is_positional and not SPEC.is_positional and "position" in spec.facts()["normalised"]
    z = torch.randn(5, 2, 3, 4, generator=generator)
    torch.testing.assert_close(spec.normalize(z), (z - mean) / std)
    torch.testing.assert_close(spec.denormalize(spec.normalize(z)), z)
    spec.save(tmp_path)
    assert LatentSpec.load(tmp_path) == spec
    stored = json.loads((tmp_path / "latent_spec.json").read_text())
    assert stored["std"] == std.numpy().astype("<f4").tobytes().hex()
    for wrong, message in (("zz" * 96, "hexadecimal"), (stored["std"][:-8], "23 values"), ("abc", "hexadecimal")):
        with pytest.raises(InvalidFile, match=message):
            LatentSpec.from_dict({**stored, "std": wrong})
    with pytest.raises(LatentSpecMismatch, match="mean"):
        SPEC.require(spec)
    with pytest.raises(FAEError, match=r"expected latents of shape \(\.\.\., 2, 3, 4\)"):
        spec.normalize(torch.zeros(1, 2, 4, 3))
    for mean_, std_ in ((mean.permute(1, 2, 0), std.permute(1, 2, 0)), (mean.flatten(1), std), (mean[:, :1], std)):
        with pytest.raises(FAEError, match=r"mean: .*an array of shape \(.*\(C, h, w\) = \(2, 3, 4\)"):
            SPEC.with_statistics(mean_, std_)
    for shape in ((2,), (2, 1, 1), (1, 2, 1, 1)):
        assert SPEC.with_statistics(torch.zeros(shape), np.ones(shape)) == SPEC.with_statistics([0, 0], [1, 1])
    assert SPEC.with_statistics(mean[None], std.flatten()) == spec
    square = LatentSpec(4, 2, 2, 16, "x")  # as many positions as channels
    with pytest.raises(FAEError, match="an array of shape"):
        square.with_statistics(np.zeros((2, 2)), np.ones((2, 2)))
    with pytest.raises(FAEError, match="mean has 24 values, std 2"):
        SPEC.with_statistics(mean, [1.0, 1.0])
    shift, scale = spec.statistics()
    before = spec.normalize(z)
    shift += 1
    scale *= 2
    assert torch.equal(spec.normalize(z), before)  # what is handed out is the caller's own
    with torch.inference_mode():
        fresh = LatentSpec.load(tmp_path)
        fresh.normalize(z)
    z.requires_grad_(True)
    fresh.denormalize(z).sum().backward()  # kept statistics can take part in a backward pass
    torch.testing.assert_close(z.grad, std.expand_as(z))


class Normalized(torch.nn.Module):
    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.spec.denormalize(self.spec.normalize(z) + 1)


@pytest.mark.parametrize("positions", [(), (3, 4)])
@pytest.mark.parametrize("strict", [False, True])
def test_export_before_the_first_use_changes_no_later_result(positions: tuple[int, ...], strict: bool) -> None:
    std = torch.linspace(0.5, 2, 2 * math.prod(positions)).view(2, *positions)
    model, z = Normalized(SPEC.with_statistics(std - 1, std)), torch.randn(5, 2, 3, 4)
    expected = z + std.view(2, *(positions or (1, 1)))
    program = torch.export.export(model, (z,), strict=strict).module()
    for result in (program(z), model(z), program(z)):
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("positions", [(), (3, 4)])
def test_a_first_call_is_compiled_whole_and_follows_the_statistics(positions: tuple[int, ...]) -> None:
    std = torch.linspace(0.5, 2, 2 * math.prod(positions)).view(2, *positions)
    model, z = Normalized(SPEC.with_statistics(std - 1, std)), torch.randn(5, 2, 3, 4)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for scale in (std, 3 * std):
        model.spec = SPEC.with_statistics(std - 1, scale)
        torch.testing.assert_close(compiled(z), z + scale.view(2, *(positions or (1, 1))))


def test_a_spec_that_is_read_while_a_model_is_traced_is_as_any_other(tmp_path: Path) -> None:
    std = torch.linspace(0.5, 2, 24).view(2, 3, 4)
    SPEC.with_statistics(std - 1, std).save(tmp_path)
    with FakeTensorMode():
        spec = LatentSpec.load(tmp_path)
    assert torch.equal(spec.statistics()[1], std)
