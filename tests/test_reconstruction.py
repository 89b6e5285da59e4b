"""`fae reconstruct` with the metrics of fae-eval: one record, with the numbers of `evaluate_reconstruction`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError
from fae_core.spec import LatentSpec
from fae_decoders import ConvVAE, ConvVAEConfig
from fae_eval import evaluate_reconstruction
from fae_eval.extractors import FeatureExtractor


class Pixels(FeatureExtractor):
    """Colours of four by four cells."""

    name, dim, fingerprint, resize = "pixels", 48, "test", "none"

    def outputs(self, images) -> dict[str, torch.Tensor]:
        pixels = torch.as_tensor(images)
        if pixels.dtype == torch.uint8:
            pixels = pixels.permute(0, 3, 1, 2).float() / 255
        return {"pool": torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 4).flatten(1)}


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = ConvVAE(ConvVAEConfig(image_size=32, channels=4, widths=(8, 8), blocks=1, norm_groups=4))
    assert isinstance(model.spec, LatentSpec)
    return model.save_pretrained(tmp_path / "vae")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(7):
        tint = Image.linear_gradient("L").rotate(40 * number).resize((40, 40))
        Image.merge("RGB", [tint, tint.point(lambda v: 255 - v), tint]).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def test_one_command_measures_and_shows(vae: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fae_eval.studies.reconstruction.load_extractor", lambda *_, **__: Pixels())
    out = tmp_path / "out"
    words = (
        f"reconstruct --model {vae} --data {data} --out {out} --extractor timm/pixels --batch-size 3 --pairs 2 --files"
    )
    invoke(f"{words} --device cpu".split())
    record = json.loads((out / "results" / "reconstruction.json").read_text())
    alone = evaluate_reconstruction(vae, data, extractor=Pixels(), batch_size=7, device="cpu")
    assert record["values"] == pytest.approx(alone.values)
    assert {"PSNR [dB]", "SSIM", "rFD-pixels"} <= record["values"].keys()
    assert record["provenance"]["extractor"]["name"] == "pixels" and record["warnings"] == alone.warnings
    assert (out / "pairs.png").is_file() and len(list((out / "images").glob("*.png"))) == 7


def test_weights_without_an_extractor_are_refused(vae: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(FAEError, match="--extractor"):
        invoke(f"reconstruct --model {vae} --data {data} --out {tmp_path}/out --weights x.pt".split())
    assert not (tmp_path / "out").exists()
