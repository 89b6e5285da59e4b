"""CLIP and SigLIP models of transformers: images and texts as vectors of one space.

Conventions, as the models were trained and published:

- images go through the model's own processor (CLIP crops, SigLIP squashes);
- texts are cut or padded to the model's full length (CLIP 77, SigLIP and SigLIP2 64 tokens);
- SigLIP's texts are in lower case, and its padding is read like any token, without a mask;
- vectors have length one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import FAEError, InvalidFile, MissingPackage
from fae_core.models.transformers_models import load_model, load_processor, read_config
from fae_eval.extractors.base import weights_fingerprint

INSTALL = "fae-eval[text]"


class TwoTowers:
    """A model with an image and a text encoder; code from the hub is never run.

    Args:
        name: a hub repository or a local folder with weights (safetensors only) and processor.
        device: where it runs; the CPU by default.

    Raises:
        MissingPackage: without transformers.
        InvalidFile: where transformers cannot read it, or it lacks an encoder.
    """

    def __init__(self, name: str, *, device: str | torch.device | None = None) -> None:
        try:
            from transformers import AutoModel, AutoProcessor
        except ImportError:
            raise MissingPackage("a CLIP or SigLIP model", INSTALL) from None
        config = read_config(name, "model and processor")
        model, missing = load_model(name, config, AutoModel)
        if missing:
            raise InvalidFile(f"{name} lacks weights, such as {missing[0]}")
        self.processor = load_processor(name, AutoProcessor, "model and processor")
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise InvalidFile(f"{name} is a {type(model).__name__}; a CLIP or SigLIP model is needed")
        self.name = name
        self.device = torch.device(device or "cpu")
        self.model: Any = model.to(self.device).eval().requires_grad_(False)  # a class of transformers
        self.is_siglip = config.model_type.startswith("siglip")
        self.text_length = int(config.text_config.max_position_embeddings)
        self.fingerprint = weights_fingerprint(self.model)

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says of the model."""
        rule = "lower case, padding not masked" if self.is_siglip else "as written"
        return {
            "name": self.name,
            "weights": self.fingerprint,
            "processor": type(self.processor.image_processor).__name__,
            "texts": f"{self.text_length} tokens, {rule}",
        }

    @torch.no_grad()
    def embed_images(self, images: Sequence[np.ndarray]) -> Tensor:
        """Vectors (N, D) fp32 of length one, on the CPU, of N images, uint8 (H, W, 3) each and of any sizes."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        return _unit(self.model.get_image_features(**{name: value.to(self.device) for name, value in inputs.items()}))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Vectors (N, D) fp32 of length one, on the CPU, of N texts."""
        parts = [self._embed_texts(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        return torch.cat(parts)

    def pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        """Images, uint8 (H, W, 3), as the model's processor resizes them: (B, 3, h, w) in [0, 1].

        Raises:
            FAEError: where the processor cuts them into patches.
        """
        inputs = self.processor.image_processor(images=list(images), do_normalize=False, return_tensors="pt")
        if inputs["pixel_values"].ndim != 4:
            raise FAEError(f"{self.name} cuts images into patches of many shapes; take the model of a fixed size")
        return inputs["pixel_values"].float().clamp(0, 1).to(self.device)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        texts = [text.lower() for text in texts] if self.is_siglip else list(texts)
        inputs = self.processor.tokenizer(
            texts, padding="max_length", max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        wanted = ("input_ids",) if self.is_siglip else ("input_ids", "attention_mask")
        return _unit(self.model.get_text_features(**{name: inputs[name].to(self.device) for name in wanted}))


def _unit(output: Any) -> Tensor:
    # transformers 4 gives the vectors themselves, transformers 5 an object around them.
    vectors = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(vectors.float(), dim=-1).cpu()
