"""What messages tell a user to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fae_core import errors
from fae_core.errors import MissingPackage, install_command

PACKAGES = Path(errors.__file__).parents[3]


def of_checkout() -> bool:
    return (PACKAGES / "fae-core" / "pyproject.toml").is_file()


@pytest.mark.skipif(not of_checkout(), reason="fae-core is not run from a checkout here")
def test_a_checkout_installs_from_itself() -> None:
    assert install_command("fae-core") == f"pip install {PACKAGES}/fae-core"
    assert install_command("fae-core[data,demo]", "timm") == f"pip install '{PACKAGES}/fae-core[data,demo]' timm"
    assert str(MissingPackage("reading", "fae-core[data]")).endswith(f"pip install '{PACKAGES}/fae-core[data]'")


def recorded(tmp_path: Path, origin: dict | None) -> Path:
    """An installed fae-core that came from somewhere, outside any checkout."""
    site = tmp_path / "site"
    metadata = site / "fae_core-9.9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fae-core\nVersion: 9.9\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    return site


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 'fae-eval[timm]'"),
        ({"url": "https://host/fae_core-9.9.whl", "archive_info": {}}, "pip install 'fae-eval[timm]'"),
        (
            {"url": "https://host/fae", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'fae-eval[timm] @ git+https://host/fae@abc#subdirectory=packages/fae-eval'",
        ),
        ({"url": "file:///gone/packages/fae-core", "dir_info": {}}, "pip install 'fae-eval[timm]'"),
    ],
)
def test_an_installed_package_tells_to_install_from_its_own_origin(
    origin: dict | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(recorded(tmp_path, origin)))
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib" / "site" / "python" / "fae_core" / "errors.py"))
    assert install_command("fae-eval[timm]") == expected


def test_a_copy_of_a_folder_installs_from_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = tmp_path / "my packages" / "fae-eval"
    sibling.mkdir(parents=True)
    (sibling / "pyproject.toml").touch()
    origin = {"url": (sibling.parent / "fae-core").as_uri(), "dir_info": {}}
    monkeypatch.syspath_prepend(str(recorded(tmp_path, origin)))
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib" / "site" / "python" / "fae_core" / "errors.py"))
    assert install_command("fae-eval") == f"pip install '{sibling}'"


def test_a_wheel_installs_the_wheel_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "dist" / "fae_eval-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    origin = {"url": (wheel.parent / "fae_core-0.1.0-py3-none-any.whl").as_uri(), "archive_info": {}}
    monkeypatch.syspath_prepend(str(recorded(tmp_path, origin)))
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib" / "site" / "python" / "fae_core" / "errors.py"))
    assert install_command("fae-eval[timm]") == f"pip install '{wheel}[timm]'"
