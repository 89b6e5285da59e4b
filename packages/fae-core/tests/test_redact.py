"""Secrets in addresses and tokens never reach what is written down."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest
import torch

from fae_core.cli.main import main
from fae_core.config import Config
from fae_core.errors import DataError, FAEError
from fae_core.files import read_json, read_yaml, write_json
from fae_core.images.tell import log_on_first_process
from fae_core.latent_store import Plan
from fae_core.models.pretrained import PretrainedModel
from fae_core.recipes.recipe import load_recipe, run_recipe
from fae_core.redact import redact, redact_values
from fae_core.sampling.prompts import read_prompts
from fae_core.spec import LatentSpec
from fae_core.training.journal import open_run

SIGNED = "https://me:pa55@host.org/a/train-{000..010}.tar?X-Amz-Signature=c0ffee&Expires=9"
TOKEN = "hf_" + "aB3" * 8


def test_addresses_lose_user_and_query_and_keep_the_rest() -> None:
    assert redact(f"cannot read {SIGNED}: 403") == "cannot read https://***@host.org/a/train-{000..010}.tar?***: 403"
    assert redact(f"(see {SIGNED}), or {SIGNED}.").count("?***), or ") == 1 and redact(f"{SIGNED}.").endswith("?***.")
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

    class config_class(Config):
        source: str

    def __init__(self, config: Config, spec: LatentSpec | None = None) -> None:
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


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://user:S3cr@t@host/path", "https://***@host/path"),
        ("user:S3cr@t@host/path", "***@host/path"),
        ("https://user:S3c/r?e#t@host/path", "https://***@host/path"),
        ("https://S3cret@host/x", "https://***@host/x"),
        ("https://user:1234@host/S", "https://***@host/S"),
        ("user:S3cret@10.0.0.1:8443/x", "***@10.0.0.1:8443/x"),
        ("'user:S3cret@host.org'", "'***@host.org'"),
        ("s3://KEYID:S3/cr+et@bucket/x", "s3://***@bucket/x"),
        ("postgres://u:S3cret@[::1]:5432/db", "postgres://***@[::1]:5432/db"),
        (
            "bucket.s3.amazonaws.com/x.tar?X-Amz-Signature=S3cret&Expires=9",
            "bucket.s3.amazonaws.com/x.tar?X-Amz-Signature=***&Expires=9",
        ),
        ("x.blob.core.windows.net/a?sv=2020&sig=S3cret%3D", "x.blob.core.windows.net/a?sv=2020&sig=***"),
        ("HF_TOKEN=S3cret AWS_SECRET_ACCESS_KEY=S3/cret", "HF_TOKEN=*** AWS_SECRET_ACCESS_KEY=***"),
        ("--set tracker.api_key=S3cret", "--set tracker.api_key=***"),
        ("AKIAIOSFODNN7S3CRET1 is the key", "AKIA*** is the key"),
        ("ghp_" + "S3cret" * 5, "ghp_***"),
        ("x_hf_S3cretS3cretS3cretS3cret", "x_hf_***"),
        ("eyJhbGciOiJS3cret.eyJzdWIiOiIxS3cret.dozjgNryP4J3S3cret", "eyJ***"),
        ("Authorization: Bearer S3cret.abc", "Authorization: ***"),
        ("{'authorization': 'Basic S3cret=='}", "{'authorization': '***'}"),
        ("curl -H 'X-Auth-Token: S3cret'", "curl -H 'X-Auth-Token: ***'"),
        ("Bearer S3cretS3cretS3cret0123", "Bearer ***"),
        ("password: S3cret", "password: ***"),
    ],
)
def test_secrets_in_every_guise_go_and_what_surrounds_them_stays(text: str, kept: str) -> None:
    assert redact(text) == kept
    assert redact(kept) == kept, "what is redacted once stays as it is"


@pytest.mark.parametrize(
    "text",
    [
        "--set training.steps=5 --model runs/tokenizer tokenizer=runs/x tokens=77 max_tokens=7 key=3 "
        "model.class_token=mean pad_token=x",
        "FD-efficientnet-lite2@64: 3.2, train:efficientnet-lite2@64, hf/owner/name@main",
        "git@github.com:org/x.git and C:/data/x and a ratio of 16:9",
        "https://host:8080/a@b/c and https://medium.com/@user/x and s3://bucket/x.tar",
        "pip install 'fae-eval[timm] @ git+https://host/fae@abc#subdirectory=packages/fae-eval'",
        "class token: 5 of them; sha256:0123456789abcdef0123456789abcdef",
        "fae eval generation --samples LightningDiT=samples --reference 'train.parquet[45000:]' --extractor x@128",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_values_under_the_name_of_a_secret_go() -> None:
    assert redact_values(
        {
            "api_key": "abc",
            "hub": {"token": "abc", "tokens": 5, "tokenizer": "x", "cls_token": "y", "pool_token": "cls"},
        }
    ) == {
        "api_key": "***",
        "hub": {"token": "***", "tokens": 5, "tokenizer": "x", "cls_token": "y", "pool_token": "cls"},
    }


@pytest.mark.parametrize("text", ["a", "a:", "a://", "a=b", "@", "a:b@", "hf_", "eyJ", "x-", "Bearer ", "://a:"])
def test_long_texts_are_read_in_their_length_not_its_square(text: str) -> None:
    started = time.process_time()
    redact(text * 50_000)
    assert time.process_time() - started < 5  # against minutes; not a measurement


def test_a_plan_and_a_spec_equal_themselves_when_they_are_read_back(tmp_path: Path) -> None:
    plan = Plan(total=1, shard_size=1, source=SIGNED)
    assert "pa55" not in plan.model_dump_json() and Plan.model_validate_json(plan.model_dump_json()) == plan
    spec = LatentSpec(1, 1, 1, 8, f"hf/{SIGNED}")
    spec.save(tmp_path)
    assert "pa55" not in (tmp_path / "latent_spec.json").read_text() and LatentSpec.load(tmp_path) == spec


def test_what_a_command_prints_has_none_not_even_a_traceback(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from fae_core.cli import main as command_line

    def fail(arguments: list[str]) -> None:
        print(f"looking at {SIGNED}")  # noqa: T201
        logging.getLogger("fae").warning("slow: %s", SIGNED)
        thread = threading.Thread(target=lambda: open_elsewhere(SIGNED))
        thread.start()
        thread.join()
        raise RuntimeError(f"no connection to {SIGNED} as {TOKEN}")

    def open_elsewhere(address: str) -> None:
        raise OSError(f"cannot open {address}")

    monkeypatch.setattr(command_line, "invoke", fail)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    with pytest.raises(SystemExit) as stopped:
        command_line.main([])
    out, err = capsys.readouterr()
    assert (
        stopped.value.code == 1 and "Traceback" in err and "RuntimeError: no connection to https://***@host.org" in err
    )
    assert "looking at https://***@host.org" in out and "cannot open https://***@host.org" in err
    for secret in ("pa55", "c0ffee", TOKEN):
        assert secret not in out + err


def test_what_is_raised_and_logged_in_python_has_none(caplog: pytest.LogCaptureFixture) -> None:
    log_on_first_process(f"{SIGNED}: no labels")
    assert str(DataError(f"cannot read {SIGNED}: gone")).endswith("010}.tar?***: gone")
    for text in (str(DataError(SIGNED)), repr(FAEError(SIGNED)), caplog.text):
        assert "host.org" in text and "pa55" not in text and "c0ffee" not in text


def test_records_have_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"source": SIGNED, "deep": [{"note": f"user:p@ss@host {TOKEN}", "password": "x"}]})
    assert read_json(tmp_path / "a.json") == {
        "source": "https://***@host.org/a/train-{000..010}.tar?***",
        "deep": [{"note": "***@host hf_***", "password": "***"}],
    }


def test_a_prompt_with_a_secret_is_refused_instead_of_changed(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"a cat\na dog at {SIGNED}\n")
    with pytest.raises(FAEError, match="prompt 2 of") as caught:
        read_prompts(tmp_path / "p.txt")
    assert "pa55" not in str(caught.value)
