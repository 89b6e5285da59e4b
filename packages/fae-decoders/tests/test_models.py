"""The two decoders: what they compute, on which shapes, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fae_core.errors import FAEError, InvalidFile
from fae_core.spec import LatentSpec
from fae_decoders import FeatureDecoder, FeatureDecoderConfig, PixelDecoder, PixelDecoderConfig

SPEC = LatentSpec(6, 2, 5, (32, 80), "toy/backbone")


def feature_decoder(spec: LatentSpec = SPEC, **fields: object) -> FeatureDecoder:
    torch.manual_seed(0)
    config = {"feature_dim": 24, "width": 16, "depth": 2, "heads": 2, **fields}
    return FeatureDecoder(FeatureDecoderConfig(**config), spec).eval()


def pixel_decoder(**fields: object) -> PixelDecoder:
    torch.manual_seed(0)
    config = {"feature_dim": 24, "grid": (2, 5), "image_size": (8, 30), "width": 16, "depth": 2, "heads": 2, **fields}
    return PixelDecoder(PixelDecoderConfig(**config)).eval()


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_feature_decoder_denormalises_inside() -> None:
    statistics = [0.5, -1.0, 2.0, 0.0, 0.1, 0.2], [2.0, 0.5, 1.0, 3.0, 0.1, 1.5]
    spec = SPEC.with_statistics(*statistics)
    raw, measured = feature_decoder(SPEC), feature_decoder(spec)
    z = normal(3, 6, 2, 5)
    assert measured(z).shape == (3, 10, 24)
    torch.testing.assert_close(measured(z), raw(spec.denormalize(z)))


def test_feature_decoder_of_the_backbones_width_has_no_output_projection() -> None:
    names = {name.split(".")[0] for name in feature_decoder(width=24).state_dict()}
    assert "proj_out" not in names
    assert "proj_out" in {name.split(".")[0] for name in feature_decoder(width=16).state_dict()}


def test_feature_decoder_mixes_tokens_and_knows_where_they_are() -> None:
    decoder = feature_decoder()
    z = normal(1, 6, 2, 5)
    moved = z.clone()
    moved[:, :, 0, 0] += 1
    assert (decoder(moved) - decoder(z))[0, -1].abs().max() > 1e-6
    same_everywhere = z[:, :, :1, :1].expand(1, 6, 2, 5)
    tokens = decoder(same_everywhere)[0]
    assert (tokens[0] - tokens[1]).abs().max() > 1e-4


@pytest.mark.parametrize("tail", [0, 4])
def test_pixel_decoder_places_every_token_at_its_patch(tail: int) -> None:
    """Without the blocks' outputs, a token changes its own patch only (and, with the tail, two pixels around)."""
    decoder = pixel_decoder(tail_channels=tail)
    for block in decoder.blocks:
        for layer in (block.attention.proj, block.mlp.down):
            torch.nn.init.zeros_(layer.weight)
    features = normal(1, 10, 24)
    changed = features.clone()
    changed[0, 7] += 1  # row 1, column 2 of a 2 x 5 grid with patches of 4 x 6 pixels
    difference = (decoder(changed) - decoder(features)).abs().amax(1)[0] > 0
    reach = 2 if tail else 0
    expected = torch.zeros(8, 30, dtype=torch.bool)
    expected[4 - reach : 8, 12 - reach : 18 + reach] = True
    assert torch.equal(difference, expected)


def test_pixel_decoder_starts_at_mid_grey_and_is_not_clamped() -> None:
    decoder = pixel_decoder()
    torch.nn.init.zeros_(decoder.proj_out.weight)
    assert torch.equal(decoder(normal(1, 10, 24)), torch.full((1, 3, 8, 30), 0.5))
    torch.nn.init.constant_(decoder.proj_out.bias, 3.0)  # the internal range is [-1, 1], so 3 shows as 2
    assert torch.equal(decoder(normal(1, 10, 24)), torch.full((1, 3, 8, 30), 2.0))


@pytest.mark.parametrize("make", [feature_decoder, pixel_decoder])
def test_results_do_not_depend_on_the_batch(make) -> None:
    decoder = make()
    x = normal(5, 6, 2, 5) if make is feature_decoder else normal(5, 10, 24)
    torch.testing.assert_close(decoder(x), torch.cat([decoder(row[None]) for row in x]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [feature_decoder, pixel_decoder])
def test_gradient_checkpointing_changes_no_gradient(make) -> None:
    x = normal(2, 6, 2, 5) if make is feature_decoder else normal(2, 10, 24)
    gradients = []
    for recompute in (False, True):
        decoder = make().train()
        decoder.gradient_checkpointing = recompute
        decoder(x).square().sum().backward()
        gradients.append([p.grad for p in decoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("make", [feature_decoder, pixel_decoder])
def test_half_precision_weights_take_full_precision_input(make) -> None:
    x = normal(2, 6, 2, 5) if make is feature_decoder else normal(2, 10, 24)
    exact, rounded = make()(x), make().to(torch.bfloat16)(x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.1, rtol=0.1)


def test_save_and_load_agree(tmp_path) -> None:
    feature, pixel = feature_decoder(), pixel_decoder(tail_channels=4)
    feature.save_pretrained(tmp_path / "feature")
    pixel.save_pretrained(tmp_path / "pixel")
    z = normal(2, 6, 2, 5)
    assert torch.equal(FeatureDecoder.from_pretrained(tmp_path / "feature")(z), feature(z))
    loaded = PixelDecoder.from_pretrained(tmp_path / "pixel")
    assert torch.equal(loaded(feature(z)), pixel(feature(z)))
    with pytest.raises(InvalidFile, match="'pixel-decoder' model, not 'feature-decoder'"):
        FeatureDecoder.from_pretrained(tmp_path / "pixel")


def test_wrong_shapes_are_refused_by_name() -> None:
    with pytest.raises(FAEError, match=r"expected latents of shape \(B, 6, 2, 5\)"):
        feature_decoder()(normal(1, 6, 5, 2))
    with pytest.raises(FAEError, match=r"expected features of shape \(B, 10, 24\)"):
        pixel_decoder()(normal(1, 10, 23))
    with pytest.raises(FAEError, match="needs the LatentSpec"):
        FeatureDecoder(feature_decoder().config)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image_size": (9, 30)}, "not a multiple of the grid"),
        ({"image_size": 1}, "not a multiple of the grid"),
        ({"heads": 3}, "not a multiple of 3 heads"),
    ],
)
def test_impossible_pixel_decoders_are_refused(fields: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pixel_decoder(**fields)


def test_spec_of_another_grid_gives_another_decoder() -> None:
    spec = dataclasses.replace(SPEC, height=4, width=4, image_size=64)
    assert feature_decoder(spec)(normal(1, 6, 4, 4)).shape == (1, 16, 24)
