"""FlowSampler: the blocks in reverse, each token from those before it.

Weights may be bf16; latents, affine maps and guidance are fp32. All state belongs to the call, so threads can share a
sampler or a model. Guidance doubles the batch only in blocks where it acts.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fae_core.errors import FAEError, first_line
from fae_core.layers.condition_rows import sample_count
from fae_core.models.draw import check_samples
from fae_core.protocols import Observer, SamplingStep
from fae_flow.block import FlowBlock
from fae_flow.conditioning import null_condition, prepare_condition
from fae_flow.config import STARFlowConfig
from fae_flow.layers import Rope
from fae_flow.sampling.cuda_graph import decode_graph
from fae_flow.sampling.decoding import BlockDecoder, SamplingBlock
from fae_flow.sampling.jacobi import Jacobi, decode_jacobi
from fae_flow.sampling.linear import choose_linear, sampling_linear

log = logging.getLogger("fae")

FEW = 64
"""Rows of a step, both conditions counted, for which "auto" captures it: a step of more has work enough for the device,
and one that is captured attends over every slot."""


class Flow(Protocol):
    """What sampling uses of a STARFlow."""

    config: STARFlowConfig
    blocks: Sequence[FlowBlock]

    def check_grid(self, z: Tensor) -> None: ...

    def patchify(self, z: Tensor) -> Tensor: ...

    def unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor: ...

    def rope(self, height: int, width: int, condition: Tensor | None) -> Rope | None: ...


class FlowSampler:
    """A model's weights prepared for sampling, for any number of calls and threads. Later training leaves them.

    Layers with adapters or hooks and quantised ones are called as they are, and follow what becomes of them.

    `compile` and `cuda_graph` decode sequentially, and warm up for each batch size.

    Attributes:
        evaluations: How many samples have passed through the network, in all calls: by layers, so that guidance in some
            blocks alone adds their share of the layers.

    Args:
        model: the flow.
        dtype: of weights, activations and cache, e.g. torch.bfloat16; None = the model's.
        packed: oneDNN's weight layout on the CPU; None = where it is faster.
        compile: torch.compile each block's step.
        cuda_graph: replay one captured step per token, without the launch overhead that dominates on a GPU; "auto": on
            a GPU, for at most `FEW` rows, where `jacobi` is not asked for, and without an error where a step cannot be
            captured.

    Raises:
        FAEError: if the options exclude each other, or the device or machine does not support one; or if a block, layer
            or attention has a forward hook, or another module in its place.
    """

    def __init__(
        self,
        model: Flow,
        *,
        dtype: torch.dtype | None = None,
        packed: bool | None = None,
        compile: bool = False,
        cuda_graph: bool | Literal["auto"] = False,
    ) -> None:
        weight = model.blocks[-1].proj_in.weight
        dtype = dtype or weight.dtype
        if cuda_graph is True and weight.device.type != "cuda":
            raise FAEError(f"cuda_graph needs a model on cuda, this one is on {weight.device}")
        if compile and packed:
            raise FAEError("compile and packed exclude each other: the compiler chooses its own layouts")
        if compile and weight.device.type == "cpu" and not _compilers():
            raise FAEError("compile needs a C++ compiler on the CPU: install g++ or clang++, or name one in CXX")
        self.model, self.device = model, weight.device
        self.cuda_graph: bool | Literal["auto"] = cuda_graph and weight.device.type == "cuda" and cuda_graph
        self.static = cuda_graph is True or compile
        self.evaluations: float = 0
        make_linear = sampling_linear(choose_linear(False if compile else packed, weight.device, dtype))
        self.blocks = [SamplingBlock(block, make_linear, dtype, f"blocks.{i}") for i, block in enumerate(model.blocks)]
        self.forwards = [torch.compile(block.__call__, dynamic=False) if compile else block for block in self.blocks]

    def sample(self, condition: Any, noise: Tensor, **options: Any) -> Tensor:
        """Noise to latents, without denoising.

        Args:
            condition: labels or text; None = the null condition.
            noise: (B, C, h, w), standard normal.
            options: as of `trace`.

        Returns:
            (B, C, h, w).

        Raises:
            FAEError: if samples are not finite.
        """
        return check_samples(self.trace(condition, noise, **options)[-1])

    def trace(
        self,
        condition: Any,
        noise: Tensor,
        *,
        guidance: float = 1.0,
        uncond: Any = None,
        guide_top_only: bool = False,
        jacobi: Jacobi | Mapping[str, Any] | None = None,
        observe: Observer | None = None,
    ) -> list[Tensor]:
        """The noise and each block's output, from the top block's to the latents.

        Args:
            condition: labels or text; None = the null condition.
            noise: (B, C, h, w), standard normal.
            guidance: scale, 1 = off.
            uncond: the condition to guide away from; None = the null condition.
            guide_top_only: guide in the top block alone.
            jacobi: solve stretches of tokens in parallel instead of one by one.
            observe: as of `STARFlow.sample`.

        Returns:
            (B, C, h, w) fp32 each.

        Raises:
            FAEError: if the arguments do not fit.
        """
        guidance = _scale(guidance)
        jacobi = Jacobi.parse(jacobi)
        if jacobi is not None and self.static:
            raise FAEError("jacobi decodes stretches of changing size; leave compile and cuda_graph off")
        model, evaluations = self.model, 0.0
        model.check_grid(noise)
        height, width = (side // model.config.patch_size for side in noise.shape[-2:])
        batch = sample_count(None, noise)
        condition = prepare_condition(model.config, condition, batch, self.device)
        both = None  # condition, then null
        if guidance != 1.0 and condition is not None:
            both = torch.cat([condition, self._null(condition, uncond)])
        # Dtypes are the sampler's own, whatever autocast the caller is in.
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            rope = model.rope(height, width, condition)
            states = [model.patchify(noise.to(self.device)).float()]
            if observe is not None:
                observe(SamplingStep(0.0, "noise", model.unpatchify(states[0], height, width)))
            for done, i in enumerate(reversed(range(len(self.blocks)))):
                block = model.blocks[i]
                guided = block.conditional and both is not None and (i == len(self.blocks) - 1 or not guide_top_only)
                decoder_of = functools.partial(
                    BlockDecoder,
                    self.blocks[i],
                    self.forwards[i],
                    block.order(states[-1]),
                    both if guided else condition,
                    rope,
                    guidance if guided else None,
                )
                decoder = decoder_of(self.static)
                if self.cuda_graph is True:
                    decode_graph(decoder)
                elif jacobi is None and self._replays(batch * (2 if guided else 1)):
                    decoder = self._try_graph(decoder_of)
                elif jacobi is not None:
                    decode_jacobi(decoder, jacobi)
                else:
                    decoder.decode(_within(observe, done, len(self.blocks)))
                evaluations += decoder.passes * len(self.blocks[i].layers)
                states.append(block.order(decoder.result()))
                if observe is not None:
                    name = f"block {done + 1} of {len(self.blocks)}"
                    z = model.unpatchify(states[-1], height, width)
                    observe(SamplingStep((done + 1) / len(self.blocks), name, z))
            latents = [model.unpatchify(state, height, width) for state in states]
        self.evaluations += evaluations / max(1, sum(len(block.layers) for block in self.blocks))
        # Clones are not inference tensors, so that callers can differentiate through what they compute from them.
        return [z.clone() for z in latents]

    def _replays(self, rows: int) -> bool:
        """Whether "auto" captures a step of so many rows."""
        return self.cuda_graph == "auto" and rows <= FEW

    def _try_graph(self, decoder_of: Callable[[bool], BlockDecoder]) -> BlockDecoder:
        """Decode with a captured step, or without one from here on where it cannot be captured."""
        decoder = decoder_of(True)
        try:
            decode_graph(decoder)
        except RuntimeError as error:
            log.info("no CUDA graph for a step of the flow, it runs as it is: %s", first_line(error))
            self.cuda_graph = False
            decoder = decoder_of(self.static)
            decoder.decode()
        return decoder

    def _null(self, condition: Tensor, uncond: Any) -> Tensor:
        if uncond is None:
            return null_condition(self.model.config, len(condition), self.device, condition)
        null = prepare_condition(self.model.config, uncond, len(condition), self.device)
        assert null is not None  # the model is conditional
        if null.shape != condition.shape:
            raise FAEError(f"uncond has shape {tuple(null.shape)}, the condition {tuple(condition.shape)}")
        return null


def _scale(guidance: Any) -> float:
    """A scale of guidance as a Python number, checked."""
    try:
        scale = float(guidance)
    except (TypeError, ValueError, RuntimeError):
        scale = math.nan
    if not 0 <= scale < math.inf:
        raise FAEError(f"guidance must be finite and at least 0 (1 = off), not {str(guidance)[:60]}")
    return scale


def _within(observe: Observer | None, done: int, blocks: int) -> Callable[[float], None] | None:
    """What a block's decoder calls after every token, with the share of its tokens that are decoded."""
    if observe is None:
        return None
    return lambda share: observe(SamplingStep((done + share) / blocks, f"block {done + 1} of {blocks}", None))


def _compilers() -> list[str]:
    """The paths of the C++ compilers that torch's compiler would find."""
    named = os.environ.get("CXX")
    return [path for name in ([named] if named else ["g++", "clang++"]) if (path := shutil.which(name))]
