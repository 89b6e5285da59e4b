"""SD3's three text encoders, from the folder or hub repository of a pipeline as diffusers lays it out.

    tokens: [ CLIP-L | CLIP-G | zeros ]  77 tokens, their hidden states before the last, joined along the channels
            [           T5            ]  max_length tokens; zeros without T5
    pooled: [ CLIP-L | CLIP-G ]          their projected vectors of the token that ends a text

What fills a prompt up is text: nothing is masked. The ids are those that diffusers' pipeline takes, so that a prompt is
read as there, also where it holds the characters of a special token ("!" fills up in CLIP-G).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import InvalidFile, MissingPackage
from fae_core.models.transformers_models import load_model, load_processor, read_config
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.config import CLIP_TOKENS, INSTALL
from fae_diffusion.text.encoder import check_prompts, encoder_digest

WIDTH = 4096  # of T5-XXL's states; without T5 the folder does not say it
_LEAVE_OUT = "; model.text_encoder.t5=false leaves T5 out, model.text_encoder=null all encoders"


class SD3TextEncoder:
    """SD3's frozen text encoders: encode(prompts) -> TextCondition of tokens (B, 77 + max_length, width) and pooled.

    Args:
        name: a pipeline's folder or hub repository, with text_encoder, text_encoder_2, text_encoder_3 and tokenizers.
        max_length: tokens that T5 reads of a prompt; the CLIPs read 77. Longer prompts are cut.
        t5: whether T5 is read; False: zeros stand for its states.
        device: of the encoders and the embeddings.
        dtype: of the encoders and the embeddings.
        batch_size: prompts per forward pass.

    Raises:
        MissingPackage: without transformers.
        InvalidFile: for files that are missing, damaged or do not belong together.
    """

    def __init__(
        self,
        name: str,
        *,
        max_length: int = 256,
        t5: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 16,
    ) -> None:
        if importlib.util.find_spec("transformers") is None:
            raise MissingPackage("SD3's text encoders", INSTALL)
        self.name, self.max_length, self.batch_size = name, max_length, batch_size
        self.device, self.dtype = torch.device(device), dtype
        clip = "CLIPTextModelWithProjection"
        self._clips = [self._tower("", clip, CLIP_TOKENS), self._tower("_2", clip, CLIP_TOKENS)]
        self._t5 = self._tower("_3", "T5EncoderModel", max_length) if t5 else None
        self.width = WIDTH if self._t5 is None else int(self._t5.model.config.d_model)
        clips = sum(int(tower.model.config.hidden_size) for tower in self._clips)
        if clips > self.width:
            raise InvalidFile(f"the CLIPs of {name} are {clips} wide together, more than the {self.width} of T5")

    def _tower(self, suffix: str, loader: str, length: int) -> _Tower:
        return _Tower(self.name, suffix, loader, length).to(self.device, self.dtype)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextCondition:
        """Embeddings of prompts. "" is the null prompt.

        Raises:
            DataError: for a prompt that is not Unicode text.
        """
        check_prompts(prompts)
        parts = [self._encode(list(prompts[i : i + self.batch_size])) for i in range(0, len(prompts), self.batch_size)]
        tokens, pooled = zip(*(parts or [self._encode([""])]), strict=True)
        count = len(prompts)
        return TextCondition(torch.cat(tokens)[:count], pooled=torch.cat(pooled)[:count])

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Tokens and pooled vectors of one batch."""
        found = [tower.model(tower.ids(prompts).to(self.device), output_hidden_states=True) for tower in self._clips]
        clips = torch.cat([out.hidden_states[-2] for out in found], dim=-1)
        clips = F.pad(clips, (0, self.width - clips.shape[-1]))
        if self._t5 is None:
            t5 = clips.new_zeros(len(prompts), self.max_length, self.width)
        else:
            t5 = self._t5.model(self._t5.ids(prompts).to(self.device)).last_hidden_state
        return torch.cat([clips, t5], dim=1), torch.cat([out.text_embeds for out in found], dim=-1)

    def fingerprint(self) -> str:
        """A hash of everything that decides the embeddings, as of `TextEncoder`."""
        facts = {"kind": "sd3", "max_length": self.max_length, "dtype": str(self.dtype), "width": self.width}
        towers = [*self._clips, *([] if self._t5 is None else [self._t5])]
        digests = [encoder_digest({}, tower.tokenizer, tower.model) for tower in towers]
        return hashlib.sha256(json.dumps([facts, digests], sort_keys=True).encode()).hexdigest()[:32]


class _Tower:
    """One of the encoders with its tokenizer.

    Args:
        name: of the pipeline.
        suffix: of the subfolders' names.
        loader: class of transformers.
        length: ids of a prompt.
    """

    def __init__(self, name: str, suffix: str, loader: str, length: int) -> None:
        import transformers

        folder, self.where, self.length = f"text_encoder{suffix}", f"{name}/text_encoder{suffix}", length
        try:
            config = read_config(name, f"{folder}/config.json", subfolder=folder)
            self.tokenizer = load_processor(
                name, transformers.AutoTokenizer, f"tokenizer{suffix}", subfolder=f"tokenizer{suffix}"
            )
            loaded, missing = load_model(name, config, getattr(transformers, loader), subfolder=folder)
        except InvalidFile as error:
            raise InvalidFile(f"{error}{_LEAVE_OUT}") from None
        if missing:
            raise InvalidFile(f"{self.where} lacks weights of a {loader}, such as {missing[0]}")
        if getattr(config, "max_position_embeddings", length) < length:
            raise InvalidFile(f"{self.where} has positions for fewer than {length} tokens")
        self.model: Any = loaded.eval().requires_grad_(False)

    def to(self, device: torch.device, dtype: torch.dtype) -> _Tower:
        """The tower itself, on a device and in a dtype."""
        self.model.to(device=device, dtype=dtype)
        return self

    def ids(self, prompts: list[str]) -> Tensor:
        """(B, length) ids. Raises InvalidFile for one that the model does not know."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        ids = cast(Tensor, self.tokenizer(prompts, **options)["input_ids"])
        rows = self.model.get_input_embeddings().num_embeddings
        if int(ids.max()) >= rows:
            raise InvalidFile(f"the tokenizer of {self.where} has more tokens than its model, which knows {rows}")
        return ids
