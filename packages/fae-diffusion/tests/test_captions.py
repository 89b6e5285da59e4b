"""Training on captions: a run is bound to the content of its captions, and sampling uses the encoder of training."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from fae_core.commands.groups import invoke
from fae_core.errors import DataError, FAEError, InvalidFile
from fae_core.latent_store import write_store
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_diffusion import MMDiT
from fae_diffusion.text.training import captions_hash

pytest.importorskip("transformers", reason="the extra fae-diffusion[text] is not installed")

SPEC = LatentSpec(4, 2, 2, 32, "toy/backbone", fingerprint="toy")
CAPTIONS = ["a photo of the dog", "the dog", "a dog", "a photograph"] * 2


def store(folder: Path, captions: list[str]) -> Path:
    z = torch.randn(len(captions), *SPEC.shape, generator=torch.Generator().manual_seed(0))
    write_store(folder, SPEC, z, captions=captions)
    return folder


def train(latents: Path, encoder: Path, out: Path, *options: str, steps: int = 2) -> None:
    model = f"width=16 depth=1 heads=2 text_width=16 text_encoder.name={encoder} text_encoder.max_length=8".split()
    sets = [word for field in model for word in ("--set", f"model.{field}")]
    command = f"train diffusion --preset mmdit-tiny --latents {latents} --out {out} --device cpu --batch-size 4"
    invoke([*command.split(), *sets, "--set", "training.warmup_steps=0", "--steps", str(steps), *options])


def record(out: Path) -> dict:
    return yaml.safe_load((out / "config.yaml").read_text())


def test_captions_are_known_by_their_texts_in_order() -> None:
    lists = [["a", "b"], ["b", "a"], ["ab", ""], ["", "ab"], ["a", "b", ""], ["a\0b"], ["a", "\0b"], ["é", "b"], []]
    assert len({captions_hash(texts) for texts in lists}) == len(lists)
    assert captions_hash(["a", "b"]) == captions_hash(["a", "b"])
    with pytest.raises(DataError, match="caption 1"):
        captions_hash(["a", "\ud83d"])


def test_a_run_records_its_captions_and_its_encoder_and_goes_on_with_no_others(make_bert, tmp_path: Path) -> None:
    latents, encoder, out = store(tmp_path / "latents", CAPTIONS), make_bert("bert"), tmp_path / "run"
    train(latents, encoder, out)
    identity = record(out)["identity"]
    fingerprint = identity["text_encoder"]
    assert identity["captions"] == captions_hash(CAPTIONS)
    assert MMDiT.from_pretrained(out).config.text_encoder.fingerprint == fingerprint
    train(latents, encoder, out, "--resume")
    elsewhere = [Path(shutil.move(path, tmp_path / f"moved-{path.name}")) for path in (latents, encoder)]
    train(*elsewhere, out, "--resume")
    assert record(out)["identity"] == identity
    for path, moved in zip((latents, encoder), elsewhere, strict=True):
        shutil.move(moved, path)

    shutil.rmtree(latents)
    store(latents, [*CAPTIONS[1:], CAPTIONS[0]])  # the same texts, for other images
    with pytest.raises(InvalidFile, match="captions"):
        train(latents, encoder, out, "--resume")
    shutil.rmtree(latents)
    store(latents, CAPTIONS)
    make_bert("bert", lower=False)  # other embeddings under the same name
    with pytest.raises(InvalidFile, match=r"text.encoder"):
        train(latents, encoder, out, "--resume")
    assert record(out)["identity"] == identity


def test_samples_are_made_with_the_encoder_that_was_trained_on(make_bert, tmp_path: Path, caplog) -> None:
    latents, encoder, out = store(tmp_path / "latents", CAPTIONS), make_bert("bert"), tmp_path / "run"
    train(latents, encoder, out)
    options = {"random": SlotRandom(0, range(1)), "steps": 1}
    wanted = MMDiT.from_pretrained(out).sample(["a dog"], **options)
    for change in ({"lower": False}, {"turn": True}, {"layer_norm_eps": 0.5}):
        make_bert("bert", **change)
        with pytest.raises(InvalidFile, match="not the one that the model was trained on") as raised:
            MMDiT.from_pretrained(out).sample(["a dog"], **options)
        assert "\n" not in str(raised.value)
    make_bert("bert")
    assert torch.equal(MMDiT.from_pretrained(out).sample(["a dog"], **options), wanted)

    # A model of before there were fingerprints says that it cannot tell.
    model = MMDiT.from_pretrained(out)
    old = model.config.text_encoder.model_copy(update={"fingerprint": None})
    model.config = model.config.model_copy(update={"text_encoder": old})
    with caplog.at_level(logging.INFO, logger="fae"):
        assert torch.equal(model.sample(["a dog"], **options), wanted)
    assert "does not say on which text encoder" in caplog.text


def test_another_encoder_than_the_one_asked_for_is_not_trained_on(make_bert, tmp_path: Path) -> None:
    latents, encoder = store(tmp_path / "latents", CAPTIONS), make_bert("bert")
    with pytest.raises(InvalidFile, match="its fingerprint is"):
        train(latents, encoder, tmp_path / "run", "--set", f"model.text_encoder.fingerprint={'0' * 31}x")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [("pooled_width=4", "pooled_width"), ("text_width=24", "16 wide"), ("null_length=0", "null_length")],
)
def test_settings_that_captions_do_not_fit_are_refused_first(
    make_bert, tmp_path: Path, setting: str, said: str
) -> None:
    with pytest.raises(FAEError, match=said):
        train(store(tmp_path / "latents", CAPTIONS), make_bert("bert"), tmp_path / "run", "--set", f"model.{setting}")
    assert not (tmp_path / "run").exists()


def test_a_text_cache_never_takes_the_place_of_other_files(make_bert, tmp_path: Path) -> None:
    latents, encoder, photos = store(tmp_path / "latents", CAPTIONS), make_bert("bert"), tmp_path / "photos"
    photos.mkdir()
    (photos / "1.jpg").write_bytes(b"photograph")
    for folder in (photos, latents):
        with pytest.raises(FAEError, match=folder.name):
            train(latents, encoder, tmp_path / "run", "--text-cache", str(folder))
    assert (photos / "1.jpg").read_bytes() == b"photograph"
    train(latents, encoder, tmp_path / "run")


def test_a_damaged_text_cache_ends_a_training_in_one_line(make_bert, tmp_path: Path) -> None:
    latents, encoder = store(tmp_path / "latents", CAPTIONS), make_bert("bert")
    train(latents, encoder, tmp_path / "run")
    path = tmp_path / "latents.text" / "tokens.bin"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidFile, match=r"tokens\.bin is damaged"):
        train(latents, encoder, tmp_path / "again")


def test_a_fingerprint_survives_the_model_folder(make_bert, tmp_path: Path) -> None:
    latents, encoder = store(tmp_path / "latents", CAPTIONS), make_bert("bert")
    train(latents, encoder, tmp_path / "run")
    MMDiT.from_pretrained(tmp_path / "run").save_pretrained(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "config.json").read_text())["config"]["text_encoder"]
    assert stored["fingerprint"] == record(tmp_path / "run")["identity"]["text_encoder"]
