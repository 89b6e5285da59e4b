"""What can be chosen about a text encoder."""

from __future__ import annotations

from pydantic import Field

from fae_core.config import Config

MOST_TOKENS = 2**14  # per prompt; a larger number is taken for a mistake, because each token costs memory


class TextEncoderConfig(Config):
    """The frozen text encoder whose embeddings the model reads."""

    name: str = Field(description="hub repository, or folder, of any T5 or other transformers encoder")
    max_length: int = Field(default=128, ge=1, le=MOST_TOKENS, description="tokens per prompt; longer prompts are cut")
    fingerprint: str | None = Field(
        default=None, description="of the encoder trained on (TextEncoder.fingerprint), kept by training"
    )
