"""Which settings of a run may differ when it is resumed, and which are told before models are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fae_core.config import Config
from fae_core.errors import InvalidSettings
from fae_core.folders import RUN_CONFIG
from fae_core.training.compared import require_same_settings, require_started_with


class Toy(Config):
    width: int
    depth: int = 2
    shift: float = 1.0


def run_with(folder: Path, **settings: Any) -> Path:
    (folder / RUN_CONFIG).write_text(yaml.safe_dump(settings))
    return folder


SECTIONS = {
    "data": "here",
    "autoencoder": {"beta": 1e-3, "data": {"flip": False, "cache_gb": 4.0}},
    "training": {"steps": 9, "log_every": 1, "schedule": "cosine"},
}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"data": "there"}, None),
        ({"autoencoder": {"beta": 1e-3, "data": {"flip": False, "cache_gb": 1.0}}}, None),
        ({"training": {"steps": 9, "log_every": 5, "schedule": "cosine"}}, None),
        ({"autoencoder": {"beta": 1e-2, "data": {"flip": False}}}, r"autoencoder.beta: 0.001 then, 0.01 now"),
        ({"autoencoder": {"beta": 1e-3, "data": {"flip": True}}}, r"autoencoder.data.flip: False then, True now"),
        (
            {"training": {"steps": 8, "log_every": 1, "schedule": "cosine"}},
            r"training.steps: 9 then, 8 now\); name the",
        ),
    ],
)
def test_what_decides_results_may_not_differ(changed: dict[str, Any], complaint: str | None, tmp_path: Path) -> None:
    """`data` and `autoencoder` are free as paths; sections of the same names are not."""
    before = {**SECTIONS, "identity": {"images": "content"}}
    if complaint is None:
        require_same_settings(tmp_path, before, {**SECTIONS, **changed})
    else:
        with pytest.raises(InvalidSettings, match=complaint):
            require_same_settings(tmp_path, before, {**SECTIONS, **changed})


def test_without_a_record_of_content_paths_are_compared(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="data: 'here' then, 'there' now"):
        require_same_settings(tmp_path, SECTIONS, {**SECTIONS, "data": "there"})


def test_early_only_what_is_given_is_compared(tmp_path: Path) -> None:
    run = run_with(tmp_path, command="fae train toy", model={"width": 8, "depth": 3, "shift": 2.0}, other={"a": 1})
    require_started_with(run, {"command": "fae train toy"}, {"model": Toy(width=8)})
    require_started_with(run, {}, {"model": (Toy, {"depth": "3"})})
    require_started_with(run, {}, {"absent": (Toy, {"depth": 7})})
    for section in (Toy(width=8, depth=2), (Toy, {"depth": 2})):
        with pytest.raises(InvalidSettings, match=r"model\.depth: 3 then, 2 now"):
            require_started_with(run, {}, {"model": section})
    with pytest.raises(InvalidSettings, match="command: 'fae train toy' then, 'fae train other' now"):
        require_started_with(run, {"command": "fae train other"}, {"model": (Toy, {"width": "wide"})})


def test_a_run_that_is_not_there_is_none_to_compare(tmp_path: Path) -> None:
    require_started_with(tmp_path, {"command": "fae train toy"}, {"model": Toy(width=8)})
