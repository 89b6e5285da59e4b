"""FAE: the door to all parts, the folder, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_fae import Gradients, make_encoder

from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch
from fae_core.images import load_batch
from fae_core.models.load import load_decoder, load_tokenizer
from fae_core.protocols import Tokenizer
from fae_decoders import FAE, FAEDecoder, FeatureDecoder, FeatureSpace, FeatureSpaceMismatch, PixelDecoder
from fae_encoder import FAEEncoder


@pytest.fixture
def fae(finetune_run: Path) -> FAE:
    return FAE.from_pretrained(finetune_run)


@pytest.fixture
def images() -> torch.Tensor:
    return load_batch(Gradients(5), range(5), 64)


def test_the_door(fae: FAE, images: torch.Tensor) -> None:
    z = fae.encode(images)
    assert isinstance(fae, Tokenizer)
    assert z.shape == (5, *fae.spec.shape)
    assert fae.features(z).shape == fae.encoder.features(images).shape
    painted = fae.decode(4 * z)
    assert painted.shape == images.shape
    assert painted.min() >= 0
    assert painted.max() <= 1
    assert torch.equal(fae.reconstruct(images), fae.decode(z))
    torch.testing.assert_close(fae.spec.denormalize(z), fae.posterior(images).mean, atol=1e-5, rtol=1e-5)


def test_results_do_not_depend_on_the_batch(fae: FAE, images: torch.Tensor) -> None:
    rows = torch.cat([fae.reconstruct(image[None]) for image in images])
    torch.testing.assert_close(fae.reconstruct(images), rows, atol=1e-5, rtol=1e-5)
    assert fae.decode(fae.encode(images)[:0]).shape == (0, *images.shape[1:])


def test_a_loaded_fae_is_frozen_but_lets_gradients_through(fae: FAE, images: torch.Tensor) -> None:
    assert not fae.reconstruct(images).requires_grad
    images = images.clone().requires_grad_()
    assert not fae.encode(images).requires_grad and not fae.reconstruct(images).requires_grad
    latents = fae.spec.normalize(fae.posterior(images).mode())
    assert torch.equal(latents, fae.encode(images))
    latents.sum().backward()
    assert images.grad.abs().sum() > 0
    z = fae.encode(images).clone().requires_grad_()
    fae.decode(z).sum().backward()
    assert z.grad.abs().sum() > 0


def test_save_and_load_agree_through_the_registry(fae: FAE, images: torch.Tensor, tmp_path: Path) -> None:
    fae.save_pretrained(tmp_path / "fae")
    loaded = load_tokenizer(tmp_path / "fae")
    assert torch.equal(loaded.reconstruct(images), fae.reconstruct(images))
    assert loaded.spec == fae.spec
    names = {path.name for path in (tmp_path / "fae").iterdir()}
    assert names == {"config.json", "latent_spec.json", "README.md", "encoder", "feature_decoder", "pixel_decoder"}
    assert FAEEncoder.from_pretrained(tmp_path / "fae").spec == fae.spec
    assert FeatureDecoder.from_pretrained(tmp_path / "fae" / "feature_decoder").spec == fae.spec


def test_without_a_pixel_decoder_everything_but_painting_works(autoencoder_run: Path, images: torch.Tensor) -> None:
    fae = FAE.from_pretrained(autoencoder_run)
    assert fae.features(fae.encode(images)).shape == (5, 16, 64)
    with pytest.raises(FAEError, match="has no pixel decoder"):
        fae.reconstruct(images)


def test_the_decoders_alone_paint_the_same_and_need_no_encoder(fae: FAE, finetune_run: Path, tmp_path: Path) -> None:
    z = torch.randn(2, *fae.spec.shape, generator=torch.Generator().manual_seed(0))
    shutil.copytree(finetune_run / "model", tmp_path / "fae")
    shutil.rmtree(tmp_path / "fae" / "encoder")
    decoder = load_decoder(tmp_path / "fae")
    assert isinstance(decoder, FAEDecoder) and decoder.spec == fae.spec
    assert torch.equal(decoder.decode(z), fae.decode(z)) and torch.equal(decoder.features(z), fae.features(z))
    with pytest.raises(LatentSpecMismatch, match="mean"):
        load_decoder(finetune_run, spec=fae.spec.with_statistics([1.0] * 8, [1.0] * 8))


def test_decoders_alone_are_checked_against_each_other(fae: FAE, autoencoder_run: Path) -> None:
    with pytest.raises(FAEError, match="has no pixel decoder and cannot paint"):
        load_decoder(autoencoder_run)
    config = fae.pixel_decoder.config
    foreign = config.features.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(FeatureSpaceMismatch, match=r"pixel decoder and feature decoder.*backbone weights"):
        FAEDecoder(fae.spec, fae.feature_decoder, PixelDecoder(config.model_copy(update={"features": foreign})))
    wide = PixelDecoder(config.model_copy(update={"features": None, "feature_dim": 32}))
    with pytest.raises(FAEError, match="makes 64 channels, the pixel decoder takes 32"):
        FAEDecoder(fae.spec, fae.feature_decoder, wide)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_keeps_the_parts_of_an_fae_together(fae: FAE, images: torch.Tensor, tmp_path: Path, dtype) -> None:
    before, old = fae.reconstruct(images), fae.spec
    fae.round_parameters(dtype)
    assert old.fingerprint != fae.spec.fingerprint == fae.feature_decoder.spec.fingerprint
    fae.save_pretrained(tmp_path / "fae")
    loaded = FAE.from_pretrained(tmp_path / "fae")
    assert torch.equal(loaded.reconstruct(images), fae.reconstruct(images))
    assert 0 < (fae.reconstruct(images) - before).abs().max() < 0.05
    for name, parameter in loaded.named_parameters():
        if not name.startswith("encoder.backbone."):
            assert torch.equal(parameter.to(dtype).float(), parameter), name


def test_the_wanted_spec_is_checked(fae: FAE, finetune_run: Path) -> None:
    FAE.from_pretrained(finetune_run, spec=fae.spec)
    with pytest.raises(LatentSpecMismatch, match="mean"):
        FAE.from_pretrained(finetune_run, spec=fae.spec.with_statistics([1.0] * 8, [1.0] * 8))


def test_parts_of_two_faes_are_told_apart(fae: FAE) -> None:
    space = fae.pixel_decoder.config.features
    for name, value in {
        "backbone": "timm/other",
        "fingerprint": "0" * 64,
        "layers": (1,),
        "combine": "mean",
        "std": None,
    }.items():
        other = PixelDecoder(
            fae.pixel_decoder.config.model_copy(update={"features": space.model_copy(update={name: value})})
        )
        shown = {"fingerprint": "backbone weights", "std": "feature normalisation"}.get(name, name)
        with pytest.raises(FeatureSpaceMismatch, match=f"pixel decoder.*{shown}"):
            FAE(fae.encoder, fae.feature_decoder, other)
    with pytest.raises(LatentSpecMismatch, match="fingerprint"):
        FAE(make_encoder(), fae.feature_decoder)
    smaller = PixelDecoder(fae.pixel_decoder.config.model_copy(update={"image_size": 32}))
    with pytest.raises(FAEError, match=r"images of \(64, 64\) pixels, the pixel decoder paints \(32, 32\)"):
        FAE(fae.encoder, fae.feature_decoder, smaller)


@pytest.mark.parametrize("grid", [(2, 8), (8, 8)])
def test_a_pixel_decoder_for_another_grid_is_refused(fae: FAE, grid: tuple[int, int]) -> None:
    """A grid of as many places would be painted in the wrong order."""
    other = PixelDecoder(fae.pixel_decoder.config.model_copy(update={"features": None, "grid": grid}))
    for make in (
        lambda: FAE(fae.encoder, fae.feature_decoder, other),
        lambda: FAEDecoder(fae.spec, fae.feature_decoder, other),
    ):
        with pytest.raises(FAEError, match=r"on a grid of \(4, 4\), the pixel decoder takes"):
            make()


def test_a_cast_fae_is_saved_only_where_its_decoders_fit_its_rounded_backbone(fae: FAE, tmp_path: Path) -> None:
    with pytest.raises(FeatureSpaceMismatch, match=r"backbone weights: .*load it in float32"):
        fae.bfloat16().save_pretrained(tmp_path / "fae")
    assert not (tmp_path / "fae").exists()
    fresh = make_fae().bfloat16()
    fresh.save_pretrained(tmp_path / "fresh")
    assert FAE.from_pretrained(tmp_path / "fresh").spec == fresh.spec


def test_features_of_images_that_are_prepared_differently_are_told_apart(fae: FAE) -> None:
    own = FeatureSpace.of(fae.encoder)
    assert own == fae.pixel_decoder.config.features
    for choice in ({"mean": (0.0, 0.0, 0.0), "std": (0.1, 0.1, 0.1)}, {"interpolation": "bilinear"}):
        backbone = fae.encoder.config.backbone.model_copy(update={**choice, "weights": None})
        other = FAEEncoder(fae.encoder.config.model_copy(update={"backbone": backbone}))
        other.load_state_dict(fae.encoder.state_dict())
        with pytest.raises(FeatureSpaceMismatch, match=r"no weight shows: wanted none, found bi\w+ \("):
            own.require(FeatureSpace.of(other))
        earlier = own.model_copy(update={"choices": None})  # as folders of earlier versions say it
        earlier.require(FeatureSpace.of(other))
        FeatureSpace.of(other).require(earlier)


def test_damaged_and_foreign_folders_are_named(finetune_run: Path, noise_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="holds a 'pixel-decoder' model, not an 'fae'"):
        FAE.from_pretrained(noise_run)
    broken = tmp_path / "broken"
    shutil.copytree(finetune_run / "model", broken)
    shutil.rmtree(broken / "pixel_decoder")
    with pytest.raises(InvalidFile):
        FAE.from_pretrained(broken)
    (broken / "config.json").write_text(json.dumps({"model_type": "fae", "config": {"parts": ["encoder"]}}))
    with pytest.raises(InvalidFile, match="which parts"):
        FAE.from_pretrained(broken)


def make_fae() -> FAE:
    """Of fresh parts, whose spec has neither statistics nor a fingerprint."""
    encoder = make_encoder()
    torch.manual_seed(1)
    decoder = FeatureDecoder.from_preset("feature-decoder-tiny", spec=encoder.spec, feature_dim=encoder.backbone.dim)
    pixels = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=encoder.backbone.dim)
    return FAE(encoder, decoder, pixels).eval()


def test_an_fae_of_fresh_parts_is_saved_and_loaded(images: torch.Tensor, tmp_path: Path) -> None:
    fae = make_fae()
    fae.save_pretrained(tmp_path / "fae")
    assert fae.spec.fingerprint and fae.feature_decoder.spec == fae.spec
    loaded = FAE.from_pretrained(tmp_path / "fae")
    assert loaded.spec == fae.spec and torch.equal(loaded.reconstruct(images), fae.reconstruct(images))


def test_decoding_and_the_folder_follow_an_encoder_that_is_changed(
    fae: FAE, images: torch.Tensor, tmp_path: Path
) -> None:
    wanted = fae.reconstruct(images)
    fae.encoder.with_statistics([0.3] * 8, [0.5] * 8)
    assert torch.allclose(fae.reconstruct(images), wanted, atol=1e-5)
    fae.encoder.with_statistics([0.1] * 8, [2.0] * 8)  # seen by `require` and by saving, without decoding between
    fae.require()
    with torch.no_grad():
        next(fae.encoder.adapter.parameters()).add_(0.01)
    fae.encoder.with_statistics([0.2] * 8, [1.5] * 8)
    old = fae.spec
    fae.save_pretrained(tmp_path / "fae")
    loaded, decoder = FAE.from_pretrained(tmp_path / "fae"), FAEDecoder.from_pretrained(tmp_path / "fae")
    assert old.fingerprint != loaded.spec.fingerprint == decoder.spec.fingerprint
    z = loaded.encode(images)
    assert torch.equal(loaded.decode(z), fae.reconstruct(images)) and torch.equal(decoder.decode(z), loaded.decode(z))


def test_parts_that_are_replaced_in_memory_are_checked(fae: FAE, images: torch.Tensor, tmp_path: Path) -> None:
    own, foreign = fae.feature_decoder, make_fae()
    foreign.encoder.stamp()
    foreign.require()
    fae.feature_decoder = foreign.feature_decoder
    for use in (lambda: fae.reconstruct(images), fae.require, lambda: fae.save_pretrained(tmp_path / "fae")):
        with pytest.raises(LatentSpecMismatch, match="fingerprint"):
            use()
    fae.feature_decoder = own
    features = fae.pixel_decoder.config.features.model_copy(update={"fingerprint": "0" * 64})
    fae.pixel_decoder = PixelDecoder(fae.pixel_decoder.config.model_copy(update={"features": features}))
    with pytest.raises(FeatureSpaceMismatch, match="backbone weights"):
        fae.save_pretrained(tmp_path / "fae")
    assert not (tmp_path / "fae").exists()
