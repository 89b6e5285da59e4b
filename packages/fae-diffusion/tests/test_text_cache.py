"""The cache of embeddings: bound to its encoder, whole or refused, and never written over files of other kinds."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fae_core.errors import DataError, FAEError, InvalidFile
from fae_diffusion import TextCondition
from fae_diffusion.text.cache import TextCache
from fae_diffusion.text.encoder import TextEncoder

transformers = pytest.importorskip("transformers", reason="the extra fae-diffusion[text] is not installed")

PROMPT = "A Photo of the Dog"


def encoder_of(folder: Path, **options: object) -> TextEncoder:
    return TextEncoder(str(folder), **{"max_length": 8, "dtype": torch.float32, **options})


@pytest.fixture
def encoder(make_bert: Callable[..., Path]) -> TextEncoder:
    return encoder_of(make_bert("first"))


@pytest.mark.parametrize(
    "change",
    [
        {"lower": False},
        {"layer_norm_eps": 0.5},
        {"turn": True},
        {"hidden_act": "relu"},
        {"num_attention_heads": 4},
        {"side": "left"},
    ],
    ids=str,
)
def test_encoders_that_differ_have_caches_of_their_own(make_bert, encoder: TextEncoder, tmp_path: Path, change) -> None:
    TextCache.build(tmp_path / "cache", encoder, [PROMPT])
    other = encoder_of(make_bert("other", **change))
    assert other.fingerprint() != encoder.fingerprint()
    cached = TextCache.build(tmp_path / "cache", other, [PROMPT]).read([PROMPT], 8)
    fresh = other.encode([PROMPT])
    torch.testing.assert_close(cached.tokens[cached.mask], fresh.tokens[fresh.mask], atol=2e-2, rtol=1e-2)


def test_how_an_encoder_is_used_is_part_of_its_fingerprint(make_bert, encoder: TextEncoder) -> None:
    folder = Path(encoder.name)
    used = [encoder, encoder_of(folder, max_length=7), encoder_of(folder, dtype=torch.bfloat16)]
    assert len({one.fingerprint() for one in used}) == 3


def test_the_same_encoder_elsewhere_and_after_use_has_the_same_fingerprint(encoder, tmp_path: Path) -> None:
    before = encoder.fingerprint()
    encoder.encode([PROMPT, "a dog"])
    encoder.tokenizer("a dog")
    shutil.copytree(encoder.name, tmp_path / "elsewhere")
    config = json.loads((tmp_path / "elsewhere" / "config.json").read_text())
    config |= {"_name_or_path": "somebody/else", "transformers_version": "4.0.0", "architectures": ["Other"]}
    (tmp_path / "elsewhere" / "config.json").write_text(json.dumps(config))
    # Loaded twice: the pooled vector's weights, which this checkpoint lacks, are drawn anew each time.
    assert before == encoder.fingerprint() == encoder_of(tmp_path / "elsewhere").fingerprint()


def test_one_changed_weight_changes_the_fingerprint(encoder: TextEncoder) -> None:
    before = encoder.fingerprint()
    weight = encoder.model.embeddings.word_embeddings.weight
    weight[2, 3], weight[3, 3] = weight[3, 3].clone(), weight[2, 3].clone()  # with the same sum
    assert encoder.fingerprint() != before


def test_a_checkpoint_without_some_weight_is_refused(make_bert) -> None:
    from safetensors.torch import load_file, save_file

    path = make_bert("lacking") / "model.safetensors"
    state = load_file(path)
    state.pop("encoder.layer.0.output.dense.weight")
    save_file(state, path, {"format": "pt"})
    with pytest.raises(InvalidFile, match=r"lacks weights of its text encoder, such as encoder\.layer\.0"):
        encoder_of(path.parent)


def test_a_model_of_two_halves_is_read_with_the_half_that_reads(make_bert, tmp_path: Path) -> None:
    folder = make_bert("bart")
    sizes = {"d_model": 16, "max_position_embeddings": 16, "vocab_size": 9}
    halves = {
        f"{half}_{what}": n for half in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 2))
    }
    model = transformers.BartModel(transformers.BartConfig(**sizes, **halves)).eval()
    model.save_pretrained(folder)
    encoder = encoder_of(folder)
    ids, mask = encoder._ids(["a dog"]).values()
    wanted = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(encoder.encode(["a dog"]).tokens[:, :3], wanted[:, :3])


@pytest.mark.parametrize("name", ["index.json", "keys.npy", "offsets.npy", "sums.npy", "tokens.bin"])
def test_any_flipped_bit_and_any_missing_byte_is_found(encoder: TextEncoder, tmp_path: Path, name: str) -> None:
    prompts = ["a photo", "the dog", "a photograph of the dog"]
    TextCache.build(tmp_path / "cache", encoder, prompts)
    path = tmp_path / "cache" / name
    whole = path.read_bytes()
    damaged = [whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"] if name != "index.json" else [whole[:-2], b""]
    for place in range(0, len(whole), max(1, len(whole) // 25)):
        changed = bytearray(whole)
        changed[place] ^= 4
        damaged.append(bytes(changed))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(InvalidFile) as raised:
            TextCache(tmp_path / "cache").read(["", *prompts])
        assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(InvalidFile):
        TextCache(tmp_path / "cache").read(["", *prompts])
    path.write_bytes(whole)
    TextCache(tmp_path / "cache").read(["", *prompts])


def test_embeddings_that_changed_places_are_found(encoder: TextEncoder, tmp_path: Path) -> None:
    TextCache.build(tmp_path / "cache", encoder, ["a dog", "the dog"])
    path, cache = tmp_path / "cache" / "tokens.bin", TextCache(tmp_path / "cache")
    data, row = path.read_bytes(), 2 * encoder.width
    size = 3 * row
    one, two = (cache._offsets[cache._rows[key]] * row for key in list(cache._rows)[1:])
    swapped = data[:one] + data[two : two + size] + data[one + size : two] + data[one : one + size]
    path.write_bytes(swapped + data[two + size :])
    with pytest.raises(InvalidFile, match="is damaged: the embeddings of 'a dog'"):
        TextCache(tmp_path / "cache").read(["a dog"])


def test_a_cache_of_before_there_were_checksums_is_read(encoder: TextEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    wanted = TextCache.build(folder, encoder, ["a dog"]).read(["a dog", ""])
    index = json.loads((folder / "index.json").read_text())
    kept = {key: index[key] for key in ("fingerprint", "encoder", "width", "prompts", "tokens")}
    (folder / "index.json").write_text(json.dumps(kept))
    (folder / "sums.npy").unlink()
    assert torch.equal(TextCache(folder).read(["a dog", ""]).tokens, wanted.tokens)


def test_a_folder_that_is_no_cache_is_never_replaced(encoder: TextEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"irreplaceable")
    with pytest.raises(FAEError, match="photographs"):
        TextCache.build(folder, encoder, ["a dog"])
    (folder / "index.json").write_text("{}")
    with pytest.raises(FAEError, match="photographs"):
        TextCache.build(folder, encoder, ["a dog"])
    assert (folder / "holiday.jpg").read_bytes() == b"irreplaceable"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "photographs"]


def test_a_part_of_an_interrupted_cache_that_is_damaged_is_made_again(encoder, tmp_path: Path, monkeypatch) -> None:
    prompts = ["a dog", "the dog", "a photo", "the photo"]
    whole = TextCache.build(tmp_path / "whole", encoder, prompts)
    done: list[str] = []

    def encode(wanted: list[str]) -> TextCondition:
        if done:
            raise KeyboardInterrupt
        done.extend(wanted)
        return TextEncoder.encode(encoder, wanted)

    monkeypatch.setattr(encoder, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        TextCache.build(tmp_path / "cache", encoder, prompts, part=2)
    monkeypatch.undo()
    (part,) = (tmp_path / ".cache.parts").iterdir()
    data = bytearray(part.read_bytes())
    data[-7] ^= 1
    part.write_bytes(data)
    again = TextCache.build(tmp_path / "cache", encoder, prompts, part=2)
    assert torch.equal(again.read(prompts).tokens, whole.read(prompts).tokens)


def test_captions_that_become_equal_by_the_cut_are_counted_and_named(encoder, tmp_path: Path, caplog) -> None:
    same = "a photo of the dog a photo"  # the 7 words that there is room for
    prompts = [f"{same} the dog", f"{same} a photograph", f"{same} of dog", "the dog", "a photo"]
    with caplog.at_level(logging.WARNING, logger="fae"):
        TextCache.build(tmp_path / "cache", encoder, prompts)
    assert "3 captions are the same as another one once they are cut to 8 tokens" in caplog.text
    assert f"{same} a photograph" in caplog.text and f"{same} of dog" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="fae"):
        TextCache.build(tmp_path / "cache", encoder, prompts)  # found, not made
    assert "3 captions" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="fae"):
        TextCache.build(tmp_path / "other", encoder, [same, "the dog", "a photo"])
    assert not caplog.text


def test_captions_and_embeddings_that_no_cache_can_hold_are_refused(encoder, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"caption 1.* surrogate"):
        TextCache.build(tmp_path / "cache", encoder, ["a dog", "half \ud83d"])
    with pytest.raises(DataError, match="no text"):
        TextCache.build(tmp_path / "cache", encoder, ["a dog", None])
    encoder.model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(FAEError, match="no finite embeddings of"):
        TextCache.build(tmp_path / "cache", encoder, ["a dog"])
    assert not (tmp_path / "cache").exists()


def test_a_prompt_is_not_cut_without_a_word(encoder: TextEncoder, tmp_path: Path) -> None:
    cache = TextCache.build(tmp_path / "cache", encoder, ["a dog", "a photo of the dog"])
    assert cache.read(["a dog"], length=3).tokens.shape == (1, 3, encoder.width)
    with pytest.raises(FAEError, match="has 6 tokens, more than 3"):
        cache.read(["a photo of the dog"], length=3)


def test_captions_that_hold_zeros_are_not_taken_for_others(encoder: TextEncoder, tmp_path: Path) -> None:
    from fae_diffusion.text.cache_parts import _Part

    first, second = (_Part.of(tmp_path, "f", prompts) for prompts in (["a\0b"], ["a", "b"]))
    assert first.path != second.path
