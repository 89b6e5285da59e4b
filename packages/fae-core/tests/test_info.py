"""`fae info` on presets of third-party packages and on folders: the facts, or one line of error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fae_core.cli.main import main
from fae_core.commands.groups import invoke
from fae_core.errors import DataError, FAEError
from fae_core.latent_store import LatentStore
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


TRAINING = {"steps": 8, "batch_size": 4, "checkpoint_every": 2}
JOB = {"generator": "dit", "decoder": "vae", "seed": 3, "count": 9}
# Files of a folder, and what is said of it.
FOLDERS = {
    "text cache": (
        {"index.json": {"fingerprint": "f", "width": 384, "prompts": 1400, "tokens": 23, "encoder": "t5"}},
        ["encoder t5", "prompts 1,400", "tokens 23", "width 384"],
    ),
    "samples": (
        {"samples.json": {"job": JOB, "provenance": {}}},
        ["count 9", "generator dit", "decoder vae", "seed 3"],
    ),
    "run": (
        {"config.yaml": {"command": "fae train flow", "training": TRAINING}, "checkpoints/step-00000004/x": {}},
        ["step 4 of 8", "to go on fae train flow --out {folder} --resume"],
    ),
    "checkpoint": (
        {"state.json": {"step": 4, "tensors": {}, "files": {}, "command": "fae train flow"}},
        ["step 4", "made by fae train flow"],
    ),
    "recipe": (
        {"steps.json": {"title": "Two seeds", "steps": [{"name": "a"}, {"name": "b"}]}},
        ["title Two seeds", "steps done a, b"],
    ),
    "latent store": ({".progress/plan.json": {}}, ["to go on the command that began it, with --resume"]),
    "output": ({".fae": {"kind": "output", "names": []}, "pairs.png": ""}, ["holds pairs.png"]),
}


def make(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_without_a_model_is_said_to_be_what_it_is(kind: str, tmp_path: Path, capsys) -> None:
    files, said = FOLDERS[kind]
    make(tmp_path / "it", files)
    invoke(["info", str(tmp_path / "it")])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"{kind} {tmp_path / 'it'}", *(line.format(folder=tmp_path / "it") for line in said)]


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"index.json": {}}, r"is not a latent store \(index.json is of another format\)"),
        ({"index.json": {"format": "fae-latent-store"}}, "plan: Field required"),
        ({"samples.json": {"job": 3}, ".fae": {"kind": "samples", "names": []}}, "samples, but its record is damaged"),
        ({"steps.json": {"title": "t", "steps": 3}}, "recipe, but its record is damaged"),
        ({".fae": {"kind": "anything", "names": []}}, "holds no model"),
        ({"a.png": ""}, "holds no model"),
    ],
)
def test_what_is_damaged_or_not_ours_is_one_line(files: dict[str, object], complaint: str, tmp_path: Path) -> None:
    make(tmp_path / "it", files)
    with pytest.raises(FAEError, match=complaint) as told:
        invoke(["info", str(tmp_path / "it")])
    assert "\n" not in str(told.value)


def test_what_is_no_latent_store_is_named_where_one_is_wanted(tmp_path: Path) -> None:
    for kind in ("text cache", "samples"):
        make(tmp_path / kind, FOLDERS[kind][0])
        with pytest.raises(DataError, match=f"{kind} is not a latent store .*its kind is: {kind}"):
            LatentStore(tmp_path / kind)
