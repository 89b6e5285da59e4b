"""Claims about encoders whose adapter is not trained: they say so once, are repeatable by a seed, and are kept."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import LatentSpec, LatentStore, load_tokenizer
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError
from fae_core.images import load_batch, open_images
from fae_encoder import FAEEncoder

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def quiet(encoder: FAEEncoder) -> torch.Tensor:
    """Latents; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return encoder.encode(IMAGES)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for index in range(5):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "pictures" / f"{index}.png")
    return tmp_path / "pictures"


def test_an_untrained_adapter_says_so_once() -> None:
    encoder = FAEEncoder.from_preset("fae-tiny", seed=0)
    assert not encoder.is_trained
    with pytest.warns(UserWarning, match=r"not trained.*random projections.*is_normalized is False") as caught:
        encoder.encode(IMAGES)
    assert len(caught) == 1 and caught[0].filename == __file__ and "\n" not in str(caught[0].message)
    quiet(encoder)
    with pytest.warns(UserWarning, match="not trained"):  # another one says it for itself
        FAEEncoder.from_preset("fae-tiny", seed=0).encode(IMAGES)
    with pytest.warns(UserWarning, match="not trained") as caught:
        FAEEncoder.from_preset("fae-tiny").with_statistics([0.0] * 8, [2.0] * 8).encode(IMAGES)
    assert "is_normalized" not in str(caught[0].message)


def test_a_trained_or_a_missing_adapter_says_nothing(tmp_path: Path) -> None:
    encoder = FAEEncoder.from_preset("fae-tiny", seed=0)
    optimizer = torch.optim.SGD(encoder.adapter.parameters(), 1e-3)
    encoder.posterior(IMAGES).kl().mean().backward()
    optimizer.step()
    assert encoder.is_trained
    trained = quiet(encoder)
    encoder.save_pretrained(tmp_path / "trained")
    assert torch.equal(quiet(FAEEncoder.from_pretrained(tmp_path / "trained")), trained)
    identity = FAEEncoder.from_preset("fae-tiny", adapter={"type": "identity"}, channels=64)
    assert identity.is_trained
    quiet(identity)


@pytest.mark.parametrize("cast", [torch.float32, torch.bfloat16])
def test_being_untrained_survives_saving_and_casting(cast: torch.dtype, tmp_path: Path) -> None:
    encoder = FAEEncoder.from_preset("fae-tiny", seed=0)
    encoder.save_pretrained(tmp_path / "e")
    loaded = FAEEncoder.from_pretrained(tmp_path / "e", dtype=cast)
    assert not loaded.is_trained and not encoder.to(cast).is_trained
    with pytest.warns(UserWarning, match="not trained"):
        loaded.encode(IMAGES)
    with torch.no_grad():
        loaded.adapter.out.weight.add_(1)
    assert loaded.is_trained


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casting_does_not_train(dtype: torch.dtype) -> None:
    encoder = FAEEncoder.from_preset("fae-tiny", seed=0)
    assert not encoder.to(dtype).is_trained and not encoder.float().is_trained
    with torch.no_grad():
        encoder.adapter.out.bias[0] += 1
    assert encoder.is_trained and encoder.to(dtype).is_trained


def test_a_seed_fixes_every_weight_and_leaves_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (FAEEncoder.from_preset("fae-tiny", weights="random", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()
    torch.manual_seed(3)
    assert FAEEncoder.from_preset("fae-tiny", weights=None).fingerprint() == one.fingerprint()


@pytest.mark.parametrize("seed", [0, 7])
def test_the_command_and_python_agree_and_the_encoder_is_kept(seed: int, pictures: Path, tmp_path: Path) -> None:
    command = ["encode", "--data", str(pictures), "--model", "fae-tiny", "--dtype", "float32", "--seed", str(seed)]
    invoke([*command, "--out", str(tmp_path / "latents")])
    store = LatentStore(tmp_path / "latents")
    encoder = FAEEncoder.from_preset("fae-tiny", seed=seed).eval()
    images = load_batch(open_images(pictures), range(5), encoder.read_size)
    raw, _ = store.read_posterior(range(5))
    torch.testing.assert_close(encoder.posterior(images).mean, raw, atol=1e-6, rtol=1e-5)
    kept = load_tokenizer(tmp_path / "latents.encoder")
    assert isinstance(kept, FAEEncoder) and not kept.is_trained
    assert kept.spec == store.spec and kept.spec.is_normalized
    torch.testing.assert_close(kept.encode(images), store.read(range(5))[0], atol=1e-5, rtol=1e-5)
    # What was encoded can be repeated: the kept encoder writes the same store.
    again = ["encode", "--data", str(pictures), "--model", str(tmp_path / "latents.encoder"), "--dtype", "float32"]
    invoke([*again, "--out", str(tmp_path / "again")])
    assert LatentStore(tmp_path / "again").identity == store.identity
    assert not (tmp_path / "again.encoder").exists()
    # The store is still one that --resume accepts and --overwrite replaces.
    invoke([*command, "--out", str(tmp_path / "latents"), "--resume"])
    invoke([*command, "--out", str(tmp_path / "latents"), "--overwrite"])
    assert (tmp_path / "latents.encoder" / "config.json").is_file()


def test_the_spec_says_whether_latents_are_normalised() -> None:
    spec = FAEEncoder.from_preset("fae-tiny").spec
    assert not spec.is_normalized and "not normalised" in repr(spec)
    assert "not normalised" not in repr(spec.with_statistics([0.0] * 8, [2.0] * 8))
    assert LatentSpec.from_dict(spec.to_dict()) == spec


def test_a_folder_where_the_encoder_would_go_is_refused_before_anything_is_encoded(
    pictures: Path, tmp_path: Path
) -> None:
    command = ["encode", "--data", str(pictures), "--model", "fae-tiny", "--out", str(tmp_path / "latents")]
    (tmp_path / "latents.encoder").mkdir()
    (tmp_path / "latents.encoder" / "mine.txt").write_text("mine")
    for options in ([], ["--overwrite"]):
        with pytest.raises(FAEError, match=r"latents\.encoder"):
            invoke([*command, *options])
    assert not (tmp_path / "latents").exists() and (tmp_path / "latents.encoder" / "mine.txt").is_file()
