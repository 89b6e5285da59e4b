"""MMDiT (Esser et al., 2024): text and image tokens with weights of their own, joined in attention; text to velocity.

    z --patches--> linear + fixed position table --> image stream --\
                                                                     joint attention, x depth --> adaptive norm, linear
    text embeddings --> linear (+ registers)     --> text stream  --/
    c = time embedding (+ pooled text); SiLU(c) modulates both streams

In the last block the text only gives keys and values, because nothing reads its output. The presets follow SD3's rule
for sizes: width = 64 * depth and heads = depth.

Shape suffixes: B batch, L text tokens, N image tokens (row-major), D width, H heads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_core import ops
from fae_core.config import Config, parse_config
from fae_core.errors import FAEError
from fae_core.layers import Fp32Buffers, TimestepEmbedding, sincos_position_table
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_diffusion.flow_matching import FlowMatching
from fae_diffusion.models.mmdit_blocks import JointBlock, Stream
from fae_diffusion.models.mmdit_config import MMDiTConfig
from fae_diffusion.models.transformer import (
    patchify,
    require_tiled,
    reset_linear,
    reset_time_embedding,
    set_to_zero,
    unpatchify,
)
from fae_diffusion.samplers.config import SamplingName
from fae_diffusion.text.condition import TextCondition
from fae_diffusion.text.config import TextEncoderConfig

if TYPE_CHECKING:
    from fae_diffusion.text.encoder import TextEncoder
    from fae_diffusion.text.sd3 import SD3TextEncoder

_USUAL_TOKENS = 128  # of a prompt, where the config names no text encoder
log = logging.getLogger("fae")


class MMDiT(FlowMatching, Fp32Buffers, PretrainedModel[MMDiTConfig]):
    """m(z (B, C, h, w), t, text) -> velocity, t = 1 is noise. The position table limits h and w.

    A text is a TextCondition, embeddings (B, L, text_width) or a pair (embeddings, mask); where the config names a text
    encoder, `sample` also takes a list of prompts. The null prompt for guidance is part of the model: see `set_null`.

    Args:
        config: sizes and options.
        spec: of the latents that the model is for; its height and width are multiples of the patch size.

    Raises:
        FAEError: without a spec.
        InvalidFile: where patches do not tile the latents.
    """

    named_sampling: ClassVar[dict[SamplingName, dict[str, Any]]] = MMDiTConfig.named_sampling
    model_type: ClassVar[str] = "mmdit"
    pipeline_tag: ClassVar[str | None] = "text-to-image"
    config_class: ClassVar[type[Config]] = MMDiTConfig
    config: MMDiTConfig
    positions: Tensor  # (side, side, D)
    null_tokens: Tensor  # (1, null_length, text_width)
    null_mask: Tensor  # (1, null_length)
    null_pooled: Tensor  # (1, pooled_width), of a model that takes a pooled vector
    _encoder: TextEncoder | SD3TextEncoder | None = None

    def __init__(self, config: MMDiTConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        patch, width = config.patch_size, config.width
        spec = require_tiled(spec, config, type(self).__name__)
        self.position_side = config.position_size or max(spec.height, spec.width) // patch
        self.register_tables(persistent=True)

        self.patch_embedding = nn.Linear(spec.channels * patch**2, width)
        self.time_embedding = TimestepEmbedding(width)
        self.text_embedding = nn.Linear(config.text_width, width)
        self.pooled_embedding = (
            nn.Sequential(nn.Linear(config.pooled_width, width), nn.SiLU(), nn.Linear(width, width))
            if config.pooled_width is not None
            else None
        )
        self.registers = nn.Parameter(torch.empty(1, config.registers, width)) if config.registers else None
        self.blocks = nn.ModuleList(JointBlock(config, i) for i in range(config.depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, spec.channels * patch**2 * (2 if config.learn_sigma else 1))
        self.projections = nn.ModuleList(_projection(config, dim) for dim in config.projection_dims)
        self.projections.requires_grad_(False)
        self.reset_parameters()

    def tables(self) -> dict[str, Tensor]:
        """The position table and the null prompt, which is one token and a vector of zeros until `set_null`."""
        config, side = self.config, self.position_side
        pooled = {} if config.pooled_width is None else {"null_pooled": torch.zeros(1, config.pooled_width)}
        return {
            **pooled,
            "positions": sincos_position_table(side, side, config.width).view(side, side, config.width),
            "null_tokens": torch.zeros(1, config.null_length, config.text_width),
            "null_mask": torch.arange(config.null_length)[None] == 0,
        }

    @classmethod
    def from_official(cls, state_dict: Any, config: Any, *, spec: LatentSpec | None = None, **fields: Any) -> Self:
        """The model of a checkpoint of REPA, of SD3 and SD3.5, or of diffusers; see `official.mmdit`.

        Its time and sign are ours: m(z, t, text) is the original at t, and at 1000 t that of SD3 and of diffusers.

        Args:
            state_dict: with the original's names, "model.diffusion_model." in front of them or not.
            config: constructor arguments of REPA's MMDiT, SD3's MMDiTX or diffusers' SD3Transformer2DModel; what the
                weights show may be left out.
            spec: the latent space; None: derived from the arguments.
            **fields: of our config, such as `transport`. With a `text_encoder`, the null prompt is what that encoder
                makes of ""; no checkpoint holds it.

        Returns:
            The model, fp32, in eval mode.

        Raises:
            InvalidFile: where names or shapes do not fit.
            UnknownName: for an argument that the original does not have.
        """
        from fae_diffusion.official.mmdit import load_official_mmdit

        if fields.get("text_encoder") is None:
            return load_official_mmdit(cls, state_dict, config, spec, fields)
        named, null = _null_prompt(fields["text_encoder"])
        room = fields.get("null_length", max(len(null.tokens[0]), MMDiTConfig().null_length))
        model = load_official_mmdit(
            cls, state_dict, config, spec, {**fields, "text_encoder": named, "null_length": room}
        )
        model.set_null(null)
        return model

    def forward(self, z: Tensor, t: Tensor | float, condition: Any, *, skip: Sequence[int] = ()) -> Tensor:
        """What the transport predicts.

        Args:
            z: noised latents, (B, C, h, w).
            t: times in [0, 1], (B,) or a scalar; t = 1 is noise.
            condition: text of the batch, see the class.
            skip: blocks to leave out, from 0.

        Returns:
            (B, C, h, w), in the dtype of z.

        Raises:
            FAEError: for a text that does not fit; for a grid that patches do not tile, or beyond the position table.
        """
        return self._run(z, t, self._text(condition, z.shape[0]), project=False, skip=skip)[0]

    def dry_run(self, batch: int) -> Tensor:
        z = self.dry_input(batch, *self.spec.shape)
        pooled = None if self.config.pooled_width is None else self.dry_input(batch, self.config.pooled_width)
        length = self.config.text_encoder.length if self.config.text_encoder else _USUAL_TOKENS
        text = TextCondition(self.dry_input(batch, length, self.config.text_width), pooled=pooled)
        return self(z, z.new_zeros(batch), text)

    def with_projections(self, z: Tensor, t: Tensor | float, condition: Any) -> tuple[Tensor, list[Tensor]]:
        """The velocity, and REPA's projections of the image tokens, each (B, N, dim).

        Args:
            z: Noisy latents (B, C, h, w).
            t: Times (B,) or one for all, in [0, 1]; 1 is noise.
            condition: Text as `forward` takes it.
        """
        return self._run(z, t, self._text(condition, z.shape[0]), project=True)

    def _run(
        self, z: Tensor, t: Tensor | float, text: TextCondition, project: bool, skip: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The prediction, and with `project` the projections."""
        dtype, patch = self.patch_embedding.weight.dtype, self.config.patch_size
        grid = (z.shape[2] // patch, z.shape[3] // patch)
        image = self.patch_embedding(patchify(z.to(dtype), patch)) + self._crop(grid)
        c_BD = self._condition(t, text, z.shape[0], dtype, z.device)
        stream, mask = self._text_tokens(text, grid[0] * grid[1], dtype)
        projected: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index in skip:
                continue
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                stream, image = checkpoint(block, stream, image, c_BD, mask, use_reentrant=False)
            else:
                stream, image = block(stream, image, c_BD, mask)
            if project and index + 1 == self.config.projection_depth:
                projected = [head(image) for head in self.projections]
        shift, scale = self.final_modulation(c_BD).chunk(2, dim=1)
        out = self.final(ops.adaln(image, scale, shift, norm="layer")[1])
        return unpatchify(out, grid, patch)[:, : z.shape[1]].to(z.dtype), projected

    def _crop(self, grid: tuple[int, int]) -> Tensor:
        """The positions of a grid from the middle of the table, (N, D)."""
        side = self.position_side
        if max(grid) > side:
            raise FAEError(f"a grid of {grid[0]}x{grid[1]} patches exceeds the position table of {side}x{side}")
        top, left = (side - grid[0]) // 2, (side - grid[1]) // 2
        table = self.positions[top : top + grid[0], left : left + grid[1]].flatten(0, 1)
        return table.to(self.patch_embedding.weight.dtype)

    def _condition(
        self, t: Tensor | float, text: TextCondition, batch: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """SiLU of the time embedding plus, where the model has one, the pooled text: (B, D)."""
        t = torch.as_tensor(t, dtype=torch.float32, device=device).expand(batch)
        c_BD = self.time_embedding(t * self.config.time_scale)
        if self.pooled_embedding is not None:
            assert text.pooled is not None  # `_text` has checked it
            c_BD = c_BD + self.pooled_embedding(text.pooled.to(dtype))
        return nn.functional.silu(c_BD)

    def _text_tokens(self, text: TextCondition, image_tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Embedded text behind the registers, and the attention's mask (B, 1, 1, L + N), True where a key counts."""
        tokens_BLD = self.text_embedding(text.tokens.to(dtype))
        if self.registers is not None:
            tokens_BLD = torch.cat([self.registers.expand(tokens_BLD.shape[0], -1, -1), tokens_BLD], dim=1)
        if text.mask is None:
            return tokens_BLD, None
        keys = nn.functional.pad(text.mask, (self.config.registers, 0), value=True)
        return tokens_BLD, nn.functional.pad(keys, (0, image_tokens), value=True)[:, None, None]

    def reset_parameters(self) -> None:
        """As the class-conditional transformer: Xavier-uniform; zeros for modulations and the output layer."""
        reset_linear(self)
        reset_time_embedding(self.time_embedding)
        if self.registers is not None:
            nn.init.normal_(self.registers)
        modulations = [module.modulation for module in self.modules() if isinstance(module, Stream)]
        set_to_zero(*modulations, self.final_modulation, self.final)

    def set_null(self, text: TextCondition) -> None:
        """Keep the embeddings of the null prompt, which dropout and guidance use. They are saved with the model.

        Args:
            text: a batch of one. Without a pooled vector, a model that takes one gets zeros.

        Raises:
            FAEError: for no tokens that count or more than `null_length`, or vectors of another width.
        """
        width = self.config.pooled_width
        if text.pooled is not None and text.pooled.shape[-1] != width:
            raise FAEError(
                f"the null prompt's pooled vector has {text.pooled.shape[-1]} numbers, the model takes {width}"
            )
        tokens = text.tokens[0] if text.mask is None else text.tokens[0][text.mask[0]]
        count, room = len(tokens), self.config.null_length
        if count == 0:
            raise FAEError("the null prompt has no tokens: take an encoder whose tokenizer marks where a text ends")
        if tokens.shape[1] != self.config.text_width:
            raise FAEError(
                f"the null prompt's embeddings are {tokens.shape[1]} wide, the model reads {self.config.text_width}: "
                "take the text encoder that it was trained on"
            )
        if count > room:
            raise FAEError(f"the null prompt has {count} tokens, there is room for {room}: set null_length")
        if width is not None:
            self.null_pooled.copy_(text.pooled[:1]) if text.pooled is not None else self.null_pooled.zero_()
        self.null_tokens[0].zero_()[:count] = tokens.to(self.null_tokens)
        self.null_mask[0] = torch.arange(room, device=self.null_mask.device) < count

    # What a condition is: text. These methods override those of FlowMatching.

    @property
    def condition_dropout(self) -> float:
        """Share of training samples whose text is replaced by the null prompt."""
        return self.config.text_dropout

    def _check_condition(self, condition: Any, batch: int, device: torch.device) -> TextCondition:
        if condition is None:
            return self._null(device).expand(batch)
        if isinstance(condition, list | tuple) and all(isinstance(prompt, str) for prompt in condition):
            condition = self._encode(list(condition), device)
        return self._text(condition, batch).to(device)

    def _text(self, condition: Any, batch: int) -> TextCondition:
        """The condition as text that fits the model, one per sample. Raises FAEError for one that does not."""
        text, pooled = TextCondition.of(condition), self.config.pooled_width
        if text.tokens.shape[0] != batch or text.tokens.shape[2] != self.config.text_width:
            wanted = f"({batch}, L, {self.config.text_width})"
            raise FAEError(f"expected text embeddings of shape {wanted}, got {tuple(text.tokens.shape)}")
        found = None if text.pooled is None else text.pooled.shape[1]
        if found != pooled:
            wanted = "without a pooled vector" if pooled is None else f"with a pooled vector (pooled_width {pooled})"
            got = "none" if found is None else f"one of {found}"
            raise FAEError(f"this model takes text {wanted}, and got {got}: give a TextCondition that fits")
        return text

    def _check_data(self, condition: Any, batch: int) -> None:
        """Nothing to check: data may hold empty captions."""

    def _drop_condition(self, condition: TextCondition, dropped: Tensor) -> TextCondition:
        return condition.replaced(dropped, self._null_like(condition))

    def _null_like(self, condition: TextCondition) -> TextCondition:
        return self._null(condition.tokens.device).expand(len(condition))

    def _join(self, first: TextCondition, second: TextCondition) -> TextCondition:
        return first.joined(second)

    def _null(self, device: torch.device) -> TextCondition:
        """The null condition, a batch of one: for dropout, guidance, and `sample(None)`."""
        pooled = None if self.config.pooled_width is None else self.null_pooled
        return TextCondition(self.null_tokens, self.null_mask, pooled).to(device)

    def _encode(self, prompts: list[str], device: torch.device) -> TextCondition:
        """Embeddings of prompts, by the text encoder that the config names."""
        if self.config.text_encoder is None:
            raise FAEError("this model's config names no text encoder: pass text embeddings")
        if self._encoder is None:
            from fae_diffusion.text.load import load_text_encoder

            if self.config.text_encoder.fingerprint is None:
                log.info(
                    "this model does not say on which text encoder it was trained: %s is taken",
                    self.config.text_encoder.name,
                )
            # No submodule, so that it is not saved with this model.
            self._encoder = load_text_encoder(self.config.text_encoder, device)
        return self._encoder.encode(prompts)


def _null_prompt(encoder: TextEncoderConfig | dict[str, Any]) -> tuple[TextEncoderConfig, TextCondition]:
    """A text encoder with its fingerprint, and what it makes of "": a batch of one, the tokens that count."""
    from fae_diffusion.text.load import load_text_encoder

    config = parse_config(TextEncoderConfig, encoder, "text_encoder") if isinstance(encoder, dict) else encoder
    loaded = load_text_encoder(config)
    text = loaded.encode([""])
    counting = text.tokens if text.mask is None else text.tokens[:, text.mask[0]]
    return config.model_copy(update={"fingerprint": loaded.fingerprint()}), TextCondition(counting, pooled=text.pooled)


def _projection(config: MMDiTConfig, dim: int) -> nn.Sequential:
    """REPA's head of three layers."""
    width, hidden = config.width, config.projection_hidden
    layers = (nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim))
    return nn.Sequential(*layers)
