"""Every stage, encoding, sampling and evaluation in two processes gives what one process gives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_group import launcher
from PIL import Image
from safetensors.torch import load_file

from fae_core import LatentStore
from fae_core.training.journal import read_metrics

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("whole_line.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# What a stage takes comes from the line of one process, so that differences do not add up from stage to stage.
BRIEF = "--steps 2 --batch-size 4 --device cpu --set training.log_every=1 --set training.learning_rate=0.0001"
LINE = {
    "autoencoder": "train autoencoder --data {data} --preset feature-decoder-tiny "
    "--set encoder.standardize_features=true",
    "noise": "train pixel --stage noise --data {data} --autoencoder {one}/autoencoder --preset pixel-decoder-tiny",
    "fae": "train pixel --stage finetune --data {data} --autoencoder {one}/autoencoder --init {one}/noise "
    "--preset pixel-decoder-tiny --set finetune.losses.adversarial=patchgan",
    "vae": "train vae --data {data} --preset conv-vae-tiny",
    "latents": "encode --data {data} --model {one}/fae --dtype float32 --shard-size 5 --device cpu",
    "diffusion": "train diffusion --latents {one}/latents --preset lightningdit-tiny",
    "flow": "train flow --latents {one}/latents --preset starflow-tiny",
    "samples": "sample --generator {one}/diffusion --decoder {one}/fae --count 7 --batch-size 2 --device cpu",
    "flow-samples": "sample --generator {one}/flow --decoder {one}/fae --count 5 --batch-size 2 --device cpu",
    "eval": "eval reconstruction --model {one}/fae --data {data} --no-frechet --batch-size 3 --device cpu",
}
TEXT = (
    "train diffusion --preset mmdit-tiny --latents {one}/latents --set model.text_encoder.name={t5} "
    "--set model.text_width=16 --set model.width=16 --set model.heads=2 --set training.warmup_steps=0 "
    "--text-cache {own}/captions"
)
STAGES = ("autoencoder", "noise", "fae", "vae", "diffusion", "flow", "text")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The smallest text encoder, on a sentencepiece model of its own; None without the extra that it needs."""
    try:
        import google.protobuf  # noqa: F401
        import sentencepiece
        import transformers
    except ImportError:
        return None
    folder = tmp_path_factory.mktemp("t5")
    (folder / "corpus.txt").write_text("a photo of a dark thing\na photo of a light thing\na large picture\n" * 9)
    options = {"vocab_size": 40, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spiece"), minloglevel=2, **options
    )
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 160}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, t5: Path | None) -> dict[int, Path]:
    """The whole line in one process and in two: {1: folder, 2: folder}."""
    root = tmp_path_factory.mktemp("lines")
    chance = np.random.default_rng(0)
    for i in range(11):
        folder = root / "data" / ("dark", "light")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 128, (64, 64, 3)) + 127 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
    for processes in (1, 2):
        own = root / str(processes)
        own.mkdir()
        places = {"data": root / "data", "one": root / "1", "own": own, "t5": t5}
        line = LINE if t5 is None else {**LINE, "text": TEXT}
        commands = [
            [*template.format(**places).split(), "--out", str(own / name), *(BRIEF.split() if name in STAGES else [])]
            for name, template in line.items()
        ]
        (own / "commands.json").write_text(json.dumps(commands))
        command = [*launcher(processes), str(PROGRAM), str(own / "commands.json")]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return {processes: root / str(processes) for processes in (1, 2)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_losses_and_weights_of_one_process(stage: str, lines: dict[int, Path], t5: Path | None) -> None:
    if stage == "text" and t5 is None:
        pytest.skip("the extra fae-diffusion[text] is not installed")
    one, two = (read_metrics(lines[n] / stage) for n in (1, 2))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [1, 2]
    losses = [name for name in one[0] if name == "loss" or name.endswith("/loss")]
    assert losses
    for name in losses:
        assert [row[name] for row in one] == pytest.approx([row[name] for row in two], abs=1e-6, rel=1e-6), name
    files = sorted(path.relative_to(lines[1] / stage) for path in (lines[1] / stage / "model").rglob("*.safetensors"))
    assert files
    for file in files:
        first, second = (load_file(lines[n] / stage / file) for n in (1, 2))
        assert first.keys() == second.keys()
        for name in first:
            # AdamW's first steps are as long for a gradient of pure rounding as for any other: 2 of 1e-4.
            torch.testing.assert_close(first[name], second[name], atol=4e-4, rtol=0, msg=f"{file}: {name}")


def test_two_processes_write_the_same_store(lines: dict[int, Path]) -> None:
    one, two = (LatentStore(lines[n] / "latents") for n in (1, 2))
    assert len(one) == 11 and one.index == two.index and one.spec == two.spec
    two.verify()


@pytest.mark.parametrize(("folder", "count"), [("samples", 7), ("flow-samples", 5)])
def test_two_processes_draw_the_same_pictures(folder: str, count: int, lines: dict[int, Path]) -> None:
    one, two = (sorted((lines[n] / folder / "images").glob("*.png")) for n in (1, 2))
    assert [path.name for path in one] == [path.name for path in two] and len(one) == count
    for first, second in zip(one, two, strict=True):
        a, b = (np.asarray(Image.open(path)).astype(int) for path in (first, second))
        assert np.abs(a - b).max() <= 1  # a batch of another size may round the other way


def test_two_processes_measure_the_same(lines: dict[int, Path]) -> None:
    one, two = (json.loads(next((lines[n] / "eval").rglob("*.json")).read_text())["values"] for n in (1, 2))
    assert one == pytest.approx(two, rel=1e-6) and one
