"""The release check finds what it is there to find, and nothing in this tree's own way of writing it right."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "checks" / "release.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_check", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(check: ModuleType, source: str) -> list[str]:
    return [reason for node in ast.walk(ast.parse(source)) if (reason := check.unpickles(node))]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, dill",
        "from pickle import loads",
        "from pickle import UnpicklingError, load",
        "import joblib.numpy_pickle",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=allow)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_could_unpickle_is_found(check: ModuleType, source: str) -> None:
    assert len(found(check, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from pickle import UnpicklingError",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "json.load(file)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
        "from safetensors.torch import load_file",
    ],
)
def test_what_cannot_unpickle_is_left_alone(check: ModuleType, source: str) -> None:
    assert found(check, source) == []


def test_paths_of_machines_and_tokens_are_found(check: ModuleType) -> None:
    home, token = "/" + "home/somebody/data", "hf" + "_" + "a1" * 17
    assert check.MACHINE_PATHS.search(f"--data {home}")
    assert check.TOKENS.search(f"token={token}")
    for fine in (
        "runs/home/x",
        "https://example.org/home/x",
        "/data/images",
        "~/work/x",
        "a/root/b",
        "hf_hub_download",
    ):
        assert not check.MACHINE_PATHS.search(fine), fine
        assert not check.TOKENS.search(fine), fine


def test_every_package_is_seen(check: ModuleType) -> None:
    assert {package.name for package in check.packages()} >= {"fae-core", "fae-encoder", "fae-decoders"}
    assert list(check.environments()) == []
    assert list(check.ranges()) == []
