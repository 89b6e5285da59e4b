"""Every package's configurations: whatever they are given, they are plain finite data or refuse it in one line, and so
do models."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from any_fields import check_fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fae_core.config import Config, parse_config
from fae_core.errors import FAEError, MissingPackage
from fae_core.models.presets import load_preset, preset_files
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec

PACKAGES = ("fae_core", "fae_encoder", "fae_decoders", "fae_diffusion", "fae_flow", "fae_eval")
PROPERTY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
scalars = st.none() | st.booleans() | st.integers(-2, 9) | st.integers() | st.floats() | st.text("ab\n.0", max_size=4)
nested = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
)


def import_everything() -> None:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            try:
                importlib.import_module(module.name)
            except (ImportError, MissingPackage):
                continue  # what needs an extra that is not installed


def descendants(base: type) -> Iterator[type]:
    for child in base.__subclasses__():
        if child.__module__.split(".")[0] in PACKAGES:
            yield child
        yield from descendants(child)


import_everything()
CONFIGS = sorted(set(descendants(Config)), key=lambda found: (found.__module__, found.__qualname__))
MODELS = {model.model_type: model for model in descendants(PretrainedModel) if "model_type" in vars(model)}


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda found: f"{found.__module__}.{found.__name__}")
def test_any_fields_are_a_finite_config_or_one_line(config_class: type[Config]) -> None:
    fields = st.sampled_from([*config_class.model_fields, "no_field"])

    @PROPERTY
    @given(given_fields=st.dictionaries(fields, nested, max_size=5))
    def check(given_fields: dict[str, Any]) -> None:
        check_fields(config_class, given_fields)

    check()


def leaves(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        yield (*prefix, key)


def replaced(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return {**tree, path[0]: replaced(tree[path[0]], path[1:], value) if path[1:] else value}


TINY = sorted(name for name in preset_files() if name.endswith("-tiny"))


@pytest.mark.parametrize("preset", TINY)
def test_any_change_of_a_preset_is_a_model_or_one_line(preset: str) -> None:
    """One or two fields of a small preset are changed; the model is made without memory for its weights."""
    content = load_preset(preset)
    model_class = MODELS[content["model_type"]]
    spec = LatentSpec.from_dict(content["spec"], preset) if "spec" in content else None
    whole = parse_config(model_class.config_class, content.get("model", {}), preset).model_dump(mode="json")
    small = st.none() | st.booleans() | st.integers(-1, 40) | st.floats(-2, 2) | st.sampled_from(["", "a", "none"])
    change = st.tuples(st.sampled_from(sorted(leaves(whole))), small | st.lists(small, max_size=3))

    @PROPERTY
    @given(changes=st.lists(change, min_size=1, max_size=2))
    def check(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        fields = whole
        for path, value in sorted(changes, key=lambda change: -len(change[0])):  # a section after its fields
            fields = replaced(fields, path, value)
        try:
            config = parse_config(model_class.config_class, fields, "here")
            with torch.device("meta"):
                model_class(config, spec)
        except FAEError as error:
            assert "\n" not in str(error)

    check()
