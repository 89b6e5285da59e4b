"""Claims about identity: results belong to the content of images, not to their names or folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core.commands.groups import invoke
from fae_core.errors import DataError, FAEError
from fae_core.images import load_batch, open_images
from fae_encoder import FAEEncoder
from fae_encoder.store.encode_dataset import EncodeConfig, encode_dataset
from fae_encoder.store.feature_store import FeatureStore
from fae_encoder.store.source_identity import identity_by_name

SIZE = {"image_size": 32, "backbone": {"image_size": 32}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def encoder() -> FAEEncoder:
    torch.manual_seed(0)
    return FAEEncoder.from_preset("fae-lite0-32", weights=None, standardize_features=False, **SIZE).eval()


@pytest.fixture(scope="module")
def identity(encoder: FAEEncoder) -> FAEEncoder:
    """An encoder whose latents are the other one's features."""
    same = FAEEncoder.from_preset(
        "fae-lite0-32", weights=None, adapter={"type": "identity"}, channels=encoder.backbone.dim, **SIZE
    )
    same.backbone.load_state_dict(encoder.backbone.state_dict())
    return same.eval()


def pictures(folder: Path, seed: int = 0, count: int = 6) -> Path:
    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for place in range(count):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{place}.png")
    return folder


def test_features_of_replaced_pictures_are_refused(encoder, identity, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    config = EncodeConfig(posterior="mean", dtype="float32")
    encode_dataset(identity, open_images(images), tmp_path / "features", config)
    read = FeatureStore(tmp_path / "features", encoder, open_images(images)).read([2])
    own = encoder.backbone(load_batch(open_images(images), [2], encoder.read_size))
    torch.testing.assert_close(read, own, atol=1e-4, rtol=1e-4)
    pictures(images, seed=1)
    with pytest.raises(FAEError, match="made from other images"):
        FeatureStore(tmp_path / "features", encoder, open_images(images))


def test_latents_of_features_go_on_with_features_of_the_same_precision(encoder, identity, tmp_path: Path) -> None:
    images = open_images(pictures(tmp_path / "images"))
    for precision in ("fp32", "bf16"):
        config = EncodeConfig(posterior="mean", precision=precision)
        encode_dataset(identity, images, tmp_path / precision, config)
    exact, rounded = (FeatureStore(tmp_path / name, encoder, images) for name in ("fp32", "bf16"))
    encode_dataset(encoder, images, tmp_path / "latents", features=exact)
    encode_dataset(encoder, images, tmp_path / "latents", features=exact, resume=True)
    with pytest.raises(DataError, match="was begun with source"):
        encode_dataset(encoder, images, tmp_path / "latents", features=rounded, resume=True)


@pytest.mark.parametrize("change", ["one pixel", "order", "captions"])
def test_features_are_of_these_pictures_in_this_order_with_these_captions(
    encoder, identity, tmp_path: Path, change: str
) -> None:
    images = pictures(tmp_path / "images")
    encode_dataset(identity, open_images(images), tmp_path / "features", EncodeConfig(posterior="mean"))
    if change == "one pixel":
        pixels = np.array(Image.open(images / "5.png"))
        pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(images / "5.png")
    elif change == "order":
        (images / "0.png").rename(images / "x.png")
        (images / "1.png").rename(images / "0.png")
        (images / "x.png").rename(images / "1.png")
    else:
        for file in images.glob("*.png"):
            file.with_suffix(".txt").write_text("a caption")
    with pytest.raises(FAEError, match="other labels or captions"):
        FeatureStore(tmp_path / "features", encoder, open_images(images))


def test_the_same_pictures_by_another_path_go_on(encoder, identity, tmp_path: Path, monkeypatch) -> None:
    images = pictures(tmp_path / "images")
    encode_dataset(identity, open_images(images), tmp_path / "features", EncodeConfig(posterior="mean"))
    shutil.copytree(images, tmp_path / "elsewhere" / "images")
    monkeypatch.chdir(tmp_path)
    for path in ("images", "elsewhere/images"):
        assert len(FeatureStore("features", encoder, open_images(path))) == 6
        again = encode_dataset(identity, open_images(path), "features", EncodeConfig(posterior="mean"), resume=True)
        assert len(again) == 6


@pytest.mark.parametrize("finished", [False, True])
def test_resume_with_other_pictures_under_the_same_names_is_refused(encoder, tmp_path: Path, finished: bool) -> None:
    images, out = pictures(tmp_path / "images"), tmp_path / "latents"
    interrupted(encoder, images, out, finished=finished)
    pictures(images, seed=1)
    with pytest.raises(DataError, match="other images"):
        encode_dataset(encoder, open_images(images), out, EncodeConfig(shard_size=2), resume=True)
    pictures(images, seed=0)
    assert len(encode_dataset(encoder, open_images(images), out, EncodeConfig(shard_size=2), resume=True)) == 6


def interrupted(encoder: FAEEncoder, images: Path, out: Path, *, finished: bool = False) -> None:
    """A store of the images, unfinished unless `finished`: begun, and then nothing."""
    from fae_core.latent_store import LatentStoreWriter
    from fae_encoder.store.encode_dataset import make_plan

    config = EncodeConfig(shard_size=2)
    if finished:
        encode_dataset(encoder, open_images(images), out, config)
    else:
        encoder.stamp()
        LatentStoreWriter(out, encoder.spec, make_plan(encoder, open_images(images), config))


def with_source(file: Path, change) -> None:
    """Rewrite the source in a plan."""
    stored = json.loads(file.read_text())
    plan = stored.get("plan", stored)
    plan["source"] = change(plan["source"])
    stored.pop("checksum", None)
    file.write_text(json.dumps(stored))


def test_stores_of_earlier_versions_open_and_unfinished_ones_say_what_to_do(encoder, identity, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    source = open_images(images)
    by_name = identity_by_name(source, identity.read_size, "fp32")
    config = EncodeConfig(shard_size=2, posterior="mean")
    encode_dataset(identity, source, tmp_path / "features", config)
    with_source(tmp_path / "features" / "index.json", lambda _: by_name)
    assert len(FeatureStore(tmp_path / "features", encoder, source)) == 6
    assert len(encode_dataset(identity, source, tmp_path / "features", config, resume=True)) == 6
    with pytest.raises(FAEError, match="made from other images"):
        FeatureStore(tmp_path / "features", encoder, open_images(pictures(tmp_path / "more", count=7)))
    interrupted(encoder, images, tmp_path / "begun")
    with_source(tmp_path / "begun" / ".progress" / "plan.json", lambda _: by_name)
    with pytest.raises(DataError, match=r"earlier version.*--overwrite"):
        encode_dataset(encoder, source, tmp_path / "begun", EncodeConfig(shard_size=2), resume=True)


def test_the_command_refuses_other_pictures_and_goes_on_by_another_path(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    command = ["encode", "--model", "fae-tiny", "--out", str(tmp_path / "latents"), "--resume", "--data"]
    invoke([*command, str(images)])
    moved = shutil.move(images, tmp_path / "moved")
    invoke([*command, str(moved)])
    pictures(Path(moved), seed=2)
    with pytest.raises(DataError, match="other images"):
        invoke([*command, str(moved)])
