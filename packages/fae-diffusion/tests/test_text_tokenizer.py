"""T5's ids are those of sentencepiece, all of a caption is text; a folder that would be read differently is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fae_core.errors import FAEError, InvalidFile
from fae_diffusion.text.encoder import TextEncoder

transformers = pytest.importorskip("transformers", reason="the extra fae-diffusion[text] is not installed")
sentencepiece = pytest.importorskip("sentencepiece", reason="the extra fae-diffusion[text] is not installed")

PROMPTS = [
    *(
        "a photo of the dog",
        "a photo of 犬",
        "a photo of 猫",
        "a Zebra",
        "ＡＢＣ １",
        "é e\u0301",
        "①",
        "\U0001f415",
        "",
    ),
    *("two  spaces", " in front", "behind ", "   ", "a\ttab", "a\nline", "\u00a0hard", "\u200bnone", "▁a", "a\0b"),
    *(
        "</s>",
        "a </s> dog",
        "<pad> dog",
        "<extra_id_0>",
        "the <extra_id_1> dog",
        "<unk>",
        "<s>",
        "KEEP me",
        "dog " * 99,
    ),
]
LITERALS = [prompt for prompt in PROMPTS if "<" in prompt]


def encoder_of(folder: Path) -> TextEncoder:
    return TextEncoder(str(folder), max_length=12, dtype=torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byte_fallback": True},
        {"add_dummy_prefix": False},
        {"remove_extra_whitespaces": False},
        {"treat_whitespace_as_suffix": True},
        {"normalization_rule_name": "identity"},
        {"normalization_rule_name": "nmt_nfkc_cf"},
        {"split_by_whitespace": False},
        {"user_defined_symbols": ["<extra_id_0>", "KEEP"]},
        {"control_symbols": ["<s>"]},
        {"model_type": "bpe"},
        {"model_type": "char"},
        {"pad_id": 3, "eos_id": 0, "unk_id": 1},
    ],
    ids=str,
)
def test_ids_are_sentencepiece_s_own(make_t5: Callable[..., Path], options: dict) -> None:
    folder = make_t5(**options)
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    encoder = encoder_of(folder)
    wanted = [[*own.encode(prompt), own.eos_id()] for prompt in PROMPTS]
    assert [encoder.tokenizer(prompt)["input_ids"] for prompt in PROMPTS] == wanted
    ids, mask = encoder._ids(PROMPTS).values()
    for row, counts, want in zip(ids, mask.bool(), wanted, strict=True):
        assert row[counts].tolist() == (want if len(want) <= 12 else [*want[:11], own.eos_id()])
    assert torch.equal(encoder.encode(PROMPTS).mask, mask.bool())


@pytest.fixture(scope="module")
def plain(make_t5: Callable[..., Path]) -> Path:
    return make_t5()


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def test_bytes_tell_texts_apart_that_the_pieces_do_not_have(make_t5: Callable[..., Path]) -> None:
    encoder = encoder_of(make_t5(byte_fallback=True))
    dog, cat = encoder.encode(["a photo of 犬", "a photo of 猫"]).tokens
    assert not torch.equal(dog, cat)


def test_a_tokenizer_json_alone_reads_special_tokens_in_captions_as_text(plain: Path, copy: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(copy).save_pretrained(copy)
    (copy / "spiece.model").unlink()
    own = sentencepiece.SentencePieceProcessor(model_file=str(plain / "spiece.model"))
    found = encoder_of(copy).tokenizer(LITERALS)["input_ids"]
    assert found == [[*own.encode(prompt), own.eos_id()] for prompt in LITERALS]


def test_special_tokens_in_captions_are_text_to_other_tokenizers(make_bert: Callable[..., Path]) -> None:
    encoder = encoder_of(make_bert("bert"))
    pad, unknown = encoder.tokenizer.pad_token_id, encoder.tokenizer.unk_token_id
    ids = encoder.tokenizer("the [PAD] dog")["input_ids"]
    assert pad not in ids and unknown in ids
    assert encoder.encode(["the [PAD] dog"]).mask.sum() == 6  # the [ PAD ] dog, and the end


def test_a_tokenizer_that_cannot_read_them_as_text_says_so(plain: Path, tmp_path: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(plain / "spiece.model")).get_piece_size()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.XLMRobertaConfig(vocab_size=pieces + 10, max_position_embeddings=20, **sizes)
    transformers.XLMRobertaModel(config).save_pretrained(tmp_path)
    shutil.copy(plain / "spiece.model", tmp_path / "sentencepiece.bpe.model")
    encoder = encoder_of(tmp_path)
    assert encoder.encode(["a photo of the dog"]).mask.sum() > 3
    with pytest.raises(FAEError, match=r"takes the characters </s> in the caption 'a </s> dog'"):
        encoder.encode(["a photo", "a </s> dog"])


@pytest.mark.parametrize("options", [{"byte_fallback": True}, {"add_dummy_prefix": False}], ids=str)
def test_a_conversion_that_differs_from_sentencepiece_is_refused(
    make_t5: Callable[..., Path], tmp_path: Path, options: dict
) -> None:
    folder = make_t5(**options)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.XLMRobertaModel(transformers.XLMRobertaConfig(vocab_size=400, **sizes)).save_pretrained(tmp_path)
    shutil.copy(folder / "spiece.model", tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(InvalidFile, match="otherwise than sentencepiece"):
        encoder_of(tmp_path)


def test_files_that_contradict_the_sentencepiece_model_are_refused(
    make_t5: Callable[..., Path], plain: Path, copy: Path
) -> None:
    for name, text in {
        "added_tokens.json": '{"<sks>": 400}',
        "tokenizer_config.json": '{"added_tokens_decoder": {"400": {"content": "<sks>", "special": false}}}',
    }.items():
        (copy / name).write_text(text)
        with pytest.raises(InvalidFile, match="adds the token '<sks>'"):
            encoder_of(copy)
        (copy / name).unlink()
    (copy / "added_tokens.json").write_text('{"<extra_id_0>": 429}')  # T5's own
    encoder_of(copy)
    transformers.AutoTokenizer.from_pretrained(copy).save_pretrained(copy)
    encoder_of(copy)
    shutil.copy(make_t5(model_type="char") / "spiece.model", copy / "spiece.model")
    with pytest.raises(InvalidFile, match="different pieces"):
        encoder_of(copy)


def test_damaged_tokenizer_files_are_refused_in_one_line(copy: Path) -> None:
    whole = (copy / "spiece.model").read_bytes()
    for damaged in (b"", whole[:1000], whole[:-5], b"\xff" * 100):
        (copy / "spiece.model").write_bytes(damaged)
        with pytest.raises(InvalidFile) as raised:
            encoder_of(copy)
        assert "\n" not in str(raised.value)
    (copy / "spiece.model").unlink()
    (copy / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": 3}, "added_tokens": []}))
    with pytest.raises(InvalidFile, match="no tokenizer"):
        encoder_of(copy)


def test_more_tokens_than_the_model_knows_are_refused(make_t5: Callable[..., Path], copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    small = transformers.T5EncoderModel(transformers.T5Config(**{**config, "vocab_size": 5}))
    small.save_pretrained(copy)
    with pytest.raises(FAEError, match="more tokens than its model"):
        encoder_of(copy).encode(["a photo of the dog"])


def test_captions_that_are_no_text_are_refused_by_number(plain: Path) -> None:
    encoder = encoder_of(plain)
    for wrong, said in (
        ("half \ud83d", "caption 1, .* surrogate"),
        (None, "caption 1 is no text"),
        (b"a", "caption 1"),
    ):
        with pytest.raises(FAEError, match=said):
            encoder.encode(["a dog", wrong])
    with pytest.raises(FAEError, match="list of prompts"):
        encoder.encode("a dog")
    assert encoder.encode([]).tokens.shape == (0, 12, 16)
    assert encoder.encode(["", "dog " * 200_000]).mask.sum(1).tolist() == [1, 12]


def test_lengths_that_a_model_has_no_positions_for_are_refused(make_bert: Callable[..., Path], plain: Path) -> None:
    with pytest.raises(FAEError, match="positions for 8 tokens"):
        TextEncoder(str(make_bert("short", max_position_embeddings=8)), max_length=9)
    with pytest.raises(FAEError, match="at least 1"):
        TextEncoder(str(plain), max_length=0)
