"""How strong stage Ib's noise is on features of other backbones than DINOv2-g: the paper's rule, and its refusals."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fae import PAINT, Gradients, make_encoder

from fae_core.cli.info import as_yaml, resolved_settings
from fae_core.commands.groups import invoke
from fae_core.config import parse_config
from fae_core.errors import FAEError
from fae_core.files import read_yaml
from fae_core.images import load_batch
from fae_core.models.presets import load_preset
from fae_decoders import PixelDecoder
from fae_decoders.stages import PixelNoiseConfig, PixelNoiseTask
from fae_encoder import FAEEncoder

UNKNOWN = {"reference_rms": "not measured"}
SHORT = "--steps 1 --batch-size 2 --device cpu --set training.ema_decay=null"


def scaled_encoder(factor: float, **overrides: Any) -> FAEEncoder:
    """The tiny encoder, with features `factor` times as large."""
    encoder = make_encoder(**overrides)
    with torch.no_grad():
        for name, parameter in encoder.backbone.network.named_parameters():
            if name.split(".")[-2:-1] == ["norm"]:
                parameter *= factor
    return encoder


def rms_of(encoder: FAEEncoder) -> float:
    return float(encoder.backbone(load_batch(Gradients(10), range(10), 64)).square().mean().sqrt())


def noise_task(encoder: FAEEncoder, reference: FAEEncoder | None = None, **fields: Any) -> PixelNoiseTask:
    decoder = PixelDecoder.from_preset("pixel-decoder-tiny", feature_dim=encoder.backbone.dim)
    config = parse_config(PixelNoiseConfig, {"losses": PAINT, **fields}, "noise settings")
    return PixelNoiseTask(encoder, decoder, Gradients(10), config, reference=reference)


def test_sigma_is_scaled_by_the_features_norm() -> None:
    """0.4 * rms / rms of the reference: features three times as large get noise three times as strong."""
    reference = make_encoder()
    task = noise_task(scaled_encoder(3.0), reference, **UNKNOWN)
    task.prepare("cpu")
    assert task.noise_std == pytest.approx(1.2, rel=1e-4)
    assert task.measured == pytest.approx(
        {"feature_rms": 3 * rms_of(reference), "reference_rms": rms_of(reference), "noise_sigma": 1.2}, rel=1e-4
    )
    same = noise_task(make_encoder(), make_encoder(), **UNKNOWN)
    same.prepare("cpu")
    assert same.noise_std == pytest.approx(0.4, rel=1e-6)


def test_a_known_norm_of_the_reference_gives_the_same() -> None:
    known = noise_task(scaled_encoder(3.0), reference_rms=rms_of(make_encoder()))
    known.prepare("cpu")
    assert known.noise_std == pytest.approx(1.2, rel=1e-4)


def test_standardised_features_get_the_same_share_of_their_norm(caplog: pytest.LogCaptureFixture) -> None:
    """Their root mean square is 1, so sigma is 0.4 / rms of the reference, which is measured as it is."""
    reference = scaled_encoder(3.0)
    task = noise_task(make_encoder(standardize_features=True), reference, **UNKNOWN)
    with caplog.at_level(logging.INFO, "fae"):
        task.prepare("cpu")
    assert task.noise_std == pytest.approx(0.4 / rms_of(scaled_encoder(3.0)), rel=1e-4)
    assert f"{task.noise_std:.4g} in standardised units" in caplog.text


def test_the_reference_is_measured_without_its_own_normalisation() -> None:
    reference = make_encoder(standardize_features=True)
    reference.feature_norm.set_statistics(torch.zeros(64), torch.full((64,), 7.0))
    task = noise_task(make_encoder(), reference, **UNKNOWN)
    task.prepare("cpu")
    assert task.noise_std == pytest.approx(0.4, rel=1e-6)


def test_the_rule_does_not_start_without_its_reference() -> None:
    with pytest.raises(FAEError, match=r"--reference fae-dinov2-g-32 measures it .* --set noise.reference_rms=NUMBER"):
        noise_task(make_encoder(), **UNKNOWN)
    with pytest.raises(FAEError, match=r"reference_rms, which is 2\.0"):
        noise_task(make_encoder(), make_encoder(), reference_rms=2.0)
    with pytest.raises(FAEError, match="exclude each other"):
        noise_task(make_encoder(), relative=False, **UNKNOWN)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "measured"])
def test_a_reference_norm_is_a_positive_number(value: object) -> None:
    with pytest.raises(FAEError, match="noise settings: reference_rms"):
        parse_config(PixelNoiseConfig, {"reference_rms": value}, "noise settings")


def test_a_sigma_in_the_units_of_one_backbone_is_refused_on_another() -> None:
    own = {"relative": False, "sigma_backbones": ["timm/test_vit"]}
    assert noise_task(make_encoder(), **own).noise_std == 0.4
    with pytest.raises(FAEError, match=r"for the features of timm/other as they are, not for timm/test_vit"):
        noise_task(make_encoder(), relative=False, sigma_backbones=["timm/other"])
    with pytest.raises(FAEError, match="not for standardised ones of timm/test_vit"):
        noise_task(make_encoder(standardize_features=True), **own)


@pytest.mark.parametrize(
    ("preset", "encoder"),
    [
        ("pixel-decoder-l", "fae-siglip2-g-opt-32"),
        ("pixel-decoder-l", "fae-siglip2-b-32"),
        ("pixel-decoder-l", "fae-dinov2-b-32"),
        ("pixel-decoder-l-titok", "fae-siglip2-g-opt-384-64"),
        ("pixel-decoder-b", "fae-mae-b-32"),
    ],
)
def test_dinov2_s_sigma_is_refused_before_anything_is_read(preset: str, encoder: str, tmp_path: Path) -> None:
    command = f"train pixel --data {tmp_path}/none --out {tmp_path}/run --preset {preset}"
    for named in (f"--encoder {encoder}", f"--set encoder.preset={encoder}"):
        with pytest.raises(FAEError, match=r"noise.sigma 0.4 is for the features of timm/vit_\w+_patch14\S*dinov2"):
            invoke(f"{command} {named}".split())


@pytest.mark.parametrize("preset", ["pixel-decoder-l-siglip2-256", "pixel-decoder-l-siglip2-384"])
def test_siglip2_s_presets_ask_for_the_reference_before_anything_is_read(preset: str, tmp_path: Path) -> None:
    with pytest.raises(FAEError, match=r"noise\.reference_rms, the norm of DINOv2-g's features, is not measured"):
        invoke(f"train pixel --data {tmp_path}/none --out {tmp_path}/run --preset {preset}".split())
    noise = parse_config(PixelNoiseConfig, load_preset(preset)["noise"], "noise settings")
    assert (noise.sigma, noise.relative, noise.reference_rms) == (0.4, True, "not measured")


def test_the_command_measures_and_records_the_rule(tmp_path: Path) -> None:
    """The run says what was measured, the decoder its sigma; an earlier run's number and --resume give the same."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):
        Gradients(6).read(i).save(images / f"{i}.png")
    reference = make_encoder().save_pretrained(tmp_path / "reference")
    own = scaled_encoder(2.0).save_pretrained(tmp_path / "own")
    command = f"train pixel --data {images} --preset pixel-decoder-tiny --encoder {own} {SHORT}"
    # The rule goes over an absolute sigma that the preset has.
    absolute = "--set noise.relative=false --set noise.sigma_backbones=[timm/other]"
    invoke(f"{command} {absolute} --reference {reference} --out {tmp_path}/run".split())
    # ... also where a file spells out every default, reference_rms: null among them.
    settings = resolved_settings("pixel-decoder-tiny")
    (tmp_path / "all.yaml").write_text(as_yaml({**settings, "encoder": {}}))
    command_all = command.replace("--preset pixel-decoder-tiny", f"--config {tmp_path}/all.yaml")
    invoke(f"{command_all} --reference {reference} --out {tmp_path}/all".split())
    spelled_out = read_yaml(tmp_path / "all" / "config.yaml")["measured"]
    record = read_yaml(tmp_path / "run" / "config.yaml")
    measured = record["measured"]
    assert measured["noise_sigma"] == pytest.approx(0.8, rel=1e-4)
    assert spelled_out == measured
    assert set(record["identity"]) >= {"images", "backbone", "reference"}
    assert PixelDecoder.from_pretrained(tmp_path / "run").config.noise_sigma == measured["noise_sigma"]

    known = f"--set noise.reference_rms={measured['reference_rms']}"
    invoke(f"{command} {known} --out {tmp_path}/again".split())
    again = read_yaml(tmp_path / "again" / "config.yaml")["measured"]
    assert again == pytest.approx(measured, rel=1e-6)
    with pytest.raises(FAEError, match="which is"):
        invoke(f"{command} {known} --reference {reference} --out {tmp_path}/both".split())

    moved = (tmp_path / "reference").rename(tmp_path / "moved")
    invoke(f"train pixel --resume --steps 2 --reference {moved} --out {tmp_path}/run --device cpu".split())
    assert read_yaml(tmp_path / "run" / "config.yaml")["measured"] == measured
    with pytest.raises(FAEError, match="other reference"):
        invoke(f"train pixel --resume --steps 3 --reference {own} --out {tmp_path}/run --device cpu".split())


def test_stage_finetune_takes_no_reference(tmp_path: Path) -> None:
    with pytest.raises(FAEError, match="--reference is for stage noise"):
        invoke(f"train pixel --stage finetune --data {tmp_path} --out {tmp_path}/run --reference fae-tiny".split())
