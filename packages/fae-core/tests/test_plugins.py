"""Presets and generators of any installed package are found; unknown names suggest the nearest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fae_core import LatentSpec, load_generator
from fae_core.errors import FAEError, UnknownName
from fae_core.models.presets import load_preset, preset_files
from fae_core.plugins import load_plugins

MODEL = """
import torch
from fae_core.models.pretrained import Config, PretrainedModel

__version__ = "1.0"

class Config(Config):
    gain: float = 1.0

class Model(PretrainedModel):
    model_type = "thirdparty"
    config_class = Config

    def __init__(self, config, spec=None):
        super().__init__(config, spec)
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def loss(self, z, condition, *, random=None):
        return {"loss": z.square().mean() * self.config.gain + self.bias.sum()}

    def sample(self, condition, *, noise=None, random=None, **options):
        return noise
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody else, installed as pip would: a module, presets, and its entry points."""
    package = tmp_path / "thirdparty"
    (package / "presets").mkdir(parents=True)
    (package / "__init__.py").write_text(MODEL)
    (package / "presets" / "thirdparty-small.yaml").write_text(
        "description: A generator that returns its noise\nmodel_type: thirdparty\nmodel: {gain: 3.0}\n"
        "spec: {channels: 2, height: 2, width: 2, image_size: 32, backbone: toy}\n"
    )
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fae.generators]\nthirdparty = thirdparty:Model\n\n[fae.presets]\nthirdparty = thirdparty\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins.cache_clear()
    preset_files.cache_clear()
    yield package
    sys.modules.pop("thirdparty", None)
    load_plugins.cache_clear()
    preset_files.cache_clear()


def test_a_third_party_generator_joins_by_its_entry_point(third_party: Path, tmp_path: Path) -> None:
    import thirdparty

    model = thirdparty.Model.from_preset("thirdparty-small")
    assert model.config.gain == 3.0
    assert model.spec == LatentSpec(2, 2, 2, 32, "toy")
    model.save_pretrained(tmp_path / "model")
    loaded = load_generator(tmp_path / "model", spec=model.spec)
    z = torch.ones(1, 2, 2, 2)
    assert torch.equal(loaded.loss(z, None)["loss"], model.loss(z, None)["loss"])


def test_a_model_of_no_installed_package_is_named(third_party: Path, tmp_path: Path) -> None:
    import thirdparty

    thirdparty.Model.from_preset("thirdparty-small").save_pretrained(tmp_path / "model")
    (third_party.parent / "thirdparty-1.0.dist-info" / "entry_points.txt").write_text("")
    load_plugins.cache_clear()
    with pytest.raises(UnknownName, match="unknown generator type 'thirdparty'"):
        load_generator(tmp_path / "model")


def test_overrides_replace_fields_of_a_preset(third_party: Path) -> None:
    import thirdparty

    assert thirdparty.Model.from_preset("thirdparty-small", gain=0.5).config.gain == 0.5
    with pytest.raises(FAEError, match=r"preset thirdparty-small: gian: Extra"):
        thirdparty.Model.from_preset("thirdparty-small", gian=0.5)


def test_an_unknown_preset_suggests_the_nearest(third_party: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean thirdparty-small"):
        load_preset("thirdparty-smal", "thirdparty")


def test_a_preset_of_another_model_is_not_taken(third_party: Path) -> None:
    assert load_preset("thirdparty-small")["model_type"] == "thirdparty"
    with pytest.raises(UnknownName, match="unknown other preset 'thirdparty-small'; known: none"):
        load_preset("thirdparty-small", "other")


def test_two_presets_of_one_name_are_an_error(third_party: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    (twin / "presets").mkdir(parents=True)
    (twin / "__init__.py").write_text("")
    (twin / "presets" / "thirdparty-small.yaml").write_text("model_type: twin\n")
    info = tmp_path / "twin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fae.presets]\ntwin = twin\n")
    load_plugins.cache_clear()
    preset_files.cache_clear()
    with pytest.raises(FAEError, match="two presets are named thirdparty-small"):
        preset_files()


def test_packages_that_are_not_loaded_cost_nothing(third_party: Path) -> None:
    assert "thirdparty" in load_plugins("fae.generators")
    assert "thirdparty-small" in preset_files()
    assert "thirdparty" not in sys.modules
