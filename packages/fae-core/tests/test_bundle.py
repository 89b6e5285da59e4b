"""Bundles: a tokenizer and a generator in one folder, found by name, checked, refused in one line where something is
wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fae_core import LatentSpec, load_decoder, load_generator, load_tokenizer
from fae_core.bundle.card import public, training_history
from fae_core.bundle.check import MEGABYTES, check_bundle
from fae_core.bundle.make import make_bundle
from fae_core.cli.info import describe
from fae_core.cli.main import main
from fae_core.commands.groups import invoke
from fae_core.documents import read_yaml
from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch, MissingPackage, OutputExists, UnknownName
from fae_core.models.bundles import bundle_folders, bundle_part, read_bundle
from fae_core.models.rounding import compact_weights, round_parameters
from fae_core.models.sources import find_bundle
from fae_core.plugins import load_plugins

SPEC = LatentSpec(3, 2, 2, 2, "toys", fingerprint="of the unrounded")
TOYS = """
import dataclasses
import torch
from fae_core.models.rounding import round_parameters
from fae_core.models.pretrained import Config, PretrainedModel

class Config(Config):
    classes: int | None = None

class Toy(PretrainedModel):
    config_class = Config

    def __init__(self, config, spec=None):
        super().__init__(config, spec)
        self.weight = torch.nn.Parameter(torch.linspace(-0.3, 0.4, 12).view(1, 3, 2, 2))
        self.register_buffer("table", torch.full((4,), 0.1))

class Noise(Toy):
    model_type = "toys-noise"

    def loss(self, z, condition, *, random=None):
        return {"loss": z.mean()}

    def sample(self, condition, *, noise=None, random=None, **options):
        return random.normal(self.spec.shape, "noise") * self.weight + condition.view(-1, 1, 1, 1)

class Pixels(Toy):
    model_type = "toys-pixels"

    def encode(self, images):
        return images - self.weight

    def decode(self, z):
        return (z + self.weight).sigmoid()

    def round_parameters(self, dtype):
        round_parameters(self, dtype)
        self.spec = dataclasses.replace(self.spec, fingerprint=f"rounded to {dtype}")

class Blind(Toy):
    model_type = "toys-blind"

    def encode(self, images):
        return images
"""
POINTS = """
[fae.generators]
toys-noise = toys:Noise

[fae.tokenizers]
toys-pixels = toys:Pixels
toys-blind = toys:Blind

[fae.bundles]
toys = toys
"""


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with a tokenizer and a generator; returns its module's folder."""
    package, info = tmp_path / "site" / "toys", tmp_path / "site" / "toys-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TOYS)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    for cache in (load_plugins, bundle_folders):
        cache.cache_clear()
    yield package
    sys.modules.pop("toys", None)
    for cache in (load_plugins, bundle_folders):
        cache.cache_clear()


@pytest.fixture
def runs(toys: Path, tmp_path: Path) -> Path:
    """Two run folders, as training leaves them."""
    import toys as module

    for name, made, settings in (
        (
            "fae",
            module.Pixels,
            "command: fae train pixel\ndata: /data/of/mine/a.parquet[:9]\nautoencoder: runs/ae/model\n",
        ),
        ("dit", module.Noise, "command: fae train diffusion\ntraining: {seed: 5, steps: 70, batch_size: 2}\n"),
    ):
        made(module.Config(classes=2), SPEC).save_pretrained(tmp_path / "runs" / name / "model")
        (tmp_path / "runs" / name / "config.yaml").write_text(settings)
    (tmp_path / "runs" / "ae" / "checkpoints" / "step-00000003").mkdir(parents=True)
    (tmp_path / "runs" / "ae" / "config.yaml").write_text("command: fae train autoencoder\n")
    state = tmp_path / "runs" / "ae" / "checkpoints" / "step-00000003" / "state.json"
    state.write_text(json.dumps({"step": 3, "seconds": 61.7, "device": "cpu", "torch": "2.15.0"}))
    return tmp_path / "runs"


@pytest.fixture
def bundle(runs: Path, tmp_path: Path) -> Path:
    return make_bundle(runs / "fae", runs / "dit", tmp_path / "pair")


@pytest.fixture
def carried(bundle: Path, toys: Path) -> str:
    """The same bundle inside the installed package, by name."""
    shutil.copytree(bundle, toys / "bundles" / "pair-of-toys")
    bundle_folders.cache_clear()
    return "pair-of-toys"


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "images").iterdir())]).astype(int)


def test_weights_are_halved_and_are_those_that_the_fingerprint_is_of(runs: Path, bundle: Path) -> None:
    for part, run in (("tokenizer", "fae"), ("generator", "dit")):
        stored = load_file(bundle / part / "model.safetensors")
        before = load_file(runs / run / "model" / "model.safetensors")
        assert stored["weight"].dtype == torch.float16
        assert torch.equal(stored["weight"], before["weight"].half())
        assert torch.equal(stored["table"], before["table"])  # a buffer that float16 cannot hold exactly
    tokenizer, generator = load_tokenizer(bundle), load_generator(bundle)
    assert tokenizer.weight.dtype == generator.weight.dtype == torch.float32
    assert torch.equal(tokenizer.weight, load_file(bundle / "tokenizer" / "model.safetensors")["weight"].float())
    assert tokenizer.spec.fingerprint == "rounded to torch.float16"
    tokenizer.spec.require(generator.spec)


def test_float32_changes_nothing(runs: Path, tmp_path: Path) -> None:
    whole = make_bundle(runs / "fae", runs / "dit", tmp_path / "whole", dtype="float32")
    assert load_tokenizer(whole).spec == SPEC
    assert torch.equal(load_generator(whole).weight, load_generator(runs / "dit").weight)
    with pytest.raises(UnknownName, match="float8"):
        make_bundle(runs / "fae", runs / "dit", tmp_path / "other", dtype="float8")


def test_a_name_a_folder_and_the_two_runs_give_the_same_pictures(runs: Path, bundle: Path, carried: str) -> None:
    invoke(["sample", "--generator", "runs/dit", "--decoder", "runs/fae", "--out", "runs/plain", "--count", "4"])
    for model in (carried, str(bundle)):
        out = f"runs/samples-{Path(model).name}"
        invoke(["sample", "--model", model, "--out", out, "--count", "4"])
        assert np.abs(pictures(Path(out)) - pictures(Path("runs/plain"))).max() <= 1
    job = json.loads(Path("runs/samples-pair-of-toys/samples.json").read_text())["job"]
    assert (job["generator"], job["decoder"]) == (carried, carried)  # no path of this machine


def test_a_folder_of_that_name_comes_first(runs: Path, carried: str, tmp_path: Path) -> None:
    assert find_bundle(carried) == bundle_folders()[carried]
    make_bundle(runs / "fae", runs / "dit", tmp_path / carried)
    assert find_bundle(carried) == Path(carried)


@pytest.mark.parametrize(
    "arguments", [[], ["--generator", "a"], ["--decoder", "a"], ["--model", "a", "--generator", "b", "--decoder", "c"]]
)
def test_there_are_two_ways_and_exactly_one_is_taken(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(FAEError, match="give either --model BUNDLE, or --generator and --decoder"):
        invoke(["sample", *arguments, "--out", str(tmp_path / "out")])


def test_an_unknown_name_lists_those_that_are_there(carried: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sample", "--model", "nosuch", "--out", "out"])
    assert stop.value.code == 2
    there = ", ".join(sorted(bundle_folders()))  # fae-decoders, where it is installed, carries one of its own
    assert carried in there
    assert capsys.readouterr().err == f"error: nosuch does not exist; models that installed packages carry: {there}\n"
    assert not Path("out").exists()


def test_one_model_is_no_bundle_and_a_bundle_is_not_one_model(runs: Path, bundle: Path) -> None:
    import toys

    with pytest.raises(InvalidFile, match=r"runs/dit is not a bundle \(bundle\.json is missing\)"):
        invoke(["sample", "--model", "runs/dit", "--out", "out"])
    with pytest.raises(InvalidFile, match=r"is a bundle; give .*pair/tokenizer or .*pair/generator"):
        toys.Noise.from_pretrained(bundle)
    assert toys.Noise.from_pretrained(bundle / "generator").config.classes == 2


@pytest.mark.parametrize("part", ["tokenizer", "generator"])
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda weights: weights.unlink(), "model.safetensors is missing from the bundle"),
        (lambda weights: shutil.rmtree(weights.parent), "model.safetensors is missing from the bundle"),
        (lambda weights: weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f"), "is damaged: it is not the file"),
        (lambda weights: (weights.parent / "config.json").unlink(), "config.json does not exist"),
        (lambda weights: (weights.parent / "latent_spec.json").unlink(), "has no latent_spec.json"),
    ],
)
def test_a_damaged_part_is_named_in_one_line(bundle: Path, part: str, damage, complaint: str) -> None:
    damage(bundle / part / "model.safetensors")
    with pytest.raises(InvalidFile) as caught:
        invoke(["sample", "--model", str(bundle), "--out", "out", "--count", "1"])
    assert complaint in str(caught.value) and f"/{part}" in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format_version": 2}, "has format 2; this version reads 1"),
        ({"files": None}, "does not say what the bundle holds"),
        ({"files": {}}, "lists no weights of a generator"),
        ({"generator": "dit"}, "does not say what the bundle holds"),
        ({"generator": {"training": "long"}}, "does not say how its parts were trained"),
        ({"tokenizer": {"training": ["long"]}}, "does not say how its parts were trained"),
        ({"files": {"generator/../../x.safetensors": "0"}}, "names files that are not in the bundle"),
        ({"files": {"/dev/zero": "0"}}, "names files that are not in the bundle"),
    ],
)
def test_a_wrong_record_is_refused(bundle: Path, change: dict, complaint: str) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InvalidFile, match=complaint):
        load_generator(bundle)


def test_parts_that_do_not_fit_are_refused_and_leave_nothing(runs: Path, tmp_path: Path, bundle: Path) -> None:
    import toys

    toys.Noise(toys.Config(), SPEC.with_statistics([0.0] * 3, [2.0] * 3)).save_pretrained(runs / "other")
    with pytest.raises(LatentSpecMismatch, match="std"):
        make_bundle(runs / "fae", runs / "other", tmp_path / "out")
    toys.Blind(toys.Config(), SPEC).save_pretrained(runs / "blind")
    with pytest.raises(FAEError, match="encodes but cannot paint"):
        make_bundle(runs / "blind", runs / "dit", tmp_path / "out")
    with pytest.raises(FAEError, match="can encode but not decode"):
        load_decoder(runs / "blind")
    with pytest.raises(OutputExists):
        make_bundle(runs / "fae", runs / "dit", bundle)
    assert not (tmp_path / "out").exists()


def test_what_a_package_must_not_carry_is_found(bundle: Path) -> None:
    assert list(check_bundle(bundle)) == []
    (bundle / "README.md").unlink()
    (bundle / "generator" / "weights.bin").write_bytes(b"\0")
    shutil.copyfile(bundle / "generator" / "model.safetensors", bundle / "generator" / "more.safetensors")
    with (bundle / "notes.json").open("wb") as file:
        file.truncate(int(MEGABYTES * 1e6))
    found = " ".join(check_bundle(bundle))
    for complaint in (
        "32.0 MB, more than 32",
        "weights.bin is none of",
        "README.md is missing",
        "more.safetensors is not in",
    ):
        assert complaint in found
    load_generator(bundle).spec.with_statistics([1.0] * 3, [1.0] * 3).save(bundle / "generator")
    assert any("latent spaces differ (tokenizer and generator): mean" in line for line in check_bundle(bundle))
    (bundle / "tokenizer" / "model.safetensors").unlink()
    assert any("model.safetensors is missing" in line for line in check_bundle(bundle))


@pytest.mark.parametrize("name", ["bundle.json", "generator/config.json", "generator/latent_spec.json"])
def test_a_changed_record_config_or_spec_is_found_when_the_bundle_is_loaded(bundle: Path, name: str) -> None:
    text = (bundle / name).read_text()
    (bundle / name).write_text(text.replace("toy", "tay", 1).replace("description", "descripsion", 1))
    assert (bundle / name).read_text() != text
    with pytest.raises(InvalidFile, match="damaged"):
        load_generator(bundle)


def test_numbers_that_half_precision_cannot_hold_are_refused() -> None:
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1e5)
    with pytest.raises(FAEError, match="weight of Linear has numbers beyond the range of float16; use bfloat16"):
        round_parameters(layer, torch.float16)
    round_parameters(layer, torch.bfloat16)
    assert layer.weight.item() == 99840.0  # the nearest of bfloat16's 8 bits to 100000


def test_only_what_loses_nothing_is_stored_short(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"exact": torch.tensor([0.5, -2.0]), "fine": torch.tensor([0.1]), "count": torch.tensor([70000])}
    save_file(tensors, path)
    compact_weights(path, torch.float16)
    stored = load_file(path)
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "exact": torch.float16,
        "fine": torch.float32,
        "count": torch.int64,
    }
    assert all(torch.equal(stored[name].to(tensor.dtype), tensor) for name, tensor in tensors.items())


def test_the_card_says_how_it_was_made_and_names_no_folder_of_a_machine(runs: Path, tmp_path: Path) -> None:
    results = {
        "title": "Generation",
        "table": {"columns": ["samples", "FD"], "rows": [["ours", 12.3456789]]},
        "notes": ["250 samples."],
        "provenance": {"command": "fae eval --reference /data/of/mine/r", "date": "2026-11-25", "device": "cpu"},
    }
    (tmp_path / "r.json").write_text(json.dumps(results))
    options = ["--dtype", "bfloat16", "--results", "r.json", "--description", "Ten toys.", "--note", "On two cores."]
    invoke(["bundle", "--tokenizer", "runs/fae", "--generator", "runs/dit", "--out", "toys-10", *options])
    card, record = Path("toys-10/README.md").read_text(), read_bundle(Path("toys-10"))
    assert [step["command"] for step in record["tokenizer"]["training"]] == ["fae train autoencoder", "fae train pixel"]
    assert record["tokenizer"]["training"][0] == {
        "command": "fae train autoencoder",
        "steps": 3,
        "seconds": 62,
        "device": "cpu",
        "torch": "2.15.0",
    }
    checkpoint = runs / "ae" / "checkpoints" / "step-00000003"  # stands for its run, as it does elsewhere
    assert training_history(checkpoint, "tokenizer") == record["tokenizer"]["training"][:1]
    assert record["generator"]["training"] == [
        {"command": "fae train diffusion", "seed": 5, "steps": 70, "batch_size": 2}
    ]
    for said in ("# toys-10", "Ten toys.", "On two cores.", "| ours | 12.35 |", "bfloat16", "seed 5", "2026-11-25"):
        assert said in card
    assert "/data" not in card and "/data" not in json.dumps(record)
    assert "a.parquet[:9]" in card and "--reference r`" in card
    # A run that names an earlier one from another working directory finds it by the command that it recorded.
    config = runs / "fae" / "config.yaml"
    words = ["train", "pixel", "--autoencoder", str(runs / "ae")]
    changed = read_yaml(config) | {"autoencoder": "elsewhere/ae", "arguments": words}
    config.write_text(json.dumps(changed))
    assert training_history(runs / "fae", "tokenizer") == record["tokenizer"]["training"]
    # What a bundle says of its training goes on into a bundle that is made of its parts.
    again = make_bundle("toys-10", "toys-10", "toys-11", dtype="bfloat16")
    assert read_bundle(again)["tokenizer"]["training"] == record["tokenizer"]["training"]
    assert training_history(Path("toys-10/generator"), "generator") == record["generator"]["training"]
    with pytest.raises(InvalidFile, match="holds no results"):
        make_bundle(runs / "fae", runs / "dit", tmp_path / "out", results=[runs / "dit" / "model" / "config.json"])


def test_neither_record_nor_card_has_secrets(runs: Path, tmp_path: Path) -> None:
    address = "https://me:S3cr@t@host.org/data.tar?sig=S3cret"
    made = make_bundle(
        runs / "fae",
        runs / "dit",
        tmp_path / "out",
        description=f"Of {address}",
        notes=[f"user:S3cr@t@host and hf_{'a1' * 12}"],
    )
    written = (made / "bundle.json").read_text() + (made / "README.md").read_text()
    assert written.count("https://***@host.org/") == 2 and written.count("***@host and hf_***") == 2
    assert not any(secret in written for secret in ("S3cr", "t@host", "a1a1"))


def test_directories_are_taken_out_of_paths_and_of_nothing_else() -> None:
    assert public("--data ours=/data/x/train.parquet[:5] and/or runs/a ../b https://x.org/a/b ~/c") == (
        "--data ours=/data/x/train.parquet[:5] and/or runs/a ../b https://x.org/a/b ~/c".replace("/data/x/", "")
    )


def test_what_is_carried_is_listed_and_described(carried: str, capsys: pytest.CaptureFixture) -> None:
    invoke(["presets", "bundle"])
    assert carried in capsys.readouterr().out
    facts = describe(carried)
    assert facts["generator"] == "toys-noise, 12 parameters" and facts["weights in"] == "float16"
    assert facts["latents"] == "3 x 2 x 2"


def test_two_bundles_of_one_name_are_an_error(carried: str, toys: Path, tmp_path: Path) -> None:
    twin, info = tmp_path / "site" / "twin", tmp_path / "site" / "twin-1.0.dist-info"
    shutil.copytree(toys / "bundles", twin / "bundles")
    (twin / "__init__.py").write_text("")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fae.bundles]\ntwin = twin\n")
    for cache in (load_plugins, bundle_folders):
        cache.cache_clear()
    with pytest.raises(FAEError, match="two bundles are named pair-of-toys"):
        bundle_folders()


def test_a_part_whose_package_is_missing_says_what_to_install(bundle: Path) -> None:
    path = bundle / "generator" / "config.json"
    stored = json.loads(path.read_text())
    record = json.loads((bundle / "bundle.json").read_text())
    del record["others"], record["checksum"]  # as earlier versions wrote it: config.json is not covered
    (bundle / "bundle.json").write_text(json.dumps(record))
    path.write_text(json.dumps({**stored, "model_type": "nobodys", "package": "fae_core"}))
    with pytest.raises(UnknownName, match="unknown generator type 'nobodys'"):
        load_generator(bundle)  # that package is here, and does not know it
    assert bundle_part(bundle, "generator") == bundle / "generator"
    absent = next((name for name in ("fae_diffusion", "fae_flow") if not _installed(name)), None)
    if absent is None:
        pytest.skip("every package is installed here; tools/checks/alone.py runs this where they are not")
    path.write_text(json.dumps({**stored, "model_type": "nobodys", "package": absent}))
    with pytest.raises(MissingPackage, match=f"pip install .*{absent.replace('_', '-')}"):
        load_generator(bundle)


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
