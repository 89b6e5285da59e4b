"""Claims about models on the hub, by huggingface_hub itself against a hub on this machine: only what is needed is
fetched, options reach it, and what is uploaded has a card that the hub understands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_hub import SmallHub, small_hub

from fae_core import LatentSpec, load_decoder, load_generator, load_tokenizer
from fae_core.errors import InvalidFile, UnknownName
from fae_core.models.bundles import bundle_folders
from fae_core.models.card import Card
from fae_decoders import FAE, FAEDecoder
from fae_diffusion import LightningDiT
from fae_encoder import FAEEncoder

BUNDLE = bundle_folders()["cifar10"]
MODEL = ["config.json", "latent_spec.json", "model.safetensors"]
ENCODER = [f"encoder/{name}" for name in MODEL]
DECODERS = [f"feature_decoder/{name}" for name in MODEL] + [
    f"pixel_decoder/{name}" for name in MODEL if name != "latent_spec.json"
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHub]:
    """A hub with an FAE, a bundle, and a repository with two generators and files that nobody needs."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(BUNDLE / "tokenizer", root / "some" / "fae")
    shutil.copytree(BUNDLE, root / "some" / "bundle")
    for folder in (root / "some" / "dit", root / "some" / "several" / "inner"):
        shutil.copytree(BUNDLE / "generator", folder)
        (folder / "pytorch_model.bin").write_bytes(b"nobody unpickles this")
        half = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
        save_file(half, folder / "model.fp16.safetensors")
    with small_hub(root) as running:
        yield running


CASES = {
    "encoder": ("from fae_encoder import FAEEncoder as C", "C.from_pretrained('some/fae', cache_dir=cache)", ENCODER),
    "decoder": ("from fae_decoders import FAEDecoder as C", "C.from_pretrained('some/fae', cache_dir=cache)", DECODERS),
    "load_decoder": ("from fae_core import load_decoder", "load_decoder('some/fae', cache_dir=cache)", DECODERS),
    "whole": ("from fae_core import load_tokenizer", "load_tokenizer('some/fae', cache_dir=cache)", ENCODER + DECODERS),
    "bundle": (
        "from fae_core import load_decoder",
        "load_decoder('some/bundle', cache_dir=cache)",
        ["bundle.json", *(f"tokenizer/{name}" for name in DECODERS)],
    ),
    "generator of a bundle": (
        "from fae_core import load_generator",
        "load_generator('some/bundle', cache_dir=cache)",
        ["bundle.json", *(f"generator/{name}" for name in MODEL)],
    ),
    "generator": (
        "from fae_diffusion import LightningDiT as C",
        "C.from_pretrained('some/dit', cache_dir=cache)",
        MODEL,
    ),
    "variant": (
        "from fae_diffusion import LightningDiT as C",
        "C.from_pretrained('some/dit', variant='fp16', cache_dir=cache)",
        ["config.json", "latent_spec.json", "model.fp16.safetensors"],
    ),
    "subfolder": (
        "from fae_core import load_generator",
        "load_generator('some/several', subfolder='inner', variant='fp16', cache_dir=cache)",
        ["inner/config.json", "inner/latent_spec.json", "inner/model.fp16.safetensors"],
    ),
}


@pytest.fixture(scope="module")
def caches(hub: SmallHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one cache per case, each filled by loading one model."""
    root = tmp_path_factory.mktemp("caches")
    lines = [f"{imports}\ncache = {str(root / case)!r}\n{call}" for case, (imports, call, _) in CASES.items()]
    hub.run("\n".join(lines), root / "home")
    assert not (root / "home" / "hub").exists()
    return root


@pytest.mark.parametrize("case", CASES)
def test_only_the_files_that_are_needed_are_fetched(caches: Path, case: str) -> None:
    (snapshot,) = (caches / case).glob("models--*/snapshots/*")
    found = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    own = {"config.json", "latent_spec.json"}  # of the folder that holds the parts
    wanted = set(CASES[case][2])
    assert wanted <= found <= {*wanted, *own, *(f"tokenizer/{name}" for name in own)}


def test_sampling_from_a_bundle_fetches_what_it_draws_and_decodes_with(hub: SmallHub, tmp_path: Path) -> None:
    command = f"sample --model some/bundle --count 1 --set steps=1 --device cpu --out {tmp_path}/samples"
    hub.run(f"from fae_core.commands.groups import invoke\ninvoke({command.split()!r})", tmp_path / "home")
    (snapshot,) = (tmp_path / "home" / "hub").glob("models--some--bundle/snapshots/*")
    found = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    own = {f"tokenizer/{name}" for name in ("config.json", "latent_spec.json")}
    drawn = {"bundle.json", *(f"tokenizer/{name}" for name in DECODERS), *(f"generator/{name}" for name in MODEL)}
    assert drawn <= found <= drawn | own
    assert (tmp_path / "samples" / "images" / "000000.png").is_file()


WRONG = """
import sys
from fae_core.commands.groups import invoke
from fae_core.errors import InvalidFile
for command in {commands!r}:
    try:
        invoke(command.split())
    except InvalidFile as error:
        loaded = {heavy!r} & sys.modules.keys()
        print(command.split()[0], str(error).partition(":")[0], *sorted(loaded))
"""


@pytest.mark.parametrize("offline", [False, True])
def test_a_name_that_the_hub_lacks_is_told_before_large_packages_are_imported(
    hub: SmallHub, offline: bool, tmp_path: Path
) -> None:
    """A path with an error in it looks like a name. The client for whole repositories is such a package, too."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.png").touch()
    at = f"{tmp_path}/data --out {tmp_path}/out"
    commands = [
        f"encode --model runs/nope --data {at}",
        f"sample --model runs/nope --out {tmp_path}/out",
        f"reconstruct --model runs/nope --data {at}",
        f"train diffusion --init runs/nope --preset sit-tiny --latents {at}",
        f"train flow --tokenizer runs/nope --data {at}",
        f"bundle --generator runs/nope --tokenizer runs/nope --out {tmp_path}/out",
    ]
    heavy = {"torch", "numpy", "PIL", "huggingface_hub.hf_api"}
    code = WRONG.format(commands=commands, heavy=heavy)
    if offline:
        code = f"import os; os.environ['HF_HUB_OFFLINE'] = '1'\n{code}"
    printed = hub.run(code, tmp_path / "home").splitlines()
    told = "runs/nope is neither a local folder nor a model that the hub would give"
    assert printed == [f"{command.split()[0]} {told}" for command in commands]
    assert not (tmp_path / "out").exists()


def test_a_cache_serves_without_the_hub(caches: Path, tmp_path: Path) -> None:
    # This process is offline (HF_HUB_OFFLINE=1).
    cache = caches / "generator"
    for options in ({}, {"revision": "main"}, {"local_files_only": True}):
        assert LightningDiT.from_pretrained("some/dit", cache_dir=cache, **options).spec.channels == 32
    with pytest.raises(InvalidFile, match=r"model\.fp16\.safetensors"):
        LightningDiT.from_pretrained("some/dit", cache_dir=cache, variant="fp16")
    with pytest.raises(InvalidFile, match="neither a local folder nor a model that the hub would give"):
        load_generator("some/dit", cache_dir=tmp_path, local_files_only=True)


def test_subfolder_and_variant_of_a_local_folder(hub: SmallHub) -> None:
    several = hub.root / "some" / "several"
    whole = LightningDiT.from_pretrained(several, subfolder="inner")
    half = load_generator(several, subfolder="inner", variant="fp16")
    name, weight = next((n, w) for n, w in whole.state_dict().items() if "blocks.0.mlp" in n)
    assert torch.equal(half.state_dict()[name], weight.half().float())
    for wrong in ("absent", "../fae", "/tmp"):
        with pytest.raises(InvalidFile, match=r"does not exist|is not inside"):
            load_generator(several, subfolder=wrong)
    assert FAEEncoder.from_pretrained(BUNDLE, subfolder="tokenizer").spec == load_tokenizer(BUNDLE).spec
    assert load_decoder(BUNDLE, subfolder="tokenizer").spec == FAEDecoder.from_pretrained(BUNDLE).spec


@pytest.mark.parametrize(
    ("load", "option", "meant"),
    [
        (load_generator, "torch_dtype", "dtype"),
        (load_tokenizer, "revison", "revision"),
        (load_decoder, "subfoldr", "subfolder"),
        (FAE.from_pretrained, "devise", "device"),
        (FAEDecoder.from_pretrained, "dtpye", "dtype"),
        (FAEEncoder.from_pretrained, "verfy", "verify"),
        (LightningDiT.from_pretrained, "varient", "variant"),
    ],
)
def test_no_loader_swallows_an_unknown_option(load: Callable[..., Any], option: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown option '{option}'; did you mean {meant}"):
        load(BUNDLE / "generator" if load == LightningDiT.from_pretrained else "cifar10", **{option: None})


PUSH = """
import torch
from fae_core.models.card import Card
from fae_diffusion import LightningDiT
from fae_core import LatentSpec
spec = LatentSpec(4, 4, 4, 32, "timm/vit_tiny")
model = LightningDiT.from_preset("lightningdit-tiny", spec=spec, seed=0, width=16, heads=2, depth=1, classes=2)
for options in (
    dict(card=Card("Trained on clouds.", datasets=["some/clouds"])),
    dict(commit_message="After 80 epochs", private=True, revision="late"),
    dict(create_pr=True),
):
    print(model.push_to_hub("owner/name", token="hf_secretsecretsecretsecret", **options))
"""


def test_an_upload_is_one_commit_with_the_options_given(hub: SmallHub, tmp_path: Path) -> None:
    *_, plain, branched, requested = hub.run(PUSH, tmp_path).split()
    first, second, third = hub.commits
    assert (first["summary"], first["revision"], first["create_pr"]) == ("Upload LightningDiT", "main", False)
    assert plain == branched and plain.startswith(f"{hub.address}/owner/name/commit/")
    assert (second["summary"], second["revision"], second["create_pr"]) == ("After 80 epochs", "late", False)
    assert third["create_pr"] and requested == f"{hub.address}/owner/name/discussions/1"
    made = [body for body in hub.created if body["path"] == "/api/repos/create"]
    # Clients say "private": true or "visibility": "private"; old ones say "private": null of a public one.
    assert [any(value in (True, "private") for value in body.values()) for body in made] == [False, True, False]
    branches = [body["path"] for body in hub.created if body not in made]
    assert branches == ["/api/models/owner/name/branch/late"]
    assert sorted(first["files"]) == ["README.md", *MODEL]
    assert not any(b"hf_secret" in content for content in first["files"].values())
    for name, content in first["files"].items():
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    assert LightningDiT.from_pretrained(tmp_path / "got").config.width == 16
    assert front(tmp_path / "got" / "README.md")["datasets"] == ["some/clouds"]


def front(card: Path) -> dict:
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


def test_a_card_has_what_the_hub_reads_each_tag_once(tmp_path: Path) -> None:
    fae = FAE.from_pretrained(BUNDLE)
    fae.save_pretrained(tmp_path / "fae", card=Card(datasets=["uoft-cs/cifar10"], license="mit"))
    backbone = fae.spec.backbone
    assert front(tmp_path / "fae" / "README.md") == {
        "library_name": "fae",
        "license": "mit",
        "pipeline_tag": "image-to-image",
        "base_model": backbone,
        "datasets": ["uoft-cs/cifar10"],
        "tags": ["fae"],
    }
    tags = {"encoder": "image-feature-extraction", "feature_decoder": "feature-extraction"}
    for part, task in {**tags, "pixel_decoder": "image-to-image"}.items():
        found = front(tmp_path / "fae" / part / "README.md")
        assert (found["pipeline_tag"], found["base_model"]) == (task, backbone)
        assert len(found["tags"]) == len(set(found["tags"]))
    spec = LatentSpec(4, 4, 4, 32, "hf/some/vit")
    sizes = {"width": 16, "heads": 2, "depth": 1, "classes": 2}
    model = LightningDiT.from_preset("lightningdit-tiny", spec=spec, **sizes)
    card = front(model.save_pretrained(tmp_path / "dit") / "README.md")
    assert card["license"] == "apache-2.0" and card["base_model"] == "some/vit" and "datasets" not in card
    assert card["tags"] == ["fae", "lightningdit"] and card["pipeline_tag"] == "unconditional-image-generation"
    from huggingface_hub import ModelCard

    assert ModelCard.load(tmp_path / "dit" / "README.md").data.library_name == "fae"
    assert json.loads((tmp_path / "dit" / "config.json").read_text())["model_type"] == "lightningdit"
