"""Decoding one block of the flow: SamplingBlock has its frozen weights, BlockDecoder the state of one call.

`BlockDecoder.step` advances any stretch of tokens by one pass through the layers, over the cache. Sequential decoding
here calls it token by token, Jacobi decoding (jacobi.py) on stretches.

Shapes: B samples, R rows (2B under guidance: condition, then null), T tokens, S steps, K channels of a token, C width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core import ops
from fae_flow.block import FlowBlock, affine
from fae_flow.layers import Rope
from fae_flow.sampling.cache import BlockCache, LayerCache
from fae_flow.sampling.guidance import guide
from fae_flow.sampling.layer import Heads, Rotation, SamplingLayer, Stretch, attend, sampling_norm
from fae_flow.sampling.linear import MakeLinear
from fae_flow.sampling.parts import taken_apart


class SamplingBlock:
    """A frozen FlowBlock, without state: shared by all calls of a sampler.

    Args:
        block: the block.
        make_linear: makes its linear layers of the block's.
        dtype: of weights and activations.
        name: of the block in its model, for errors.
    """

    def __init__(self, block: FlowBlock, make_linear: MakeLinear, dtype: torch.dtype, name: str) -> None:
        block = taken_apart(block, FlowBlock, name)
        self.source, self.dtype = block, dtype
        self.sos = None if block.sos is None else block.sos.detach().float()
        self.position = None if block.position is None else block.order(block.position.detach().to(dtype))
        self.proj_in = make_linear(block.proj_in, dtype)
        self.layers = [
            SamplingLayer(layer, make_linear, dtype, f"{name}.layers.{i}") for i, layer in enumerate(block.layers)
        ]
        # The same in every layer; a block without layers attends to nothing.
        attention = self.layers[0].attention if self.layers else None
        self.heads, self.kv_heads, self.head_dim = (
            (attention.heads, attention.kv_heads, attention.head_dim) if attention else (1, 1, 1)
        )
        self.final_norm = sampling_norm(block.final_norm, dtype)
        self.proj_out = make_linear(block.proj_out, dtype)
        self.scale, self.soft_clip = block.scale, block.soft_clip

    def __call__(
        self,
        tokens_BnK: Tensor,
        position: Tensor | None,
        caches: list[LayerCache],
        stretch: Stretch,
        guidance: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Mean and log sigma of the tokens that follow each of `tokens_BnK`.

        Args:
            tokens_BnK: n consecutive tokens of each sample.
            position: rows (n, C) of the learned position table; None without one.
            caches: per layer, opened for this step.
            stretch: what the layers have in common in this step.
            guidance: scale; None = the block is not guided.

        Returns:
            Mean and log sigma, (B, n, K) fp32 each, guided.
        """
        batch, count, channels = tokens_BnK.shape
        hidden = self.proj_in(tokens_BnK.reshape(batch * count, channels).to(self.dtype))
        if position is not None:
            hidden = (hidden.view(batch, count, -1) + position).flatten(0, 1)
        if guidance is not None:
            hidden = torch.cat([hidden, hidden])
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden = layer(hidden, cache, stretch)
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        mean, log_sigma = affine(self.proj_out(hidden), self.scale, self.soft_clip)
        if guidance is not None:
            (mean, mean_null), (log_sigma, log_sigma_null) = mean.chunk(2), log_sigma.chunk(2)
            mean, log_sigma = guide(mean, log_sigma, mean_null, log_sigma_null, guidance)
        return mean.view(batch, count, channels), log_sigma.view(batch, count, channels)


class BlockDecoder:
    """The state of one call on one block: tokens so far, targets (the noise) and cache.

    Step s reads token s of `tokens` (B, S + 1, K) and decides token s + 1. Token 0 is the learned first input or, in a
    block without one, the first token of the noise, which such a block keeps.

    Args:
        block: the block's weights.
        forward: the block, or a compiled version of it.
        noise_BTK: the noise, in the block's order.
        condition: labels or embeddings, for R rows.
        rope: tables of prefix and grid.
        guidance: scale; None = the block is not guided.
        static: every step sees the whole cache behind a mask, so that shapes do not change.
    """

    def __init__(
        self,
        block: SamplingBlock,
        forward: Callable[..., tuple[Tensor, Tensor]],
        noise_BTK: Tensor,
        condition: Tensor | None,
        rope: Rope | None,
        guidance: float | None,
        static: bool,
    ) -> None:
        self.block, self.forward, self.guidance, self.static = block, forward, guidance, static
        self.batch, device = noise_BTK.shape[0], noise_BTK.device
        first = noise_BTK[:, :1] if block.sos is None else block.sos.expand(self.batch, 1, -1)
        self.targets = noise_BTK[:, 1:] if block.sos is None else noise_BTK
        self.tokens = torch.cat([first, self.targets], dim=1)
        self.steps = self.targets.shape[1]

        prefix = block.source.prefix(condition)
        self.prefix = 0 if prefix is None else prefix.shape[1]
        slots, self.rows = self.prefix + self.steps, self.batch * (1 if guidance is None else 2)
        self.read = 0  # tokens that passed the layers to decide others, over all rows
        self.slots = torch.arange(slots, device=device)
        start = 0 if rope is None else len(rope[0]) - self.prefix - noise_BTK.shape[1]
        self.rope = None if rope is None else _rows(rope, start, slots)
        # One complex product rotates interleaved pairs; compilers prefer plain arithmetic.
        turns = not static and all(layer.attention.layout == "interleaved" for layer in block.layers)
        self.turns = torch.complex(*self.rope).unsqueeze(1) if turns and self.rope is not None else None
        self.cache = BlockCache(
            len(block.layers), self.rows, slots, block.kv_heads, block.head_dim, device, block.dtype
        )
        self.heads, self.attend = (None, attend) if static else self._prepare_single_tokens()
        if prefix is not None:
            self._read_prefix(prefix.to(block.dtype))

    def result(self) -> Tensor:
        """The decoded tokens (B, T, K), in the block's order."""
        return self.tokens[:, 1:] if self.block.sos is not None else self.tokens

    @property
    def passes(self) -> float:
        """How often a sample has passed the block so far, over all rows; guidance doubles it, Jacobi decoding adds."""
        return self.read / max(1, self.steps)

    def decode(self, told: Callable[[float], None] | None = None) -> None:
        """Decode token by token.

        Args:
            told: called after every token with the share that is decoded.
        """
        for step in range(self.steps):
            self.write(step, *self.step(step, 1))
            if told is not None:
                told((step + 1) / self.steps)

    def step(self, start: int, count: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log sigma of the tokens that steps start .. start + count - 1 decide.

        Their inputs are read from `tokens`, decided or not.

        Args:
            start: the first step.
            count: number of steps.
            rows: the samples to advance, (b,) int64; None = all.

        Returns:
            Mean and log sigma, (b, count, K) each.
        """
        tokens = self.tokens.narrow(1, start, count)
        position = None if self.block.position is None else self.block.position[start : start + count]
        first = self.prefix + start
        if rows is None:
            caches = self._open(first, count)
        else:
            tokens = tokens.index_select(0, rows)
            rows = rows if self.guidance is None else torch.cat([rows, rows + self.batch])
            caches = self.cache.rows(first, count, rows)
        self.read += count * (self.rows if rows is None else len(rows))
        lone = count == 1 and rows is None
        return self.forward(tokens, position, caches, self._stretch(first, count, lone), self.guidance)

    def write(self, start: int, mean: Tensor, log_sigma: Tensor, rows: Tensor | None = None) -> Tensor:
        """Decide tokens from their means and scales.

        Args:
            start: the first step.
            mean: (b, count, K), from `step`.
            log_sigma: (b, count, K), from `step`.
            rows: as of `step`.

        Returns:
            The tokens (b, count, K).
        """
        count = mean.shape[1]
        targets = self.targets.narrow(1, start, count)
        decided = torch.addcmul(mean, targets if rows is None else targets[rows], torch.exp(log_sigma))
        if rows is None:
            self.tokens.narrow(1, start + 1, count).copy_(decided)
        else:
            self.tokens[rows, start + 1 : start + 1 + count] = decided
        return decided

    def _prepare_single_tokens(self) -> tuple[Heads, Callable[..., Tensor]]:
        """Memory and attention of the most frequent step, one token of every row, chosen once per block."""
        block, store = self.block, self.cache.store
        packed = store.new_empty(self.rows, (block.heads + 2 * block.kv_heads) * block.head_dim)
        heads = Heads.of(packed, 1, block.heads, block.kv_heads)
        plain = not store.is_cuda and ops.explain("attention", heads.queries, heads.new, heads.new).backend == "sdpa"
        return heads, F.scaled_dot_product_attention if plain else attend

    def _open(self, start: int, count: int) -> list[LayerCache]:
        return (
            self.cache.indexed(self.slots[start : start + count]) if self.static else self.cache.stretch(start, count)
        )

    def _stretch(self, start: int, count: int, lone: bool = False) -> Stretch:
        """What the layers have in common in a step; lone: one token of every row, whose memory is prepared."""
        rotation, mask = self._rotation(start, count), self._mask(start, count)
        return Stretch(count, rotation, mask, self.heads, self.attend) if lone else Stretch(count, rotation, mask)

    def _mask(self, start: int, count: int) -> Tensor | None:
        if count == 1 and not self.static:
            return None
        seen = self.slots if self.static else self.slots[: start + count]
        return seen <= self.slots[start : start + count, None]

    def _rotation(self, start: int, count: int) -> Rotation | None:
        if self.turns is not None:
            return self.turns.narrow(0, start, count)
        return None if self.rope is None else _rows(self.rope, start, count)

    def _read_prefix(self, prefix: Tensor) -> None:
        """Fill the cache with the condition's tokens (R, L, C)."""
        hidden, stretch = prefix.flatten(0, 1), self._stretch(0, self.prefix)
        for layer, cache in zip(self.block.layers, self._open(0, self.prefix), strict=True):
            hidden = layer(hidden, cache, stretch)


def _rows(rope: Rope, start: int, count: int) -> Rope:
    return rope[0].narrow(0, start, count), rope[1].narrow(0, start, count)
