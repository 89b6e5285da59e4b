"""What is wrong with a command's places, names and settings is said before torch is loaded, which takes longer than all
else."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import early_errors
import pytest
import torch
from early_errors import Ending, cases, endings, refused_before_torch, run_all
from PIL import Image

from fae_core import LatentSpec
from fae_core.latent_store import write_store

PREVIEW = "--set training.preview_every=1 --set preview.decoder"
# `images` is a folder of two images, `latents` a latent store.
MISTAKES = {
    "places": [
        ("encode --data /nope --out encoded", "/nope does not exist"),
        ("encode --data images --model /nope --out encoded", "/nope does not exist"),
        ("encode --data images --features /nope --out encoded", "/nope is not a latent store"),
        ("encode --data images --survey /nope --out encoded", "/nope does not exist"),
        ("encode --data images --split test --out encoded", "has no split"),
        ("encode --data images --out images", "images exists"),
        ("sample --model cifar11 --out samples", "cifar11 does not exist"),
        ("sample --model images --out samples", "is not a bundle"),
        ("sample --generator /nope --decoder cifar10 --out samples", "/nope does not exist"),
        ("sample --generator cifar10 --decoder /nope --out samples", "/nope does not exist"),
        ("sample --model cifar10 --prompts /nope --out samples", "/nope does not exist"),
        ("sample --model cifar10 --out images", "images exists"),
        ("reconstruct --data /nope --model cifar10 --out out", "/nope does not exist"),
        ("reconstruct --data images --model nope --out out", "nope does not exist"),
        ("reconstruct --data images --model cifar10 --out images", "images exists"),
        ("train autoencoder --data /nope[:10] --out run", "/nope does not exist"),
        ("train autoencoder --data images --out images", "images exists"),
        ("train pixel --data images --autoencoder /nope --out run", "/nope does not exist"),
        ("train vae --data /nope --out run", "/nope does not exist"),
        ("train vae --data /nope --preset conv-vae-tiny --set training.steps=5 --out run", "/nope does not exist"),
        ("train diffusion --latents /nope --out run", "/nope is not a latent store"),
        ("train diffusion --latents images --steps 5 --out run", "images is not a latent store"),
        ("train diffusion --latents latents --config /nope.yaml --out run", "/nope.yaml does not exist"),
        (f"train diffusion --latents latents {PREVIEW}=/nope --out run", "/nope does not exist"),
        ("train diffusion --latents latents --out images", "images exists"),
        ("train flow --data /nope --tokenizer cifar10 --out run", "/nope does not exist"),
        ("train flow --data images --tokenizer /nope --out run", "/nope does not exist"),
        ("assemble --pixel /nope --autoencoder /nope --out fae", "/nope does not exist"),
        ("bundle --tokenizer /nope --generator cifar10 --out bundle", "/nope does not exist"),
        ("bundle --tokenizer cifar10 --generator cifar10 --out images", "images exists"),
        ("crops /nope --out crops", "/nope does not exist"),
        ("check /nope --out survey.json", "/nope does not exist"),
        ("import sit /nope.pt --out model", "/nope.pt does not exist"),
        ("import starflow /nope.pth --config /nope.yaml --out model", "does not exist"),
        ("import rae /nope.pt --out model", "/nope.pt does not exist"),
        ("import autoencoder-kl /nope --out model", "/nope does not exist"),
        ("eval generation --samples /nope --reference images", "/nope does not exist"),
        ("eval generation --samples fake=/nope --reference images", "/nope does not exist"),
        ("eval generation --samples images --reference /nope", "/nope does not exist"),
        ("eval generation --samples images --reference images --floor /nope", "/nope does not exist"),
        ("eval generation --samples images --reference images --weights /nope", "/nope does not exist"),
        ("eval generation --generator cifar10 --decoder /nope --reference images", "/nope does not exist"),
        ("eval convergence --samples 1=/nope --reference images", "/nope does not exist"),
        ("eval guidance-search --generator /nope --decoder cifar10 --reference images", "/nope does not exist"),
        ("eval probe --model /nope --data images", "/nope does not exist"),
        ("eval similarity --data /nope --model cifar10 --out out", "/nope does not exist"),
        ("eval clip-score --samples /nope --text-model clip", "/nope does not exist"),
        ("eval retrieval --data images --captions /nope --text-model clip", "/nope does not exist"),
        ("eval report /nope", "/nope does not exist"),
        ("demo --data /nope --out demo", "/nope does not exist"),
        ("info images", "holds no model"),
        ("explore --model cifar11", "cifar11 does not exist"),
        ("explore --model cifar10 --generator /nope", "/nope does not exist"),
        ("explore --data /nope", "/nope does not exist"),
    ],
    "names": [
        ("encode --data images --model fae-lite0-23 --out encoded", "did you mean fae-lite0-32"),
        ("encode --data images --dtype float61 --out encoded", "dtype: Input should be"),
        ("sample --model cifar10 --sampling fsat --out samples", "'paper-guided', 'paper-unguided'"),
        (
            "train autoencoder --data images --preset feature-decoder-1535 --out run",
            "did you mean feature-decoder-1536",
        ),
        ("train autoencoder --data images --encoder fae-tine --out run", "did you mean fae-tiny"),
        ("train diffusion --latents latents --preset lightningdit-lx --out run", "did you mean lightningdit-"),
        ("train diffusion --latents latents --track wandbb --out run", "did you mean wandb"),
        ("train flow --latents latents --preset sit-xl --out run", "unknown starflow preset 'sit-xl'"),
        ("bundle --tokenizer cifar10 --generator cifar10 --dtype float61 --out b", "did you mean float"),
        ("eval generation --samples images --reference images --metrics fdi", "unknown metric 'fdi'"),
        ("eval generation --samples images --reference images --extractor incepton", "did you mean inception"),
        ("info sit-lx", "did you mean sit-"),
        ("config sit-lx", "did you mean sit-"),
        ("presets sitt", "did you mean sit"),
        ("sampel", "did you mean sample"),
    ],
    "settings": [
        ("encode --data images --set encoder.chanels=8 --out encoded", "did you mean channels"),
        ("encode --data images --set encoder.channels=-8 --out encoded", "channels: Input should be greater than 0"),
        ("encode --data images --set encoder.backbone.wieghts=pip --out encoded", "did you mean weights"),
        (
            "sample --model cifar10 --set stpes=4 --out samples",
            "unknown sampling option 'stpes' of LightningDiT; did you mean steps",
        ),
        ("sample --model cifar10 --set steps=many --out samples", "steps: Input should be a valid integer"),
        ("train diffusion --latents latents --set model.wdith=8 --out run", "did you mean width"),
        ("train diffusion --latents latents --set model.width=7 --set model.heads=1 --out run", "not a multiple of 4"),
        ("train diffusion --latents latents --preset mmdit-tiny --set model.heads=3 --out run", "not a multiple of 3"),
        ("train diffusion --latents latents --set training.stesp=8 --out run", "did you mean steps"),
        (
            f"train diffusion --latents latents {PREVIEW}=cifar10 --set preview.options.stpes=8 --out run",
            "stpes",
        ),
        ("train diffusion --latents latents --caption-weights a,b --out run", "caption weights are numbers"),
        ("train diffusion --latents latents --flip --out run", "--flip is for --data"),
        ("train flow --latents latents --set model.blokcs=8 --out run", "blokcs"),
        ("train vae --data images --image-size 33 --out run", "not a multiple of the stride"),
        ("train vae --data images --set vae.losses.l1=-1 --out run", "losses.l1: Input should be"),
        ("train autoencoder --data images --set autoencoder.btea=1 --out run", "did you mean beta"),
        ("train autoencoder --data images --set encoder.channels=-8 --out run", "channels: Input should be"),
        ("train pixel --data images --encoder fae-tiny --set noise.sigma=-1 --out run", "sigma: Input should be"),
        ("train pixel --data images --encoder fae-tiny --set model.width=-8 --out run", "width: Input should be"),
        ("train pixel --data images --stage finetune --out run", "needs --autoencoder"),
        ("import sit images --set model.clases=3 --out model", "did you mean classes"),
        ("eval guidance-search --generator cifar10 --decoder cifar10 --reference images --set stpes=4", "stpes"),
        ("eval guidance-search --generator cifar10 --decoder cifar10 --reference images --low 3 --high 2", "0 scales"),
        ("eval sampling-grid --generator cifar10 --decoder cifar10 --reference images --vary stpes=4", "stpes"),
    ],
    "ports": [
        ("explore --port 70000", "Invalid value for '--port'"),
    ],
    "devices": [
        ("sample --model cifar10 --device gpu --out samples", "unknown device 'gpu'"),
        ("train vae --data images --device cuda:x --out run", "unknown device 'cuda:x'"),
    ],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "images").mkdir()
    write_store(folder / "latents", LatentSpec(4, 4, 4, image_size=32, backbone="none"), torch.zeros(2, 4, 4, 4))
    for number in range(2):
        Image.new("RGB", (48, 48), (number * 90, 0, 0)).save(folder / "images" / f"{number}.png")
    return endings(MISTAKES, folder)


@pytest.mark.parametrize(("command", "said"), cases(MISTAKES))
def test_mistakes_are_found_before_torch_is_loaded(command: str, said: str, found: dict[str, Ending]) -> None:
    refused_before_torch(found[command], said)


def test_a_page_that_cannot_be_opened_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra fae-eval[ui] is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        used = f"explore --model cifar10 --port {port}"
        elsewhere = "explore --model cifar10 --host 192.0.2.1 --port 0"
        found = run_all([used, elsewhere], tmp_path)
    for command, said in (
        (used, f"port {port} of 127.0.0.1 is in use"),
        (elsewhere, "--host 192.0.2.1 is no address of this machine"),
    ):
        status, printed, loaded = found[command]
        assert said in printed and (status, loaded) == (2, [])


def test_a_page_without_gradio_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "explore --model cifar10"
    monkeypatch.setattr(early_errors, "PROGRAM", "import sys\nsys.modules['gradio'] = None\n" + early_errors.PROGRAM)
    status, printed, loaded = run_all([command], tmp_path)[command]
    assert (status, loaded) == (2, []) and printed.count("\n") == 1
    assert "fae explore needs a package that is not installed: pip install" in printed and "fae-eval[ui]" in printed


def test_a_gpu_that_cannot_be_there_is_refused_without_torch(tmp_path: Path) -> None:
    from fae_core.machine import has_driver

    if has_driver():
        pytest.skip("this machine has the driver of a GPU")
    command = "sample --model cifar10 --device cuda:1 --out samples"
    status, printed, loaded = run_all([command], tmp_path)[command]
    assert (status, loaded) == (2, []) and "sees no GPU; pass --device cpu" in printed


HELP = ["--help", "--version", "presets", "train diffusion --help", "encode --help", "eval generation --help"]


def test_help_and_lists_load_no_torch(tmp_path: Path) -> None:
    for command, (status, _, loaded) in run_all([*HELP, "config pixel-decoder-l"], tmp_path).items():
        assert (status, loaded) == (0, []), command


def test_only_what_saves_loads_torchs_checkpoints(tmp_path: Path) -> None:
    status, _, loaded = run_all(["info sit-tiny"], tmp_path)["info sit-tiny"]
    assert (status, loaded) == (0, ["torch"])


@pytest.mark.parametrize(("option", "said"), [([], "loading torch ...\n"), (["--json"], ""), (["--quiet"], "")])
def test_the_import_of_torch_is_announced(option: list[str], said: str) -> None:
    command = [sys.executable, "-m", "fae_core.cli.main", "info", "sit-tiny", *option]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == said and "loading" not in done.stdout


def test_options_of_sample_that_are_checked_early_are_those_of_the_model() -> None:
    import inspect

    from fae_core.models.sample_options import check_options
    from fae_core.plugins import load_plugins

    configs = load_plugins("fae.configs")
    declared = {name.removesuffix(".sample"): configs[name].load() for name in configs if name.endswith(".sample")}
    assert declared.keys() == {"sit", "lightningdit", "mmdit", "starflow"}
    for model_type, config_class in declared.items():
        model = load_plugins("fae.generators")[model_type].load()
        own = {name for name in inspect.signature(model.sample).parameters if name not in ("self", "condition")}
        own -= {"noise", "random", "observe", "options"}
        taken = own | set(getattr(model, "sample_config", config_class).model_fields)
        assert set(config_class.model_fields) == taken, model_type
        check_options(model, {"guidance": 1.0})


def test_every_class_of_settings_is_the_model_s_own() -> None:
    from fae_core.plugins import load_plugins

    configs = {name: point for name, point in load_plugins("fae.configs").items() if not name.endswith(".sample")}
    models = load_plugins("fae.models")
    assert configs.keys() == models.keys() - {"fae"}
    for name, point in configs.items():
        assert models[name].load().config_class is point.load(), name
