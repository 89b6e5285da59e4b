"""A model's identity is what its output depends on, and not where its weights were found."""

from __future__ import annotations

import pytest
from torch import nn

from fae_core.config import Config
from fae_core.models.identity import model_identity


class Part(Config):
    name: str = "here"
    layers: int = 1

    @property
    def places(self) -> frozenset[str]:
        return frozenset({"name"})


class Whole(Config):
    name: str = "relu"
    part: Part = Part()


class Model(nn.Module):
    def __init__(self, config: Whole) -> None:
        super().__init__()
        self.config = config


@pytest.mark.parametrize(
    ("config", "is_same"),
    [
        (Whole(part=Part(name="elsewhere")), True),
        (Whole(part=Part(layers=2)), False),
        (Whole(name="gelu"), False),  # of the same name as a place, and none
    ],
)
def test_only_fields_that_are_places_are_left_out(config: Whole, is_same: bool) -> None:
    here = model_identity(Model(Whole(part=Part(name="there"))))
    assert (model_identity(Model(config)) == here) is is_same
