"""Names that third parties may use under an earlier module forward, with a warning."""

from __future__ import annotations

import importlib
import sys

import pytest

from fae_core.moved.names import MOVED, RENAMED


@pytest.fixture
def forgotten(request: pytest.FixtureRequest) -> str:
    sys.modules.pop(request.param, None)
    return request.param


@pytest.mark.parametrize("forgotten", list(MOVED), indirect=True)
def test_every_earlier_module_of_the_core_imports_and_warns(forgotten: str) -> None:
    homes = MOVED[forgotten]
    with pytest.warns(DeprecationWarning, match=f"{forgotten} is now "):
        module = importlib.import_module(forgotten)
    for home in homes:
        found = importlib.import_module(home)
        own = [name for name, value in vars(found).items() if getattr(value, "__module__", None) == home]
        for name in own:
            first = next(one for one in map(importlib.import_module, homes) if hasattr(one, name))
            assert getattr(module, name) is getattr(first, name)


@pytest.mark.parametrize("forgotten", ["fae_core.hub"], indirect=True)
def test_names_that_changed_forward_too(forgotten: str) -> None:
    from fae_core.config import Config
    from fae_core.models.pretrained import PretrainedModel

    with pytest.warns(DeprecationWarning):
        module = importlib.import_module(forgotten)
    assert RENAMED["ModelConfig"] == "Config" and module.ModelConfig is Config
    assert module.PretrainedModel is PretrainedModel
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_a_module_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fae_core.never_was")


def test_the_error_of_files_keeps_its_earlier_name() -> None:
    from fae_core import errors

    with pytest.warns(DeprecationWarning, match="InvalidFile"):
        assert errors.CheckpointError is errors.InvalidFile


def test_a_task_with_the_earlier_names_is_prepared_and_read_in_groups() -> None:
    from fae_core.training import Task

    with pytest.warns(DeprecationWarning, match="is now"):

        class Earlier(Task):
            blocks = (3, 2)

            def __len__(self) -> int:
                return 5

            def load(self, indices, random):
                return {}

            def export(self, folder, modules) -> None: ...

            def to(self, device: str) -> None:
                self.device = device

    task = Earlier()
    task.prepare("cpu")
    assert task.device == "cpu" and task.read_groups == (3, 2)
