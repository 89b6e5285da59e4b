"""Tiny text encoders, made here: T5 folders with a sentencepiece model, BERT folders with a vocabulary of words."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, permutations
from pathlib import Path

import pytest
import torch

WORDS = [
    "red",
    "blue",
    "green",
    "dog",
    "cat",
    "ship",
    "car",
    "tree",
    "house",
    "a",
    "photo",
    "of",
    "the",
    "painting",
    "by",
    "night",
    "day",
    "café",
]


@pytest.fixture(scope="session")
def make_t5(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_t5(**options of sentencepiece's trainer) -> a folder like a T5 repository."""
    pytest.importorskip("transformers", reason="the extra fae-diffusion[text] is not installed")
    sentencepiece = pytest.importorskip("sentencepiece", reason="the extra fae-diffusion[text] is not installed")
    from transformers import T5Config, T5EncoderModel

    def make(**options: object) -> Path:
        folder = tmp_path_factory.mktemp("t5")
        corpus = folder.parent / f"{folder.name}.txt"
        corpus.write_text("\n".join(" ".join(row) for row in islice(permutations(WORDS, 4), 0, 40000, 49)))
        usual = {"vocab_size": 330, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=str(folder / "spiece"),
            num_threads=1,
            minloglevel=2,
            **{**usual, **options},
        )
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size()
        torch.manual_seed(0)
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        T5EncoderModel(T5Config(vocab_size=pieces + 100, **sizes)).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def make_bert(tmp_path: Path) -> Callable[..., Path]:
    """make_bert(name, lower=..., turn=..., side=..., **BertConfig) -> a folder with a tokenizer of whole words."""
    transformers = pytest.importorskip("transformers", reason="the extra fae-diffusion[text] is not installed")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "a", "photo", "photograph", "of", "the", "dog"])}

    def make(name: str, lower: bool = True, turn: bool = False, side: str = "right", **fields: object) -> Path:
        rules = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        rules.pre_tokenizer = pre_tokenizers.Whitespace()
        rules.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 2)])
        if lower:
            rules.normalizer = normalizers.Lowercase()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=rules, unk_token="[UNK]", pad_token="[PAD]", sep_token="[SEP]", truncation_side=side
        )
        tokenizer.save_pretrained(tmp_path / name)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        torch.manual_seed(0)
        # Without the pooled vector's weights, as many published checkpoints are.
        config = transformers.BertConfig(vocab_size=len(vocabulary), **{**sizes, **fields})
        model = transformers.BertModel(config, add_pooling_layer=False)
        if turn:
            model.embeddings.word_embeddings.weight.data = model.embeddings.word_embeddings.weight.data.flip(0)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make
