"""What is wrong with captions, labels, and the data of a run to resume is said before torch is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from early_errors import Ending, cases, endings, refused_before_torch
from PIL import Image

from fae_core import LatentSpec
from fae_core.commands.groups import invoke
from fae_core.latent_store import write_store

# Of `images` nothing is known; `labelled` has the classes cat and dog, `birds` the classes crow and owl, `cats` one.
# `store` has the labels 0, 1 and 7, `captioned` two captions a sample; `store-2` and `captioned-2` hold other latents.
# `run`, `run-vae`, `run-live` and `run-text` were begun on `store`, `labelled` twice, and `captioned`.
VAE = "train vae --preset conv-vae-tiny --steps 1 --batch-size 2 --device cpu"
DIT = "train diffusion --preset sit-tiny --steps 1 --batch-size 2 --device cpu"
ENCODE = "encode --model vae --device cpu"
AUTO = "train autoencoder --encoder fae-tiny --preset feature-decoder-tiny --steps 1 --batch-size 2 --device cpu"
PIXEL = "train pixel --encoder fae-tiny --preset pixel-decoder-tiny --steps 1 --batch-size 2 --device cpu"
TEXT = (
    "train diffusion --preset mmdit-tiny --steps 1 --batch-size 2 --device cpu --set training.warmup_steps=0 "
    "--set model.text_encoder.name=org/text --latents"
)
CLIP = "--text-model org/clip"
MISTAKES = {
    "captions": [
        ("encode --data half-captioned --model fae-tiny --out out", "has no caption for 1.png"),
        ("encode --data broken-captions --model fae-tiny --out out", "metadata.jsonl:1 is not a JSON object"),
        (f"eval retrieval --data images --captions absent.jsonl {CLIP}", "describes 9.png, which is not among"),
        (f"eval retrieval --data images --captions broken.jsonl {CLIP}", "broken.jsonl:1 is not a JSON object"),
        (f"eval retrieval --data images --captions coco.json {CLIP}", "coco.json describes none of the images"),
        (f"eval clip-score --samples images --prompts three.txt {CLIP}", "three.txt has 3 prompts for 4 images"),
        (f"eval clip-score --samples images --prompts empty.txt {CLIP}", "empty.txt holds no prompts"),
        (f"eval clip-score --samples images {CLIP}", "images does not say which prompt each image was drawn for"),
        (f"eval clip-score --samples store {CLIP}", "store holds latents"),
        ("eval coco --annotations /nope --images images --out out", "/nope does not exist"),
        ("eval coco --annotations coco.json --images images --count 1 --out out", "images lacks 9.png"),
        ("eval coco --annotations coco.json --images images --count 7 --out out", "7 images with captions are wanted"),
        (f"{TEXT} captioned --caption-weights 1 --out out", "sample 0 has another number of captions (2)"),
        (f"{TEXT} store --caption-weights 1,2 --out out", "store has neither captions nor class names"),
        (f"{TEXT} named --caption-template photo --out out", "a caption template has one {} for the class name"),
        (f"{TEXT} captioned --text-cache images --out out", "images is not a text cache"),
        (f"{TEXT} captioned --set model.text_encoder.name=/nope --out out", "/nope does not exist"),
        (
            f"{TEXT} captioned --set model.text_encoder.name=no_such_t5 --out out",
            "the text encoder no_such_t5 needs a package that is not installed",
        ),
        (f"{TEXT} captioned --set model.pooled_width=4 --out out", "leave model.pooled_width out"),
    ],
    "labels": [
        ("eval probe --model fae --data images", "the images of images have no labels"),
        ("eval probe --model fae --data images --train", "the images of images have no labels"),
        ("eval probe --model fae --data labelled --train --test-images images", "the images of images have no labels"),
        ("eval probe --model fae --data labelled --train --test-images birds", "crow"),
        ("eval probe --model fae --data cats --train", "it needs images of two, and cats has 1 to train on"),
        ("eval probe --model fae --data two --train", "2 images are too few to hold out 25%"),
        (
            "eval probe --model fae --data labelled --pool avg --head broken.jsonl",
            "pool is for the backbone's own head",
        ),
        (f"{DIT} --latents store --set model.classes=3 --out out", "has the label 7 (sample 2, 1 in all)"),
        (f"{DIT} --latents from-three --out out", "the smallest label is 3"),
        (
            f"{DIT} --data labelled --tokenizer vae --set model.classes=1 --out out",
            "labelled has the label 1 (sample 2",
        ),
        (f"{DIT} --latents unfinished --out out", "unfinished is not finished: run the command that wrote it again"),
        (f"{DIT} --latents damaged --out out", "damaged/index.json"),
    ],
    "images": [
        (f"{VAE} --data nothing --out out", "nothing holds no images: it is empty"),
        ("eval generation --samples nothing --reference images", "nothing holds no images: it is empty"),
        ("eval generation --samples images --reference nothing", "nothing holds no images: it is empty"),
        ("eval frechet --samples images --reference nothing", "nothing holds no images: it is empty"),
    ],
    "resumed": [
        (f"{ENCODE} --data images --resume --out encoded", "encoded was begun with source '4 images"),
        (f"{ENCODE} --data labelled[:3] --resume --out encoded", "encoded was begun with source '4 images"),
        (f"{VAE} --data images --resume --out run-vae", "run-vae was started on other images (content "),
        (f"{VAE} --data labelled[:3] --resume --out run-vae", "run-vae was started on other images (content "),
        (f"{DIT} --latents store-2 --resume --out run", "run was started on other latents (content "),
        (f"{DIT} --latents wide --resume --out run", "run was started on the first and is given the second"),
        (f"{DIT} --data images --tokenizer vae --resume --out run-live", "run-live was started on other latents"),
        (f"{TEXT} captioned-2 --resume --out run-text", "run-text was started on other captions (content "),
    ],
    "other settings": [
        (f"{VAE} --data labelled --seed 9 --resume --out run-vae", "(training.seed: 0 then, 9 now); use a new --out"),
        (f"{VAE} --data labelled --set model.blocks=2 --resume --out run-vae", "model.blocks: 1 then, 2 now"),
        (f"{VAE} --data labelled --set vae.beta=0.5 --resume --out run-vae", "vae.beta: "),
        (f"{DIT} --latents store --set model.classes=9 --resume --out run", "model.classes: 8 then, 9 now"),
        (f"{DIT} --latents store --set model.depth=3 --resume --out run", "model.depth: "),
        (f"{DIT} --latents store --preset lightningdit-tiny --resume --out run", "model_type: 'sit' then, 'lightn"),
        ("train flow --preset starflow-tiny --latents store --resume --out run", "command: 'fae train diffusion' then"),
        (f"{DIT} --latents store --resume --out run-vae", "command: 'fae train vae' then"),
        (f"{AUTO} --data labelled --set encoder.channels=16 --resume --out run-auto", "encoder.channels: "),
        (f"{AUTO} --data labelled --set model.depth=9 --resume --out run-auto", "model.depth: "),
        (f"{AUTO} --data labelled --set autoencoder.beta=0.5 --resume --out run-auto", "autoencoder.beta: "),
        (f"{AUTO} --encoder fae-lite0-32 --data labelled --resume --out run-auto", "encoder.backbone.name: "),
        (f"{PIXEL} --data labelled --set noise.sigma=0.9 --resume --out run-pixel", "noise.sigma: "),
        (f"{PIXEL} --data labelled --set model.depth=9 --resume --out run-pixel", "model.depth: "),
    ],
}


def write_images(folder: str, names: list[str]) -> None:
    for number, name in enumerate(names):
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (len(folder) * 9, number * 50, 0)).save(Path(folder, name))


def write_data() -> None:
    """Write images, captions and stores into the current folder."""
    write_images("images", [f"{number}.png" for number in range(4)])
    write_images("labelled", ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"])
    write_images("birds", ["crow/0.png", "owl/1.png"])
    write_images("cats", ["cat/0.png", "cat/1.png", "cat/2.png"])
    write_images("two", ["cat/0.png", "dog/1.png"])
    for name, line in (("half-captioned", '{"file_name": "0.png", "caption": "x"}'), ("broken-captions", "x")):
        write_images(name, ["0.png", "1.png"])
        Path(name, "metadata.jsonl").write_text(f"{line}\n")
    Path("nothing").mkdir()
    Path("absent.jsonl").write_text('{"image": "9.png", "caption": "x"}\n')
    Path("broken.jsonl").write_text("x\n")
    annotations = {
        "images": [{"id": 1, "file_name": "9.png"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "x"}],
    }
    Path("coco.json").write_text(json.dumps(annotations))
    Path("three.txt").write_text("a\nb\nc\n")
    Path("empty.txt").write_text("\n")
    spec = LatentSpec(8, 8, 8, 32, "toy/backbone", fingerprint="toy")
    zeros, ones = torch.zeros(3, 8, 8, 8), torch.ones(3, 8, 8, 8)
    captions = ["a\x1eb", "c\x1ed", "e\x1ef"]
    write_store("store", spec, zeros, labels=[0, 1, 7])
    write_store("store-2", spec, ones, labels=[0, 1, 7])
    write_store("from-three", spec, zeros, labels=[3, 4, 5])
    write_store("named", spec, zeros, labels=[0, 1, 0], classes=["cat", "dog"])
    write_store("wide", LatentSpec(8, 8, 8, 64, "toy/backbone", fingerprint="toy"), zeros, labels=[0, 1, 7])
    write_store("captioned", spec, zeros, captions=captions)
    write_store("captioned-2", spec, zeros, captions=captions[::-1])
    shutil.copytree("store", "damaged")
    index = Path("damaged/index.json")
    index.write_text(index.read_text().replace('"count":3', '"count":4'))
    Path("unfinished/.progress").mkdir(parents=True)


def begin_runs() -> None:
    """Train a VAE, and what is begun on each kind of data."""
    invoke([*VAE.split(), "--data", "labelled", "--out", "run-vae"])
    shutil.copytree("run-vae/model", "vae")
    invoke([*ENCODE.split(), "--data", "labelled", "--out", "encoded"])
    invoke([*AUTO.split(), "--data", "labelled", "--out", "run-auto"])
    invoke([*PIXEL.split(), "--data", "labelled", "--out", "run-pixel"])
    invoke([*DIT.split(), "--latents", "store", "--out", "run"])
    invoke([*DIT.split(), "--data", "labelled", "--tokenizer", "vae", "--out", "run-live"])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ending]]:
    from fae_decoders import FAE, FeatureDecoder
    from fae_decoders.fae.feature_space import FeatureSpace
    from fae_encoder import FAEEncoder

    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        write_data()
        begin_runs()
        encoder = FAEEncoder.from_preset("fae-tiny", seed=0)
        encoder.stamp()
        space = FeatureSpace.of(encoder)
        decoder = FeatureDecoder.from_preset("feature-decoder-tiny", spec=encoder.spec, features=space, seed=0)
        FAE(encoder, decoder).save_pretrained("fae")
        # Training on captions needs a text encoder; what a run of it records is enough here.
        from fae_diffusion.text.training import captions_hash

        Path("run-text").mkdir()
        recorded = {"identity": {"captions": captions_hash(["a\x1eb", "c\x1ed", "e\x1ef"])}}
        Path("run-text/config.yaml").write_text(json.dumps(recorded))
        yield endings(MISTAKES, folder)


@pytest.mark.parametrize(("command", "said"), cases(MISTAKES))
def test_wrong_captions_labels_and_data_are_refused_before_torch_is_loaded(
    command: str, said: str, found: dict[str, Ending]
) -> None:
    refused_before_torch(found[command], said)
