"""Secrets in addresses and tokens never reach what is written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fae_core.cli.main import main
from fae_core.errors import FAEError
from fae_core.files import read_yaml
from fae_core.hub import ModelConfig, PretrainedModel
from fae_core.recipe import load_recipe, run_recipe
from fae_core.redact import redact, redact_values
from fae_core.spec import LatentSpec
from fae_core.training.journal import open_run

SIGNED = "https://me:pa55@host.org/a/train-{000..010}.tar?X-Amz-Signature=c0ffee&Expires=9"
TOKEN = "hf_" + "aB3" * 8


def test_addresses_lose_user_and_query_and_keep_the_rest() -> None:
    assert redact(f"cannot read {SIGNED}: 403") == "cannot read https://***@host.org/a/train-{000..010}.tar?*** 403"
    assert redact("s3://bucket/x.tar") == "s3://bucket/x.tar"
    assert redact(f"Authorization {TOKEN} refused") == "Authorization hf_*** refused"
    assert redact("a@b.c, why? no_hf_here, C:/x") == "a@b.c, why? no_hf_here, C:/x"


def test_values_keep_their_structure() -> None:
    assert redact_values({"data": SIGNED, "steps": 3, "deep": [TOKEN, None]}) == {
        "data": "https://***@host.org/a/train-{000..010}.tar?***",
        "steps": 3,
        "deep": ["hf_***", None],
    }


def test_neither_config_nor_error_line_nor_recipe_record_has_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))
    open_run(tmp_path / "run", {"data": SIGNED}, resume=False, overwrite=False)
    assert "pa55" not in (tmp_path / "run" / "config.yaml").read_text()
    open_run(tmp_path / "run", {"data": SIGNED}, resume=True, overwrite=False)
    assert read_yaml(tmp_path / "run" / "config.yaml")["data"].startswith("https://***@host.org")

    with pytest.raises(SystemExit) as stopped:
        main(["crops", "ftp://me:pa55@127.0.0.1:1/x.tar?sig=c0ffee", "--out", str(tmp_path / "crops")])
    out, err = capfd.readouterr()
    assert (
        stopped.value.code == 2 and err.startswith("error: ") and "pa55" not in out + err and "c0ffee" not in out + err
    )

    recipe = tmp_path / "r.yaml"
    recipe.write_text("title: t\nvariables: {data: x}\nsteps:\n  - {name: a, run: 'presets --kind {data}'}\n")
    with pytest.raises(FAEError):
        run_recipe(load_recipe(recipe, {"data": SIGNED}), tmp_path / "recipe")
    assert "pa55" not in json.dumps((tmp_path / "recipe" / "steps.json").read_text())


class Noted(PretrainedModel):
    """A model whose configuration can hold an address."""

    model_type = "noted"

    class config_class(ModelConfig):
        source: str

    def __init__(self, config: ModelConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        self.weight = torch.nn.Parameter(torch.zeros(1))


def test_model_folders_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model = Noted(Noted.config_class(source=SIGNED))
    model.save_pretrained(tmp_path / "model", card=f"Trained on {SIGNED}, uploaded with {TOKEN}.")
    written = b"".join(path.read_bytes() for path in (tmp_path / "model").iterdir())
    assert b"host.org/a/train" in written
    for secret in (b"pa55", b"c0ffee", TOKEN.encode()):
        assert secret not in written
