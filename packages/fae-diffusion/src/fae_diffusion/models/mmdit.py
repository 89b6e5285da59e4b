"""MMDiT (Esser et al., 2024): text and image tokens with weights of their own, joined in attention; text to velocity.

    z --patches--> linear + fixed position table --> image stream --\
                                                                     joint attention, x depth --> adaptive norm, linear
    text embeddings --> linear (+ registers)     --> text stream  --/
    c = time embedding (+ pooled text); SiLU(c) modulates both streams

In the last block the text only gives keys and values: nothing reads its output. Sizes follow SD3's rule in the presets,
width = 64 * depth and heads = depth. As in the class-conditional transformer, a stream carries its last branch unadded.

Shape suffixes: B batch, L text tokens, N image tokens (row-major), D width, H heads.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fae_core import ops
from fae_core.config import Config
from fae_core.errors import FAEError, InvalidFile
from fae_core.layers import MLP, Fp32Buffers, RMSNorm, SwiGLU, TimestepEmbedding, sincos_position_table
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_diffusion.flow_matching import FlowMatching
from fae_diffusion.models.mmdit_config import MMDiTConfig
from fae_diffusion.models.transformer import patchify, unpatchify
from fae_diffusion.text.condition import TextCondition

_USUAL_TOKENS = 128  # of a prompt, where the config names no text encoder
log = logging.getLogger("fae")
# A stream of tokens between blocks: tokens, and the branch and its gate that are not yet added to them.
State = tuple[Tensor, Tensor | None, Tensor | None]


class Stream(nn.Module):
    """One kind of tokens in a block: modulated norms, qkv, projection, feed-forward. `ends`: only keys and values are wanted."""

    def __init__(self, config: MMDiTConfig, ends: bool = False) -> None:
        super().__init__()
        width = config.width
        self.heads, self.norm, self.wo_shift, self.ends = config.heads, _norm_kind(config), config.wo_shift, ends
        pieces = (1 if ends else 4) if config.wo_shift else (2 if ends else 6)
        self.modulation = nn.Linear(width, pieces * width)
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.q_norm, self.k_norm = _head_norm(config), _head_norm(config)
        if not ends:
            self.proj = nn.Linear(width, width)
            swiglu = config.swiglu
            self.mlp = SwiGLU(width, config.mlp_hidden, bias=False) if swiglu else MLP(width, config.mlp_hidden)

    def enter(self, state: State, c_BD: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        """The stream with its branch added; q, k, v of (B, H, tokens, D / H); what `leave` needs of the modulation."""
        x, branch, gate = state
        shift, scale, *later = self._pieces(c_BD)
        x, h = ops.adaln(x, scale, shift, update=branch, gate=gate, norm=self.norm)
        qkv = self.qkv(h).unflatten(-1, (3, self.heads, -1))
        if isinstance(self.q_norm, RMSNorm):
            # Nobody asks for the queries of a stream that ends.
            q_weight = None if self.ends else self.q_norm.weight
            q, k, v = ops.qk_norm_rope(qkv, q_weight=q_weight, k_weight=self.k_norm.weight, eps=self.q_norm.eps)
        else:
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            if self.q_norm is not None:
                q, k = self.q_norm(q), self.k_norm(k)
        return x, (q.to(v.dtype), k.to(v.dtype), v), tuple(later)

    def leave(self, x: Tensor, attended: Tensor, later: tuple[Tensor | None, ...]) -> State:
        """The stream after its share of the attention's output: (tokens, feed-forward branch, gate)."""
        gate1, shift2, scale2, gate2 = later
        x, h = ops.adaln(x, scale2, shift2, update=self.proj(attended), gate=gate1, norm=self.norm)
        return x, self.mlp(h), gate2

    def _pieces(self, c_BD: Tensor) -> tuple[Tensor | None, ...]:
        """shift1, scale1 and, unless the stream ends here, gate1, shift2, scale2, gate2."""
        modulation = self.modulation(c_BD)
        if not self.wo_shift:
            return modulation.chunk(2 if self.ends else 6, dim=1)
        if self.ends:
            return None, modulation
        scale1, gate1, scale2, gate2 = modulation.chunk(4, dim=1)
        return None, scale1, gate1, None, scale2, gate2


class JointBlock(nn.Module):
    """Attention over text and image together, everything else apart."""

    def __init__(self, config: MMDiTConfig, last: bool) -> None:
        super().__init__()
        self.text, self.image = Stream(config, ends=last), Stream(config)

    def forward(self, text: State, image: State, c_BD: Tensor, mask: Tensor | None) -> tuple[State | None, State]:
        text_x, text_qkv, text_later = self.text.enter(text, c_BD)
        image_x, image_qkv, image_later = self.image.enter(image, c_BD)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(text_qkv, image_qkv, strict=True))
        if self.text.ends:
            q = image_qkv[0]
        out_BMD = ops.attention(q, k, v, mask=mask).transpose(1, 2).flatten(2)
        image_out = out_BMD[:, out_BMD.shape[1] - image_x.shape[1] :]
        after = self.image.leave(image_x, image_out, image_later)
        if self.text.ends:
            return None, after
        return self.text.leave(text_x, out_BMD[:, : text_x.shape[1]], text_later), after


class MMDiT(FlowMatching, Fp32Buffers, PretrainedModel[MMDiTConfig]):
    """m(z (B, C, h, w), t, text) -> velocity, t = 1 is noise. h and w may be any that the position table covers.

    text: a TextCondition, embeddings (B, L, text_width), a pair (embeddings, mask), or, where the config names a text encoder,
    for `sample` also a list of prompts. The null prompt for guidance is part of the model: see `set_null`.
    """

    model_type: ClassVar[str] = "mmdit"
    config_class: ClassVar[type[Config]] = MMDiTConfig
    config: MMDiTConfig

    def __init__(self, config: MMDiTConfig, spec: LatentSpec | None = None) -> None:
        super().__init__(config, spec)
        if spec is None:
            raise FAEError("MMDiT needs the LatentSpec of the latents that it is for: pass spec=")
        patch, width = config.patch_size, config.width
        if spec.height % patch or spec.width % patch:
            raise InvalidFile(f"patches of {patch} do not tile latents of {spec.height}x{spec.width}")
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
        self.blocks = nn.ModuleList(JointBlock(config, i == config.depth - 1) for i in range(config.depth))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, spec.channels * patch**2 * (2 if config.learn_sigma else 1))
        self.projections = nn.ModuleList(_projection(config, dim) for dim in config.projection_dims).requires_grad_(
            False
        )
        self.reset_parameters()

    def tables(self) -> dict[str, Tensor]:
        config, side = self.config, self.position_side
        return {
            "positions": sincos_position_table(side, side, config.width).view(side, side, config.width),
            # Until `set_null`: one token of zeros.
            "null_tokens": torch.zeros(1, config.null_length, config.text_width),
            "null_mask": torch.arange(config.null_length)[None] == 0,
        }

    @classmethod
    def from_official(cls, state_dict: Any, config: Any, *, spec: LatentSpec | None = None, **fields: Any) -> Self:
        """The model of a checkpoint in SD3's layout; see `official_mmdit`. Time and sign are ours already: nothing is turned.

        config: constructor arguments of REPA's MMDiT. Widths that it hard-codes are read off the weights, so that SD3's own
        checkpoints fit too (with time_scale=1000). Raises InvalidFile where names or shapes do not fit.
        """
        from fae_diffusion.official.mmdit import load_official_mmdit

        return load_official_mmdit(cls, state_dict, config, spec, fields)

    def forward(self, z: Tensor, t: Tensor | float, condition: Any) -> Tensor:
        return self._run(z, t, self._text(condition, len(z)), project=False)[0]

    def dry_run(self, batch: int) -> Tensor:
        z = self.dry_input(batch, *self.spec.shape)
        pooled = None if self.config.pooled_width is None else self.dry_input(batch, self.config.pooled_width)
        length = self.config.text_encoder.max_length if self.config.text_encoder else _USUAL_TOKENS
        text = TextCondition(self.dry_input(batch, length, self.config.text_width), pooled=pooled)
        return self(z, z.new_zeros(batch), text)

    def with_projections(self, z: Tensor, t: Tensor | float, condition: Any) -> tuple[Tensor, list[Tensor]]:
        """The velocity, and REPA's projections of the image tokens, each (B, N, dim)."""
        return self._run(z, t, self._text(condition, len(z)), project=True)

    def _run(self, z: Tensor, t: Tensor | float, text: TextCondition, project: bool) -> tuple[Tensor, list[Tensor]]:
        dtype, patch = self.patch_embedding.weight.dtype, self.config.patch_size
        grid = (z.shape[2] // patch, z.shape[3] // patch)
        image: State = (self.patch_embedding(patchify(z.to(dtype), patch)) + self._crop(grid), None, None)
        c_BD = self._condition(t, text, len(z), dtype, z.device)
        tokens_BLD, mask = self._text_tokens(text, grid[0] * grid[1], dtype)
        stream: State | None = (tokens_BLD, None, None)
        projected: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if self.config.gradient_checkpointing and torch.is_grad_enabled():
                stream, image = checkpoint(block, stream, image, c_BD, mask, use_reentrant=False)
            else:
                stream, image = block(stream, image, c_BD, mask)
            if project and index + 1 == self.config.projection_depth:
                x, branch, gate = image
                projected = [head(x + gate.unsqueeze(1) * branch) for head in self.projections]
        x, branch, gate = image
        shift, scale = self.final_modulation(c_BD).chunk(2, dim=1)
        out = self.final(ops.adaln(x, scale, shift, update=branch, gate=gate, norm="layer")[1])
        return unpatchify(out, grid, patch)[:, : z.shape[1]].to(z.dtype), projected

    def _crop(self, grid: tuple[int, int]) -> Tensor:
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
            c_BD = c_BD + self.pooled_embedding(text.pooled.to(dtype))
        return nn.functional.silu(c_BD)

    def _text_tokens(self, text: TextCondition, image_tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Embedded text behind the registers, and the attention's mask (B, 1, 1, L + N), True where a key counts."""
        tokens_BLD = self.text_embedding(text.tokens.to(dtype))
        if self.registers is not None:
            tokens_BLD = torch.cat([self.registers.expand(len(tokens_BLD), -1, -1), tokens_BLD], dim=1)
        if text.mask is None:
            return tokens_BLD, None
        keys = nn.functional.pad(text.mask, (self.config.registers, 0), value=True)
        return tokens_BLD, nn.functional.pad(keys, (0, image_tokens), value=True)[:, None, None]

    def reset_parameters(self) -> None:
        """As the class-conditional transformer: Xavier-uniform, zeros where a block's branch or the output begins."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.time_embedding.mlp[0], self.time_embedding.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        if self.registers is not None:
            nn.init.normal_(self.registers)
        zeroed = [stream.modulation for block in self.blocks for stream in (block.text, block.image)]
        for layer in (*zeroed, self.final_modulation, self.final):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def set_null(self, text: TextCondition) -> None:
        """Keep the embeddings of the null prompt (a batch of one): saved with the model, used for dropout and guidance.

        A model that takes a pooled vector has zeros for it here. Raises FAEError where the tokens that count are more than
        `null_length`, or the text brings another pooled vector.
        """
        if text.pooled is not None and bool((text.pooled != 0).any()):
            raise FAEError("the null prompt's pooled vector is zeros: leave it out")
        tokens = text.tokens[0] if text.mask is None else text.tokens[0][text.mask[0]]
        count, room = len(tokens), self.config.null_length
        if count == 0:
            raise FAEError("the null prompt has no tokens: take an encoder whose tokenizer marks where a text ends")
        if count > room:
            raise FAEError(f"the null prompt has {count} tokens, there is room for {room}: set null_length")
        self.null_tokens[0].zero_()[:count] = tokens.to(self.null_tokens)
        self.null_mask[0] = torch.arange(room, device=self.null_mask.device) < count

    # What a condition is: text. See FlowMatching.

    @property
    def condition_dropout(self) -> float:
        return self.config.text_dropout

    def _check_condition(self, condition: Any, batch: int, device: torch.device) -> TextCondition:
        if condition is None:
            return self._null(device).expand(batch)
        if isinstance(condition, list | tuple) and all(isinstance(prompt, str) for prompt in condition):
            condition = self._encode(list(condition), device)
        return self._text(condition, batch).to(device)

    def _text(self, condition: Any, batch: int) -> TextCondition:
        """What this model reads, or FAEError: `batch` texts of its width, with a pooled vector just where it takes one."""
        text, pooled = TextCondition.of(condition), self.config.pooled_width
        if len(text) != batch or text.tokens.shape[2] != self.config.text_width:
            wanted = f"({batch}, L, {self.config.text_width})"
            raise FAEError(f"expected text embeddings of shape {wanted}, got {tuple(text.tokens.shape)}")
        if (text.pooled is None) != (pooled is None) or (pooled is not None and text.pooled.shape[1] != pooled):
            wanted = "without a pooled vector" if pooled is None else f"with a pooled vector (pooled_width {pooled})"
            got = "none" if text.pooled is None else f"one of {text.pooled.shape[1]}"
            raise FAEError(f"this model takes text {wanted}, and got {got}: give a TextCondition that fits")
        return text

    def _check_data(self, condition: Any, batch: int) -> None:
        """An empty caption is a caption."""

    def _drop_condition(self, condition: TextCondition, dropped: Tensor) -> TextCondition:
        return condition.replaced(dropped, self._null_like(condition))

    def _null_like(self, condition: TextCondition) -> TextCondition:
        return self._null(condition.tokens.device).expand(len(condition))

    def _join(self, first: TextCondition, second: TextCondition) -> TextCondition:
        return first.joined(second)

    def _null(self, device: torch.device) -> TextCondition:
        """The one null condition: of dropout, of guidance, and of `sample(None)`."""
        width = self.config.pooled_width
        pooled = None if width is None else self.null_tokens.new_zeros(1, width)
        return TextCondition(self.null_tokens, self.null_mask, pooled).to(device)

    def _encode(self, prompts: list[str], device: torch.device) -> TextCondition:
        if self.config.text_encoder is None:
            raise FAEError("this model's config names no text encoder: pass text embeddings")
        if getattr(self, "_encoder", None) is None:
            from fae_diffusion.text.encoder import TextEncoder

            if self.config.text_encoder.fingerprint is None:
                log.info(
                    "this model does not say on which text encoder it was trained: %s is taken",
                    self.config.text_encoder.name,
                )
            # Outside the modules: frozen, stored elsewhere, not this model's to save.
            object.__setattr__(self, "_encoder", TextEncoder.from_config(self.config.text_encoder, device=device))
        return self._encoder.encode(prompts)


def _norm_kind(config: MMDiTConfig) -> str:
    return "rms" if config.rms_norm else "layer"


def _head_norm(config: MMDiTConfig) -> nn.Module | None:
    head = config.width // config.heads
    if config.qk_norm is None:
        return None
    return RMSNorm(head) if config.qk_norm == "rms" else nn.LayerNorm(head, eps=1e-6)


def _projection(config: MMDiTConfig, dim: int) -> nn.Sequential:
    width, hidden = config.width, config.projection_hidden
    layers = (nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim))
    return nn.Sequential(*layers)
