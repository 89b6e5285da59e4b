"""What can be chosen about a text encoder."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fae_core.config import Config

INSTALL = "fae-diffusion[text]"  # what reads any
CLIP_TOKENS = 77  # of a prompt, in both of SD3's CLIPs
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}  # torch's names
MOST_TOKENS = 2**14  # per prompt; a larger number is taken for a mistake, because each token costs memory


class TextEncoderConfig(Config):
    """The frozen text encoder whose embeddings the model reads."""

    name: str = Field(description="hub repository, or folder, of any T5 or other transformers encoder")
    kind: Literal["one", "sd3"] = Field(
        default="one", description="'sd3': the two CLIPs and the T5 of the SD3 pipeline of diffusers that `name` is"
    )
    t5: bool = Field(default=True, description="false: of 'sd3' without its T5, whose place zeros take")
    max_length: int = Field(
        default=128,
        ge=1,
        le=MOST_TOKENS,
        description="tokens per prompt, in 'sd3' of T5, by default 256; longer prompts are cut",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _as_sd3(cls, value: Any) -> Any:
        sd3 = {"max_length": 256, "mask_padding": False}
        return {**sd3, **value} if isinstance(value, dict) and value.get("kind") == "sd3" else value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "sd3" and self.mask_padding:
            raise ValueError("SD3 reads padding as text: leave mask_padding out")
        if self.kind != "sd3" and not self.t5:
            raise ValueError("t5 belongs to the kind 'sd3'")
        return self

    @property
    def places(self) -> frozenset[str]:
        """An encoder is known by its fingerprint; one that has none, by its name."""
        return frozenset() if self.fingerprint is None else frozenset({"name"})

    @property
    def length(self) -> int:
        """Tokens that the model reads of each prompt."""
        return self.max_length + (CLIP_TOKENS if self.kind == "sd3" else 0)
