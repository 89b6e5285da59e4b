"""A real line as a bundle: the same pictures, by name, without the encoder's backbone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fae_core import LatentStore, load_decoder, load_generator, load_tokenizer
from fae_core.bundle.make import folder_bytes
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, LatentSpecMismatch
from fae_core.models.bundles import bundle_folders
from fae_core.plugins import load_plugins
from fae_decoders import FAE, FAEDecoder, FeatureDecoder, FeatureSpace, FeatureSpaceMismatch, PixelDecoder
from fae_diffusion import LightningDiT
from fae_encoder import FAEEncoder
from fae_flow import STARFlow

NAME = "tiny-line"


def shaken(model: torch.nn.Module, by: float) -> torch.nn.Module:
    """Weights away from their initial zeros, where training brings them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer on the backbone that pip carries, two generators of its latents, all with random weights, and two
    bundles."""
    root = tmp_path_factory.mktemp("line")
    torch.manual_seed(0)
    encoder = FAEEncoder.from_preset("fae-lite0-demo").with_statistics(torch.linspace(-1, 1, 16), [0.7] * 16)
    encoder.feature_norm.set_statistics(torch.linspace(-0.3, 0.3, encoder.backbone.dim), torch.full((176,), 1.3))
    encoder.stamp()
    small = {"width": 48, "depth": 1, "heads": 2, "features": FeatureSpace.of(encoder)}
    features = shaken(FeatureDecoder.from_preset("feature-decoder-demo", spec=encoder.spec, **small), 0.1)
    pixels = shaken(PixelDecoder.from_preset("pixel-decoder-demo", **small), 0.05)
    FAE(encoder, features, pixels).save_pretrained(root / "fae")
    spec = load_tokenizer(root / "fae").spec
    shaken(LightningDiT.from_preset("lightningdit-tiny", spec=spec, classes=3), 0.05).save_pretrained(root / "dit")
    shaken(STARFlow.from_preset("starflow-tiny", spec=spec, classes=3), 0.02).save_pretrained(root / "flow")
    for name in ("dit", "flow"):
        invoke(f"bundle --tokenizer {root}/fae --generator {root}/{name} --out {root}/with-{name}".split())
    return root


@pytest.fixture
def carried(line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The bundle under a name, in an installed package; the folder where that package lies."""
    package, info = tmp_path / "site" / "carrier", tmp_path / "site" / "carrier-1.0.dist-info"
    shutil.copytree(line / "with-dit", package / "bundles" / NAME)
    (package / "__init__.py").write_text("")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fae.bundles]\ncarrier = carrier\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for cache in (load_plugins, bundle_folders):
        cache.cache_clear()
    yield tmp_path / "site"
    for cache in (load_plugins, bundle_folders):
        cache.cache_clear()


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "images").iterdir())]).astype(int)


@pytest.mark.parametrize("name", ["dit", "flow"])
def test_a_bundle_paints_what_its_parts_paint(line: Path, tmp_path: Path, name: str) -> None:
    common = f"--count 6 --seed 3 --out {tmp_path}"
    invoke(f"sample --generator {line}/{name} --decoder {line}/fae {common}/plain".split())
    invoke(f"sample --model {line}/with-{name} {common}/bundle".split())
    plain, packed = pictures(tmp_path / "plain"), pictures(tmp_path / "bundle")
    assert plain.std() > 10 and np.abs(plain[0] - plain[3]).mean() > 5  # pictures, and not one six times
    assert np.abs(plain - packed).mean() < 0.5 and np.abs(plain - packed).max() <= 8


def test_weights_are_halved_and_the_fingerprint_is_that_of_what_is_stored(line: Path) -> None:
    assert folder_bytes(line / "with-dit") < 0.6 * (folder_bytes(line / "fae") + folder_bytes(line / "dit"))
    for weights in (line / "with-dit").glob("**/*.safetensors"):
        long = [name for name, tensor in load_file(weights).items() if tensor.dtype == torch.float32]
        assert all(name in ("feature_norm.mean", "feature_norm.std", "positions") for name in long), long
    before, after = (FAE.from_pretrained(line / name) for name in ("fae", "with-dit"))  # checks the fingerprints
    assert after.spec.fingerprint not in ("", before.spec.fingerprint)
    before.spec.require(after.spec, ignore=("fingerprint",))
    assert after.feature_decoder.spec == after.spec == load_generator(line / "with-dit").spec
    assert after.encoder.backbone.fingerprint() == before.encoder.backbone.fingerprint()
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    moved = (after.encode(images) - before.encode(images)).abs()  # latents of about 3, weights good to 1 in 2,000
    assert 0 < moved.mean() < 1e-3 and moved.max() < 1e-2
    with pytest.raises(LatentSpecMismatch, match="fingerprint"):
        load_generator(line / "dit", spec=after.spec)


def test_decoding_builds_no_encoder_and_paints_the_same(line: Path, tmp_path: Path) -> None:
    decoder, whole = load_decoder(line / "fae"), FAE.from_pretrained(line / "fae")
    assert isinstance(decoder, FAEDecoder) and decoder.spec == whole.spec
    z = torch.randn(2, *whole.spec.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decoder.decode(z), whole.decode(z)) and torch.equal(decoder.features(z), whole.features(z))
    program = (
        "import sys; from fae_core.cli.main import invoke; invoke(sys.argv[1:]); "
        "assert not {m for m in sys.modules if m.split('.')[0] in ('timm', 'transformers')}"
    )
    arguments = f"sample --model {line}/with-dit --out {tmp_path}/out --count 1".split()
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    shutil.copytree(line / "fae", tmp_path / "no-encoder")
    shutil.rmtree(tmp_path / "no-encoder" / "encoder")
    assert torch.equal(load_decoder(tmp_path / "no-encoder").decode(z), whole.decode(z))


def test_decoders_that_were_not_made_for_each_other_are_refused(line: Path, tmp_path: Path) -> None:
    whole = FAE.from_pretrained(line / "fae")
    other = whole.pixel_decoder.config.features.model_copy(update={"fingerprint": "0" * 64})
    foreign = PixelDecoder(whole.pixel_decoder.config.model_copy(update={"features": other}))
    with pytest.raises(FeatureSpaceMismatch, match=r"pixel decoder and feature decoder.*backbone weights"):
        FAEDecoder(whole.spec, whole.feature_decoder, foreign)
    FAE(whole.encoder, whole.feature_decoder).save_pretrained(tmp_path / "blind")
    with pytest.raises(FAEError, match="has no pixel decoder and cannot paint"):
        invoke(f"sample --generator {line}/dit --decoder {tmp_path}/blind --out {tmp_path}/out".split())
    assert not (tmp_path / "out").exists()


def test_every_command_takes_the_name(line: Path, carried: Path, tmp_path: Path) -> None:
    for number in range(4):
        tint = Image.linear_gradient("L").rotate(90 * number).resize((80, 80))
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.merge("RGB", [tint, tint.point(lambda v: 255 - v), tint]).save(tmp_path / "images" / f"{number}.png")
    invoke(f"sample --model {NAME} --out {tmp_path}/samples --count 2".split())
    invoke(f"encode --model {NAME} --data {tmp_path}/images --out {tmp_path}/latents".split())
    invoke(f"reconstruct --model {NAME} --data {tmp_path}/images --out {tmp_path}/rebuilt".split())
    invoke(f"eval similarity --model {NAME} --data {tmp_path}/images --out {tmp_path}/similarity --count 2".split())
    assert len(pictures(tmp_path / "samples")) == 2 and (tmp_path / "rebuilt" / "pairs.png").is_file()
    assert LatentStore(tmp_path / "latents").spec == load_generator(NAME).spec
    record = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert record["job"]["generator"] == record["job"]["decoder"] == NAME


def test_a_tokenizer_with_its_backbone_inside_keeps_it_exact(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = FAEEncoder.from_preset("fae-tiny")  # random weights, which no machine could fetch
    encoder.stamp()
    small = {"feature_dim": 64, "features": FeatureSpace.of(encoder)}
    features = FeatureDecoder.from_preset("feature-decoder-tiny", spec=encoder.spec, **small)
    FAE(encoder, features, PixelDecoder.from_preset("pixel-decoder-tiny", **small)).save_pretrained(tmp_path / "fae")
    spec = load_tokenizer(tmp_path / "fae").spec
    LightningDiT.from_preset("lightningdit-tiny", spec=spec, classes=1).save_pretrained(tmp_path / "dit")
    for dtype in ("bfloat16", "float16"):
        out = tmp_path / dtype
        invoke(f"bundle --tokenizer {tmp_path}/fae --generator {tmp_path}/dit --out {out} --dtype {dtype}".split())
        rounded = FAE.from_pretrained(out)
        state = encoder.backbone.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in rounded.encoder.backbone.state_dict().items())
        stored = load_file(out / "tokenizer" / "encoder" / "model.safetensors")
        assert stored["adapter.qkvs.weight"].dtype == getattr(torch, dtype)
