"""What can be chosen about a text encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fae_core.config import Config

MOST_TOKENS = 2**14  # per prompt; a larger number is taken for a mistake, because each token costs memory


class TextEncoderConfig(Config):
    """The frozen text encoder whose embeddings the model reads."""

    name: str = Field(description="hub repository, or folder, of any T5 or other transformers encoder")
    max_length: int = Field(default=128, ge=1, le=MOST_TOKENS, description="tokens per prompt; longer prompts are cut")
    mask_padding: bool = Field(
        default=True,
        description="whether what fills a prompt up to max_length is hidden; false: encoder and model read it as text, "
        "as REPA's MMDiT reads CLIP's 77 tokens",
    )
    dtype: Literal["bf16", "fp32"] = Field(
        default="bf16", description="of the encoder and its embeddings; training keeps embeddings in bf16"
    )
    fingerprint: str | None = Field(
        default=None, description="of the encoder trained on (TextEncoder.fingerprint), kept by training"
    )
