"""`fae info` on presets of third-party packages: the facts, or one line of error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fae_core.cli.main import main
from fae_core.models.presets import preset_files
from fae_core.plugins import load_plugins

PACKAGE = """
import torch
from fae_core.models.pretrained import Config, PretrainedModel

class Config(Config):
    width: int = 4

class Line(PretrainedModel):
    model_type, config_class = "guests-line", Config

    def __init__(self, config, spec=None):
        super().__init__(config, spec)
        self.line = torch.nn.Linear(spec.channels, config.width)
"""
POINTS = "[fae.models]\nguests-line = guests:Line\n\n[fae.presets]\nguests = guests\n"


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The preset folder of an installed package whose model needs a latent space."""
    package, info = tmp_path / "site" / "guests", tmp_path / "site" / "guests-1.0.dist-info"
    (package / "presets").mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for cache in (load_plugins, preset_files):
        cache.cache_clear()
    yield package / "presets"
    sys.modules.pop("guests", None)
    for cache in (load_plugins, preset_files):
        cache.cache_clear()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model_type: guests-line", "it has no section `spec`"),
        ("model_type: guests-line\nspec: {channels: 3}", "height: Field required"),
        ("model_type: guests-line\nmodel: {wdith: 3}", "did you mean width?"),
        ("model_type: guests-lien", "unknown model type 'guests-lien'; did you mean guests-line"),
        ("model_type: [guests-line]", "must name its model_type"),
        ("model: {width: 3}", "must name its model_type"),
        ("model_type: guests-line\nmodel: 3", "must be a mapping"),
        ("model_type: guests-line\nspec: 3", "spec must be a mapping"),
        ("model_type: guests-line\nmodel_type: guests-line", "is there twice"),
    ],
)
def test_a_preset_that_cannot_be_built_is_one_line(guests: Path, text: str, complaint: str, capsys) -> None:
    (guests / "guest.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["info", "guest"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert complaint in err


def test_a_preset_with_its_latent_space_is_described(guests: Path, capsys) -> None:
    spec = "{channels: 3, height: 2, width: 2, image_size: 16, backbone: guest}"
    (guests / "guest.yaml").write_text(f"model_type: guests-line\nspec: {spec}\n")
    with pytest.raises(SystemExit) as stopped:
        main(["info", "guest"])
    assert stopped.value.code == 0 and "16" in capsys.readouterr().out.split("parameters")[1]
