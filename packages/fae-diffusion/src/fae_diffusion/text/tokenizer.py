"""Tokenizers of text encoders: the ids are those that the encoder was trained on, and all of a caption is text.

T5's sentencepiece model is read by sentencepiece itself: transformers rebuilds it without byte fallback, and with other
rules for white space and normalisation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fae_core.errors import FAEError, InvalidFile, MissingPackage
from fae_core.files import read_json
from fae_core.models.transformers_models import load_processor, reading
from fae_diffusion.text.config import INSTALL

T5_FAMILY = ("t5", "mt5", "umt5", "longt5")
_SENTINEL = re.compile(r"<extra_id_\d+>")  # T5's own tokens, whose ids follow those of its sentencepiece model
_PIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
# Texts on which a conversion by transformers was found to differ from sentencepiece.
_PROBES = (
    "a photo of the dog",
    "two  spaces",
    " in front",
    "a\tdog",
    "\u72ac",
    "caf\u00e9 \uff21\uff11",
    "x<y",
    "\U0001f415",
)


class PieceTokenizer:
    """T5's tokenizer, with the call of a transformers tokenizer: the pieces of a text, then </s>.

    Args:
        encode: texts -> ids, without </s>.
        state: everything that decides the ids.
        size: how many ids there are.
        eos: id of </s>.
        unk: id of an unknown piece.
        pad: id of the padding.
    """

    def __init__(
        self, encode: Callable[[list[str]], list[list[int]]], state: bytes, size: int, *, eos: int, unk: int, pad: int
    ) -> None:
        self._encode, self.state, self._size = encode, state, size
        self.eos_token_id, self.unk_token_id, self.pad_token_id = eos, unk, pad

    @classmethod
    def from_sentencepiece(cls, processor: Any) -> PieceTokenizer:
        """From a SentencePieceProcessor."""
        return cls(
            processor.encode,
            processor.serialized_model_proto(),
            processor.get_piece_size(),
            eos=processor.eos_id(),
            unk=processor.unk_id(),
            pad=max(processor.pad_id(), 0),  # any id will do, because padding is masked
        )

    @classmethod
    def from_json(cls, rules: dict[str, Any]) -> PieceTokenizer:
        """From a tokenizer.json of Unigram pieces, changed so that no text matches a special piece."""
        from tokenizers import Tokenizer

        special = {token["content"]: token["id"] for token in rules["added_tokens"] if token["special"]}
        pieces = [[f"\0{piece}" if piece in special else piece, score] for piece, score in rules["model"]["vocab"]]
        added = [token for token in rules["added_tokens"] if not token["special"]]
        state = json.dumps(
            {**rules, "model": {**rules["model"], "vocab": pieces}, "added_tokens": added, "post_processor": None}
            | {"truncation": None, "padding": None, "decoder": None},
            sort_keys=True,
        )
        tokenizer = Tokenizer.from_str(state)
        return cls(
            lambda texts: [found.ids for found in tokenizer.encode_batch(texts)],
            state.encode(),
            tokenizer.get_vocab_size(),
            eos=special["</s>"],
            unk=rules["model"]["unk_id"],
            pad=special["<pad>"],
        )

    def __len__(self) -> int:
        return self._size

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: str | bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> dict[str, Any]:
        alone = isinstance(prompts, str)
        end = [self.eos_token_id] if add_special_tokens else []
        room = max_length - len(end) if truncation and max_length is not None else None
        rows = [ids[:room] + end for ids in self._encode([prompts] if isinstance(prompts, str) else list(prompts))]
        if padding == "max_length" and max_length is not None:
            length = max_length
        else:
            length = max(map(len, rows)) if padding else 0
        masks = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        rows = [row + [self.pad_token_id] * (length - len(row)) for row in rows]
        out = {"input_ids": rows[0] if alone else rows, "attention_mask": masks[0] if alone else masks}
        if return_tensors != "pt":
            return out
        return {name: torch.tensor(value, device="cpu") for name, value in out.items()}


def load_tokenizer(source: str, model_type: str) -> Any:
    """The tokenizer of a folder or hub repository.

    Args:
        source: the folder or repository.
        model_type: of the encoder's config; T5's family gets a `PieceTokenizer`.

    Raises:
        MissingPackage: without sentencepiece, where it is needed.
        InvalidFile: for files that are missing, damaged or contradict each other.
    """
    from transformers import AutoTokenizer

    pieces = _stored(source, "spiece.model")
    if model_type in T5_FAMILY and pieces is not None:
        return _sentencepiece(source, pieces)
    path = _stored(source, "tokenizer.json")
    if model_type in T5_FAMILY and path is not None:
        rules = read_json(path)
        with reading(source, "tokenizer"):
            if rules["model"]["type"] == "Unigram":
                return PieceTokenizer.from_json(rules)
    try:
        tokenizer = load_processor(source, AutoTokenizer, "tokenizer", split_special_tokens=True)
    except InvalidFile:
        if pieces is not None and not all(map(_installed, ("sentencepiece", "google.protobuf"))):
            raise MissingPackage("a tokenizer of sentencepiece", INSTALL) from None
        raise
    if tokenizer.pad_token_id is None:
        raise InvalidFile(f"the tokenizer of {source} has no token for padding")
    _check_conversion(source, tokenizer)
    return tokenizer


def check_vocabulary(tokenizer: Any, name: str) -> None:
    """Check that a tokenizer knows common words: with the wrong vocabulary file it maps every word to <unk>.

    Raises:
        FAEError: where it knows none of them.
    """
    words = tokenizer(["a", "photograph", "of", "the", "dog"], add_special_tokens=False)["input_ids"]
    if all(tokenizer.unk_token_id in ids for ids in words):
        raise FAEError(f"the tokenizer of {name} knows none of its words; its vocabulary file does not belong to it")


def token_ids(tokenizer: Any, prompts: Sequence[str], max_length: int, name: str) -> dict[str, torch.Tensor]:
    """The ids of prompts, cut or padded to one length.

    Args:
        tokenizer: of `load_tokenizer`.
        prompts: texts.
        max_length: ids per prompt.
        name: of the encoder, for messages.

    Returns:
        "input_ids" (B, max_length) and, where the model has one, "attention_mask" of the same shape.

    Raises:
        FAEError: for a caption that the tokenizer does not read as text alone, such as one with the characters "</s>"
            where it cannot distinguish them from the token.
    """
    batch = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=max_length, return_tensors="pt")
    if not isinstance(tokenizer, PieceTokenizer):
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        for prompt in prompts:
            # The second call is needed only for captions with the characters of a special token, which are rare.
            if not any(token in prompt for token in tokenizer.all_special_tokens):
                continue
            found = special.intersection(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            if found:
                token = tokenizer.convert_ids_to_tokens(found.pop())
                raise FAEError(
                    f"the tokenizer of {name} takes the characters {token} in the caption {prompt[:60]!r} for a token "
                    "of its own; take them out"
                )
    return {key: batch[key] for key in ("input_ids", "attention_mask") if key in batch}


def tokenizer_state(tokenizer: Any) -> list[bytes]:
    """Everything that decides which ids a text gets, as bytes to be hashed."""
    if isinstance(tokenizer, PieceTokenizer):
        return [tokenizer.state]
    facts = [
        type(tokenizer).__name__,
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.pad_token_id,
        sorted(tokenizer.model_input_names),
    ]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # Left out: what the last call set, and how ids become text.
        return [_json(facts), _json({k: v for k, v in rules.items() if k not in ("truncation", "padding", "decoder")})]
    options = {k: v for k, v in tokenizer.init_kwargs.items() if not k.endswith("_file") and "path" not in k}
    model = getattr(tokenizer, "sp_model", None)
    pieces = model.serialized_model_proto() if model is not None else b""
    return [_json(facts), _json(options), _json(tokenizer.get_vocab()), pieces]


def _json(value: Any) -> bytes:
    """The SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()


def _stored(source: str, name: str) -> str | None:
    """The local path of a file of a folder or hub repository; None where there is none."""
    from transformers.utils.hub import cached_file

    with reading(source, name):
        return cached_file(
            source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )


def _sentencepiece(source: str, path: str) -> PieceTokenizer:
    """T5's tokenizer. Raises InvalidFile where other files contradict the sentencepiece model."""
    if not _installed("sentencepiece"):
        raise MissingPackage("T5's tokenizer", INSTALL)
    from sentencepiece import SentencePieceProcessor

    with reading(source, "tokenizer"):
        processor = SentencePieceProcessor(model_file=path)
    if processor.eos_id() < 0:
        raise InvalidFile(f"{path} has no piece that ends a text, which T5 needs")
    own = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    added = _added_tokens(source, own)
    unknown = [token for token in added if token not in own and not _SENTINEL.fullmatch(token)]
    if unknown:
        raise InvalidFile(f"{source} adds the token {unknown[0]!r}, which its spiece.model does not know")
    return PieceTokenizer.from_sentencepiece(processor)


def _added_tokens(source: str, pieces: list[str]) -> list[str]:
    """Tokens that other files add to a sentencepiece model. Raises InvalidFile where they have other pieces."""
    added: list[str] = []
    path = _stored(source, "tokenizer.json")
    if path is not None:
        rules = read_json(path)
        with reading(source, "tokenizer"):
            same = (
                rules["model"]["type"] != "Unigram" or [p for p, _ in rules["model"]["vocab"][: len(pieces)]] == pieces
            )
            added += [token["content"] for token in rules.get("added_tokens", []) if not token.get("special")]
        if not same:
            raise InvalidFile(f"{source}: spiece.model and tokenizer.json have different pieces; remove the wrong one")
    path = _stored(source, "added_tokens.json")
    if path is not None:
        added += read_json(path)
    path = _stored(source, "tokenizer_config.json")
    if path is not None:
        with reading(source, "tokenizer"):
            stored = read_json(path).get("added_tokens_decoder", {}).values()
            added += [token["content"] for token in stored if not token.get("special")]
    return added


def _check_conversion(source: str, tokenizer: Any) -> None:
    """Raise InvalidFile where transformers' conversion of a sentencepiece model splits text differently."""
    if getattr(tokenizer, "backend_tokenizer", None) is None or _stored(source, "tokenizer.json") is not None:
        return  # sentencepiece itself, or a conversion that its author stored
    path = next(filter(None, (_stored(source, name) for name in _PIECE_FILES)), None)
    if path is None:
        return
    from sentencepiece import SentencePieceProcessor

    with reading(source, "tokenizer"):
        processor = SentencePieceProcessor(model_file=path)
    for text in _PROBES:
        # Pieces are compared, because some models number them differently; an unknown piece is its text or <unk>.
        known = [
            piece
            for piece in processor.encode(text, out_type=str)
            if processor.piece_to_id(piece) != processor.unk_id()
        ]
        if known != [
            token
            for token in tokenizer.tokenize(text)
            if token in known or processor.piece_to_id(token) != processor.unk_id()
        ]:
            raise InvalidFile(
                f"transformers reads the sentencepiece model of {source} otherwise than sentencepiece, for instance "
                f"{text!r}; give the folder the tokenizer.json that belongs to it"
            )


def _installed(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
