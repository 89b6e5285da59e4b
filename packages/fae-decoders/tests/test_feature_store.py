"""Features read from a store do what the backbone does: the same training and latents, and mix-ups are noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_fae import PAINT, TRAINING, Gradients, make_encoder

from fae_core.errors import DataError, FAEError
from fae_core.images import load_batch
from fae_core.training import train
from fae_decoders import FAE, FeatureDecoder, PixelDecoder
from fae_decoders.fae.assemble import assemble, assemble_direct
from fae_decoders.stages import AutoencoderConfig, AutoencoderTask, DataConfig, PixelNoiseConfig, PixelNoiseTask
from fae_encoder import FAEEncoder
from fae_encoder.store.encode_dataset import EncodeConfig, encode_dataset
from fae_encoder.store.feature_store import FeatureStore

COUNT = 10
DIRECT = {"adapter": {"type": "identity"}, "channels": 64}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "store"
    config = EncodeConfig(dtype="float32", posterior="mean", shard_size=4)
    encode_dataset(make_encoder(**DIRECT).eval(), Gradients(COUNT), folder, config)
    return folder


def autoencoder_task(store: Path | None, **data: object) -> AutoencoderTask:
    encoder = make_encoder(standardize_features=True)
    torch.manual_seed(1)
    decoder = FeatureDecoder.from_preset("feature-decoder-tiny", spec=encoder.spec, feature_dim=encoder.backbone.dim)
    source = Gradients(COUNT)
    known = None if store is None else FeatureStore(store, encoder, source)
    return AutoencoderTask(encoder, decoder, source, AutoencoderConfig(data=DataConfig(**data)), known)


def noise_task(store: Path | None, **data: object) -> PixelNoiseTask:
    encoder = make_encoder(standardize_features=True)
    torch.manual_seed(2)
    decoder = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=encoder.backbone.dim)
    source = Gradients(COUNT)
    known = None if store is None else FeatureStore(store, encoder, source)
    config = PixelNoiseConfig(losses=PAINT, data=DataConfig(**data))
    return PixelNoiseTask(encoder, decoder, source, config, known)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}/{name}": value
        for path in sorted((run / "model").rglob("model.safetensors"))
        for name, value in load_file(path).items()
    }


@pytest.mark.parametrize("make", [autoencoder_task, noise_task])
@pytest.mark.parametrize("cache_gb", [1.0, 0.0], ids=["in memory", "from the store"])
def test_training_from_a_store_is_training_from_images(make, cache_gb: float, features: Path, tmp_path: Path) -> None:
    """Up to the rounding of matrix products in batches of another size."""
    train(make(None), TRAINING, tmp_path / "images", device="cpu")
    train(make(features, cache_gb=cache_gb), TRAINING, tmp_path / "store", device="cpu")
    wanted, found = weights_of(tmp_path / "images"), weights_of(tmp_path / "store")
    assert wanted.keys() == found.keys()
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


def test_encoding_from_a_store_gives_the_same_latents(features: Path, tmp_path: Path) -> None:
    train(autoencoder_task(features), TRAINING, tmp_path / "run", device="cpu")
    encoder, source = FAEEncoder.from_pretrained(tmp_path / "run"), Gradients(COUNT)
    config = EncodeConfig(dtype="float32", shard_size=4)
    known = FeatureStore(features, encoder, source)
    direct = encode_dataset(encoder, source, tmp_path / "direct", config)
    read = encode_dataset(encoder, source, tmp_path / "read", config, features=known)
    assert read.spec == direct.spec
    torch.testing.assert_close(read.read(range(COUNT))[0], direct.read(range(COUNT))[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="mirror images"):
        encode_dataset(encoder, source, tmp_path / "flips", EncodeConfig(flips=True), features=known)
    with pytest.raises(DataError, match="begun with source"):  # not the same bytes as from images
        encode_dataset(encoder, source, tmp_path / "direct", config, features=known, resume=True)


def test_a_store_that_does_not_fit_is_refused(features: Path, tmp_path: Path) -> None:
    encoder = make_encoder()
    with pytest.raises(FAEError, match="other images than the 9"):
        FeatureStore(features, encoder, Gradients(9))
    with pytest.raises(FAEError, match="holds 64x4x4, the backbone's features are 64x8x8"):
        FeatureStore(features, make_encoder(image_size=128, backbone={"image_size": 128}), Gradients(COUNT))
    torch.manual_seed(9)
    with pytest.raises(FAEError, match="another backbone"):
        FeatureStore(features, FAEEncoder.from_preset("fae-tiny"), Gradients(COUNT))
    latents = tmp_path / "latents"
    encode_dataset(make_encoder(channels=64).eval(), Gradients(COUNT), latents)
    with pytest.raises(FAEError, match="not the identity"):
        FeatureStore(latents, encoder, Gradients(COUNT))
    with pytest.raises(FAEError, match=r"leave data\.flip off"):
        autoencoder_task(features, flip=True)


def test_parts_are_put_together(features: Path, tmp_path: Path) -> None:
    train(autoencoder_task(features), TRAINING, tmp_path / "ae", device="cpu")
    train(noise_task(features), TRAINING, tmp_path / "pixel", device="cpu")
    images = load_batch(Gradients(COUNT), range(4), 64)

    fae = assemble(tmp_path / "ae", tmp_path / "pixel")
    fae.save_pretrained(tmp_path / "fae")
    again = FAE.from_pretrained(tmp_path / "fae")
    torch.testing.assert_close(again.reconstruct(images), fae.eval().reconstruct(images))


def test_direct_prediction_paints_the_features_themselves(features: Path, tmp_path: Path) -> None:
    train(noise_task(features), TRAINING, tmp_path / "pixel", device="cpu")
    assemble_direct(make_encoder(**DIRECT), tmp_path / "pixel").save_pretrained(tmp_path / "direct")
    fae = FAE.from_pretrained(tmp_path / "direct")
    assert fae.feature_decoder is None and not (tmp_path / "direct" / "feature_decoder").exists()
    images = load_batch(Gradients(COUNT), range(4), 64)
    z = fae.encode(images)
    assert z.shape == (4, 64, 4, 4)
    torch.testing.assert_close(fae.features(z), fae.encoder.features(images), atol=1e-5, rtol=1e-5)
    painted = fae.pixel_decoder(fae.encoder.features(images)).clamp(0, 1)
    torch.testing.assert_close(fae.reconstruct(images), painted, atol=1e-5, rtol=1e-5)
    # Its latents are the standardised features, so they are normalised already.
    assert set(fae.spec.mean) == {0.0} and set(fae.spec.std) == {1.0}


def test_an_adapter_needs_its_feature_decoder(tmp_path: Path) -> None:
    decoder = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=64)
    with pytest.raises(FAEError, match="identity adapter"):
        FAE(make_encoder(), None, decoder)
    decoder.save_pretrained(tmp_path / "pixel")
    with pytest.raises(FAEError, match="has an adapter to train"):
        assemble_direct(make_encoder(), tmp_path / "pixel")
