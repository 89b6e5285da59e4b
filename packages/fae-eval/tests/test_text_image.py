"""CLIP scores and retrieval with small random models, loaded as published ones, against their own forward."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import LatentSpec
from fae_core.commands.groups import invoke
from fae_core.errors import DataError, FAEError, InvalidFile

transformers = pytest.importorskip("transformers", reason="the extra fae-eval[text] is not installed")

from fae_eval.data.captions import paired_captions, prompts_of  # noqa: E402
from fae_eval.extractors.two_towers import TwoTowers  # noqa: E402
from fae_eval.studies.text_image import evaluate_clip_score, evaluate_retrieval  # noqa: E402

WORDS = ["a", "red", "green", "blue", "dark", "square", "photo", "of", "A", "Red"]
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8}
PROMPTS = ["a red square", "a green square", "a photo of a blue square", "a dark photo", "green", "blue of red"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP folder with the files that published ones have."""
    folder = tmp_path_factory.mktemp("clip")
    letters = sorted({letter for word in WORDS for letter in word.lower()})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 40, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)  # fmt: skip
    text = {**TOWER, "vocab_size": len(tokens), "max_position_embeddings": 40}
    text |= {"eos_token_id": tokens.index("<|endoftext|>"), "bos_token_id": tokens.index("<|startoftext|>")}
    config = transformers.CLIPConfig(text_config=text, vision_config={**TOWER, **IMAGE}, projection_dim=12)
    return saved(transformers.CLIPModel, config, folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A SigLIP folder whose tokenizer minds case, as the one that SigLIP2 shares with Gemma."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("siglip")
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    text = {**TOWER, "vocab_size": len(vocabulary), "max_position_embeddings": 64, "projection_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config={**TOWER, **IMAGE})
    return saved(transformers.SiglipModel, config, folder)


def saved(model_class, config, folder):
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():  # fresh towers are nearly constant
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of several shapes."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        coarse = random.integers(0, 256, (3, 3, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((24 + 4 * i, 24), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def by_hand(folder, pictures, texts):
    """(cosines (images, texts)) from the model's own forward on its processor's inputs."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    images = [Image.open(path).convert("RGB") for path in sorted(pictures.glob("*.png"))]
    inputs = dict(processor.image_processor(images=images, return_tensors="pt"))
    words = processor.tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
    wanted = ["input_ids"] if model.config.model_type == "siglip" else ["input_ids", "attention_mask"]
    with torch.no_grad():
        output = model(**inputs, **{name: words[name] for name in wanted})
    return output.image_embeds @ output.text_embeds.T


def square(pictures, tmp_path):
    """The same pictures with one size, for sample folders."""
    folder = tmp_path / "square"
    folder.mkdir()
    for path in sorted(pictures.glob("*.png")):
        Image.open(path).resize((20, 20)).save(folder / path.name)
    return folder


def test_clip_score_is_the_mean_of_positive_cosines_of_the_models_own_forward(clip, siglip, pictures, tmp_path):
    samples = square(pictures, tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    for folder, name in ((clip, "CLIP score"), (siglip, "SigLIP score")):
        cosines = by_hand(folder, samples, PROMPTS).diagonal()
        result = evaluate_clip_score(samples, str(folder), prompts=tmp_path / "prompts.txt", batch_size=4, device="cpu")
        assert result.values[name] == pytest.approx(100 * cosines.clamp_min(0).mean().item(), abs=1e-3)
        assert (cosines < 0).any() or name == "CLIP score"  # so that the clamp matters somewhere
        assert result.provenance["model"]["weights"]


def test_prompts_come_from_the_sample_folder_and_have_to_fit(clip, pictures, tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    square(pictures, tmp_path).rename(folder / "images")
    record = {"job": {"prompts": PROMPTS[:2]}, "labels": [0, 1, 1, 0, 1, 0]}
    (folder / "samples.json").write_text(json.dumps(record))
    model = TwoTowers(str(clip))
    named = [PROMPTS[label] for label in record["labels"]]
    read = prompts_of(str(folder), 6, None)
    found = [evaluate_clip_score(folder, model, prompts=prompts) for prompts in (None, named, read)]
    assert found[0].values["CLIP score"] == pytest.approx(found[1].values["CLIP score"], abs=1e-6)
    assert found[2].values == found[0].values
    assert [one.provenance["prompts"] for one in found] == ["of the samples", "a list", "of the samples"]
    (tmp_path / "p.txt").write_text("\n".join(named))
    models = ["--text-model", str(clip), "--device", "cpu"]
    words = ["--samples", str(folder), "--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "score.json")]
    invoke(["eval", "clip-score", *models, *words])
    stored = json.loads((tmp_path / "score.json").read_text())
    assert stored["values"]["CLIP score"] == pytest.approx(found[0].values["CLIP score"], abs=1e-3)
    assert stored["provenance"]["prompts"] == str(tmp_path / "p.txt")
    with pytest.raises(DataError, match="give --prompts"):
        evaluate_clip_score(folder / "images", model)
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="2 prompts for 6 images"):
        evaluate_clip_score(folder, model, prompts=tmp_path / "p.txt")
    with pytest.raises(DataError, match="a list has 1 prompts for 6 images"):
        evaluate_clip_score(folder, model, prompts=PROMPTS[:1])


def test_latents_are_scored_as_the_images_that_their_decoder_makes(clip, pictures, tmp_path):
    """The command, with a store of the bundle's latents; images take no decoder, and latents none but theirs."""
    pytest.importorskip("fae_decoders", reason="fae-decoders, which decodes the bundle, is not installed")
    from fae_core import load_tokenizer
    from fae_core.images import load_batch, open_images
    from fae_core.latent_store import write_store

    tokenizer = load_tokenizer("cifar10")
    images = load_batch(open_images(square(pictures, tmp_path)), range(6), tokenizer.spec.image_size)
    with torch.no_grad():
        store = write_store(tmp_path / "latents", tokenizer.spec, tokenizer.encode(images))
        decoded = tokenizer.decode(store.read(range(6))[0])
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    words = ["eval", "clip-score", "--text-model", str(clip), "--device", "cpu", "--prompts", str(tmp_path / "p.txt")]
    out = tmp_path / "score.json"
    invoke([*words, "--samples", str(store.folder), "--decoder", "cifar10", "--out", str(out)])
    found = json.loads(out.read_text())["values"]["CLIP score"]
    wanted = evaluate_clip_score(decoded.clamp(0, 1), TwoTowers(str(clip)), prompts=PROMPTS)
    assert found == pytest.approx(wanted.values["CLIP score"], abs=1e-2)
    for given, message in (
        ([str(store.folder)], "holds latents"),
        ([str(tmp_path / "square"), "--decoder", "cifar10"], "--samples are images"),
    ):
        with pytest.raises(FAEError, match=message):
            invoke([*words, "--samples", *given])


def test_siglip_reads_lower_case_and_all_of_its_padding(siglip):
    model = TwoTowers(str(siglip))
    assert model.text_length == 64
    lower, title = model.embed_texts(["a red square", "A Red SQUARE"])
    assert torch.equal(lower, title)  # the tokenizer itself tells the two apart
    ids = model.processor.tokenizer(
        ["a red square"], padding="max_length", max_length=64, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        output = model.model.text_model(input_ids=ids).pooler_output
    assert torch.allclose(lower, torch.nn.functional.normalize(output, dim=-1)[0], atol=1e-6)


class ThroughLatents:
    """An FAE on the SigLIP tower: features are its tokens; what is rebuilt from latents keeps only their mean."""

    def __init__(self, folder):
        vision = transformers.AutoModel.from_pretrained(folder).eval().vision_model
        self.spec = LatentSpec(16, 1, 1, 16, "test/siglip", fingerprint="feed")

        def features(images):
            return vision(pixel_values=images * 2 - 1).last_hidden_state

        backbone = SimpleNamespace(embed=vision.head)
        self.encoder = SimpleNamespace(features=features, backbone=backbone, feature_norm=None)

    def encode(self, images):
        return self.encoder.features(images).mean(1)[..., None, None]

    def features(self, z):
        return z.flatten(2).transpose(1, 2).expand(-1, 4, -1)


def test_retrieval_both_ways_and_through_latents(siglip, pictures, tmp_path):
    texts = [text for text in PROMPTS for _ in range(2)]
    texts[1::2] = [f"photo of {text}" for text in PROMPTS]
    lines = [{"image": f"{i // 2}.png", "caption": text} for i, text in enumerate(texts)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = evaluate_retrieval(
        pictures, tmp_path / "c.jsonl", str(siglip), tokenizer=ThroughLatents(siglip), batch_size=4, device="cpu"
    )
    cosines, owner = by_hand(siglip, pictures, texts), torch.arange(12) // 2
    image_to_text = (owner[cosines.argmax(1)] == torch.arange(6)).double().mean().item()
    text_to_image = (cosines.argmax(0) == owner).double().mean().item()
    rows = {row[0]: dict(zip(result.table["columns"], row, strict=True)) for row in result.table["rows"]}
    assert set(rows) == {"the model itself", "original features", "rebuilt features"}
    for name in ("the model itself", "original features"):
        assert rows[name]["image to text R@1"] == pytest.approx(image_to_text)
        assert rows[name]["text to image R@1"] == pytest.approx(text_to_image)
        assert rows[name]["text to image R@10"] == 1  # six images
    assert rows["the model itself"]["texts"] == 12


def test_captions_of_coco_and_of_json_lines(pictures, tmp_path):
    from fae_core.images import open_images

    source = open_images(pictures)
    coco = {
        "images": [
            {"id": 7, "file_name": "3.png"},
            {"id": 8, "file_name": "absent.png"},
            {"id": 9, "file_name": "1.png"},
        ],
        "annotations": [
            {"id": 2, "image_id": 7, "caption": "three\n"},
            {"id": 1, "image_id": 9, "caption": " one  "},
            {"id": 3, "image_id": 8, "caption": "nowhere"},
            {"id": 4, "image_id": 7, "caption": "three again"},
        ],
    }  # fmt: skip
    (tmp_path / "captions_val.json").write_text(json.dumps(coco))
    found = paired_captions(source, tmp_path / "captions_val.json")
    assert found[:3] == ([1, 3], ["one", "three", "three again"], [0, 1, 1])
    (tmp_path / "c.jsonl").write_text('{"image": "absent.png", "caption": "x"}\n')
    with pytest.raises(DataError, match=r"absent\.png"):
        paired_captions(source, tmp_path / "c.jsonl")
    (tmp_path / "d.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match="JSON object"):
        paired_captions(source, tmp_path / "d.jsonl")


def test_models_without_two_towers_are_refused(siglip, tmp_path):
    with pytest.raises(InvalidFile, match="transformers can read"):
        TwoTowers(str(tmp_path))
    with pytest.raises(FAEError, match="dimensions"):
        broken = ThroughLatents(siglip)
        broken.encoder.backbone.embed = lambda features: features.mean(1)[:, :5]
        pictures = tmp_path / "p"
        pictures.mkdir()
        Image.new("RGB", (16, 16)).save(pictures / "0.png")
        (tmp_path / "c.jsonl").write_text('{"image": "0.png", "caption": "a"}\n')
        evaluate_retrieval(pictures, tmp_path / "c.jsonl", str(siglip), tokenizer=broken, device="cpu")


def test_towers_that_are_no_safetensors_or_lack_weights_are_refused(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(clip, tmp_path / "clip"))
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "logit_scale"}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidFile, match="lacks weights, such as logit_scale"):
        TwoTowers(str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InvalidFile, match="in safetensors"):
        TwoTowers(str(folder))
