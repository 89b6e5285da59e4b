"""STARFlow (Gu et al., 2025): a normalizing flow of a few shallow autoregressive blocks and one deep one.

Latents z (B, C, h, w) are cut into tokens (B, T, K), T = h/p * w/p, K = p * p * C, and pass the blocks in order.
Directions alternate, so that every token depends on those on both sides. The top block, last in density and first in
sampling, has most of the layers. With `condition_top_only` it alone sees the condition.

The density is that of latents plus Gaussian noise of `noise_std` (in units of normalised latents), because a flow
fitted to clean data would concentrate on their finest details. Samples therefore contain that noise too, until
`denoise` removes it.

Departures from apple/ml-starflow: class labels have an embedding of their own, guidance is one scale (1 = off), the
learned position table works, video is left out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

import torch
from einops import rearrange
from pydantic import Field, PlainValidator
from torch import Tensor, nn

from fae_core.display import fields_html, fields_repr
from fae_core.errors import FAEError
from fae_core.layers.condition_rows import sample_count
from fae_core.models.draw import check_samples
from fae_core.models.pretrained import PretrainedModel
from fae_core.protocols import Observer
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_flow.block import FlowBlock
from fae_flow.conditioning import check_data, drop_condition, prepare_condition
from fae_flow.config import STARFlowConfig
from fae_flow.layers import Rope
from fae_flow.positions import rope_tables
from fae_flow.sampling.jacobi import Jacobi

_LOG_2PI = math.log(2 * math.pi)


class FlowOutput(NamedTuple):
    """The density direction's output.

    Attributes:
        noise: to which the latents are mapped, (B, C, h, w) fp32.
        logdet: log |det d noise / d latents|, (B,) nats.
    """

    noise: Tensor
    logdet: Tensor

    __repr__, _repr_html_ = fields_repr, fields_html


@dataclass(frozen=True)
class FlowTrace:
    """A pass through the blocks, without identity blocks.

    Attributes:
        states: tokens (B, T, K) in raster order, before the first block and after each one.
        log_sigmas: (B, T, K) of each block, in its own order.
    """

    states: tuple[Tensor, ...]
    log_sigmas: tuple[Tensor, ...]

    __repr__, _repr_html_ = fields_repr, fields_html


class STARFlow(PretrainedModel[STARFlowConfig]):
    """The model of the module's docstring: `m(z, condition) -> FlowOutput`. Implements fae_core.Generator.

    Attributes:
        evaluations: How many samples have passed through the network in `sample`, in all calls; a Tweedie step is one
            more pass. See `FlowSampler`.

    Args:
        config: the model's configuration.
        spec: the latent space that it is for.

    Raises:
        FAEError: without a spec, or if the latents cannot be cut into patches.
    """

    model_type = "starflow"
    pipeline_tag = "unconditional-image-generation"  # the hub has no name for one by class
    config_class = STARFlowConfig
    config: STARFlowConfig
    blocks: Sequence[FlowBlock]
    evaluations: float

    def __init__(self, config: STARFlowConfig, spec: LatentSpec) -> None:
        super().__init__(config, spec)
        if spec is None:
            raise FAEError("a STARFlow needs the LatentSpec that it is for: pass spec=")
        patch = config.patch_size
        config.require_spec(spec)
        tokens, channels = (spec.height // patch) * (spec.width // patch), spec.channels * patch**2
        top = len(config.layers) - 1
        blocks = nn.ModuleList(
            FlowBlock(config, channels, tokens, count, top=i == top, flip=(i % 2 == 1) == (config.order == "R2L"))
            for i, count in enumerate(config.layers)
            if count > 0 or i == top
        )
        self.blocks = cast("Sequence[FlowBlock]", blocks)
        self.evaluations = 0

    @classmethod
    def from_official(
        cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any], spec: LatentSpec | None = None, **fields: Any
    ) -> Self:
        """A model from apple/ml-starflow's weights and its constructor's arguments.

        Args:
            state_dict: the original's tensors by name.
            config: its constructor's arguments.
            spec: the latent space; None = one of the right shape, with statistics 0 and 1 and images 8 times as large.
            fields: of STARFlowConfig, for what is not in the constructor: noise_std, label_dropout, denoise (off by
                default here), classes (reads one-hot "text" as class labels).

        Raises:
            InvalidFile: if keys or arguments do not fit.
            FAEError: for options of the video model.
        """
        from fae_flow.official.weights import load_official

        return load_official(cls, state_dict, config, spec, fields)

    def forward(self, z: Tensor, condition: Any = None) -> FlowOutput:
        """Latents to noise.

        Args:
            z: (B, C, h, w); positions of a grid other than the spec's are scaled to it (only with rope).
            condition: labels or text; None = the null condition.
        """
        trace = self.trace(z, condition)
        height, width = z.shape[-2] // self.config.patch_size, z.shape[-1] // self.config.patch_size
        log_sigma = reduce(torch.add, (each.sum((1, 2)) for each in trace.log_sigmas))
        return FlowOutput(self.unpatchify(trace.states[-1], height, width), -log_sigma)

    def dry_run(self, batch: int) -> Tensor:
        """A forward pass of `batch` latents, for `fae info`.

        Args:
            batch: How many latents.
        """
        z = self.dry_input(batch, *self.spec.shape)
        condition = None
        if self.config.classes is not None:
            condition = torch.zeros(batch, dtype=torch.long, device=z.device)
        elif self.config.text_dim is not None:
            condition = self.dry_input(batch, self.config.text_tokens, self.config.text_dim)
        return self(z, condition).noise

    def trace(self, z: Tensor, condition: Any = None) -> FlowTrace:
        """Every block's output and log sigma; arguments as of `forward`.

        Args:
            z: Normalised latents (B, C, h, w).
            condition: Labels or text; None = the null condition.
        """
        return self._trace(z, prepare_condition(self.config, condition, z.shape[0], z.device))

    def log_prob(self, z: Tensor, condition: Any = None) -> Tensor:
        """Exact log-density of `z` as given.

        The density was fitted to latents with noise of `config.noise_std`, so clean latents are not typical of it: add
        that noise first, as `bits_per_dim` does, to measure how well it fits.

        Args:
            z: normalised latents (B, C, h, w).
            condition: labels or text; None = the null condition.

        Returns:
            (B,) nats, in normalised latent units.
        """
        noise, logdet = self(z, condition)
        return logdet - 0.5 * (noise.square() + _LOG_2PI).flatten(1).sum(1)

    def bits_per_dim(
        self, z: Tensor, condition: Any = None, *, random: SlotRandom | None = None, above_noise: bool = False
    ) -> Tensor:
        """-log2 p(z + noise) per dimension, for one draw of the training noise; with noise_std 0, -log2 p(z).

        Its mean is the cross-entropy of the noisy latents. It cannot fall below the entropy of the noise alone,
        log2(noise_std * sqrt(2 pi e)); `above_noise` subtracts that, which leaves an upper bound on the bits per
        dimension that a latent can carry through such noise, comparable between noise levels.

        Args:
            z: normalised latents (B, C, h, w).
            condition: labels or text; None = the null condition.
            random: source of the noise (stream "noise"); None = torch's global generator.
            above_noise: subtract the entropy of the noise.

        Returns:
            (B,).

        Raises:
            FAEError: for `above_noise` if noise_std is 0.
        """
        bits = -self.log_prob(self._add_noise(z, random), condition) / (z[0].numel() * math.log(2))
        if not above_noise:
            return bits
        if not self.config.noise_std:
            raise FAEError("bits above the noise need a noise_std above 0")
        return bits - 0.5 * math.log2(2 * math.pi * math.e * self.config.noise_std**2)

    def loss(self, z: Tensor, condition: Any = None, *, random: SlotRandom | None = None) -> dict[str, Tensor]:
        """Negative log-likelihood per dimension of z + noise, without the constant log(2 pi)/2.

            loss = mean(noise^2)/2 + sum over blocks of mean(log sigma) + regularization * sum of mean(block input^2)

        Args:
            z: normalised latents (B, C, h, w).
            condition: labels or text; None = the null condition.
            random: source of the draws (streams "noise" and, in training mode, "label_dropout"); None
                = torch's generator.

        Returns:
            "loss" and its terms, scalars.

        Raises:
            FAEError: unless z has the spec's shape and the condition fits.
        """
        self.spec.check(z)
        check_data(self.config, condition, len(z))
        prepared = prepare_condition(self.config, condition, len(z), z.device)
        if self.training:
            prepared = drop_condition(self.config, prepared, random)
        trace = self._trace(self._add_noise(z, random), prepared)
        terms = {
            "prior": 0.5 * trace.states[-1].square().mean(),
            "log_sigma": reduce(torch.add, (log_sigma.mean() for log_sigma in trace.log_sigmas)),
        }
        nll = terms["prior"] + terms["log_sigma"]
        terms["bits_per_dim"] = (nll.detach() + 0.5 * _LOG_2PI) / math.log(2)
        if self.config.regularization:
            terms["squared_states"] = reduce(torch.add, (state.square().mean() for state in trace.states[:-1]))
            nll = nll + self.config.regularization * terms["squared_states"]
        return {"loss": nll, **terms}

    def sample(
        self,
        condition: Any = None,
        *,
        noise: Tensor | None = None,
        guidance: Annotated[float, Field(ge=0, le=1e6)] = 1.0,
        uncond: Any = None,
        random: SlotRandom | None = None,
        denoise: bool | None = None,
        guide_top_only: bool = False,
        jacobi: Annotated[Jacobi | Mapping[str, Any] | None, PlainValidator(Jacobi.parse)] = None,
        cuda_graph: bool | Literal["auto"] = "auto",
        precision: Literal["fp32", "bf16", "auto"] = "auto",
        observe: Observer | None = None,
    ) -> Tensor:
        """Latents, one per condition. A FlowSampler that is kept over several calls saves their setup.

        Args:
            condition: labels or text; None = the null condition for every sample.
            noise: (B, C, h, w), standard normal; None = drawn from `random` (stream "noise") or
                torch's global generator.
            guidance: scale, 1 = off; the original's w is guidance - 1. It acts in every block that sees the condition.
            uncond: the condition to guide away from; None = the null condition.
            random: source of the noise; it also names the samples in errors.
            denoise: end with a Tweedie step; None = as the config says.
            guide_top_only: guide in the top block alone.
            jacobi: solve stretches of tokens in parallel instead of one by one.
            cuda_graph: replay one captured step per token; "auto": on a GPU, for small batches, where `jacobi` is None.
            precision: of weights, activations and cache; "auto": bf16 on a GPU, the model's own elsewhere. Latents stay
                fp32.
            observe: called at the noise, after every token that is decoded one by one, and after every block; the last
                state is that before a Tweedie step.

        Returns:
            Normalised latents (B, C, h, w).

        Raises:
            FAEError: if the arguments do not fit, or samples are not finite.
        """
        from fae_flow.sampling.sampler import FlowSampler

        noise, prepared = self.start(condition, noise, random)
        options = {"guidance": guidance, "uncond": uncond, "guide_top_only": guide_top_only, "jacobi": jacobi}
        options["observe"] = observe
        bf16 = precision == "bf16" or (precision == "auto" and noise.device.type == "cuda")
        dtype = torch.bfloat16 if bf16 else torch.float32 if precision == "fp32" else None
        sampler = FlowSampler(self, dtype=dtype, cuda_graph=cuda_graph)
        z = check_samples(sampler.trace(prepared, noise, **options)[-1], random)
        denoise = self.config.denoise if denoise is None else denoise
        self.evaluations += sampler.evaluations + (len(z) if denoise else 0)
        return check_samples(self.denoise(z, prepared), random) if denoise else z

    def denoise(self, z: Tensor, condition: Any = None, noise_std: float | None = None) -> Tensor:
        """Tweedie's estimate of the clean latents, z + noise_std^2 * d log p(z) / dz, by one backward pass.

        Args:
            z: noisy latents (B, C, h, w).
            condition: labels or text; None = the null condition.
            noise_std: of the noise in `z`; None = the config's.

        Returns:
            (B, C, h, w).
        """
        noise_std = self.config.noise_std if noise_std is None else noise_std
        # In the model's own dtype, whatever autocast the caller is in.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
            # Copies, because autograd refuses tensors and weights that a caller made in inference mode.
            leaf = z.detach().clone().requires_grad_(True)
            condition = condition.clone() if isinstance(condition, Tensor) else condition
            made_there = any(weight.is_inference() for weight in self.parameters())
            model = copy.deepcopy(self) if made_there else self
            (score,) = torch.autograd.grad(model.log_prob(leaf, condition).sum(), leaf)
        return z + noise_std**2 * score

    def start(self, condition: Any, noise: Tensor | None, random: SlotRandom | None) -> tuple[Tensor, Tensor | None]:
        """Noise and prepared condition of a `sample` call, on the model's device; arguments as of `sample`.

        Args:
            condition: Labels or text; None = the null condition.
            noise: (B, C, h, w), standard normal; None = drawn from `random`.
            random: Source of the noise; None = torch's global generator.

        Raises:
            FAEError: if they do not fit, or do not say how many samples to make.
        """
        device = next(self.parameters()).device
        count = sample_count(condition, noise, random)
        if noise is None:
            shape, plain = self.spec.shape, {"dtype": torch.float32, "device": "cpu"}
            noise = torch.randn(count, *shape, **plain) if random is None else random.normal(shape, "noise")
        self.check_grid(noise)
        if isinstance(condition, Tensor) and not condition.is_floating_point():
            condition = condition.cpu()  # labels, whose range is checked on the CPU
        return noise.to(device), prepare_condition(self.config, condition, len(noise), device)

    def check_grid(self, z: Tensor) -> None:
        """Raise FAEError unless z can be cut into this model's tokens.

        Args:
            z: What should be latents (B, C, h, w); of another grid than the spec's only with rope.
        """
        patch = self.config.patch_size
        if z.ndim != 4 or z.shape[1] != self.spec.channels or not self.config.rope:
            self.spec.check(z)
        if z.shape[2] % patch or z.shape[3] % patch:
            raise FAEError(f"latents of shape {tuple(z.shape)} cannot be cut into patches of {patch}")

    def rope(self, height: int, width: int, condition: Tensor | None) -> Rope | None:
        """Rotary tables of the condition's prefix and a grid of height x width tokens; None without rope.

        Args:
            height: Of the grid in tokens.
            width: Of the grid in tokens.
            condition: As blocks see it, (B, L, D); None without.
        """
        if not self.config.rope:
            return None
        prefix = 0 if condition is None else 1 if self.config.classes else condition.shape[1]
        grid = self.config.rope_length or math.sqrt(self.spec.height * self.spec.width) / self.config.patch_size
        options = {"text_frequencies": self.config.text_frequencies, "length": grid}
        return rope_tables(height, width, prefix, self.config.head_dim, **options, device=self._device)

    def patchify(self, z: Tensor) -> Tensor:
        """(B, C, h, w) to tokens (B, T, p * p * C), in raster order, channels fastest.

        Args:
            z: Latents (B, C, h, w), whose sides the patch divides.
        """
        patch = self.config.patch_size
        return rearrange(z, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)

    def unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `patchify`; height and width in tokens.

        Args:
            tokens: (B, T, p * p * C), in raster order.
            height: Of the grid in tokens.
            width: Of the grid in tokens.
        """
        patch = self.config.patch_size
        return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=height, w=width, p=patch, q=patch)

    @property
    def _device(self) -> torch.device:
        return self.blocks[-1].proj_in.weight.device

    def _trace(self, z: Tensor, condition: Tensor | None) -> FlowTrace:
        self.check_grid(z)
        rope = self.rope(z.shape[2] // self.config.patch_size, z.shape[3] // self.config.patch_size, condition)
        states, log_sigmas = [self.patchify(z).float()], []
        for block in self.blocks:
            state, log_sigma = block(block.order(states[-1]), condition, rope)
            states.append(block.order(state))
            log_sigmas.append(log_sigma)
        return FlowTrace(tuple(states), tuple(log_sigmas))

    def _add_noise(self, z: Tensor, random: SlotRandom | None) -> Tensor:
        if not self.config.noise_std:
            return z
        noise = random.normal(z.shape[1:], "noise", z.device) if random is not None else torch.randn_like(z)
        return z + self.config.noise_std * noise.to(z.dtype)
