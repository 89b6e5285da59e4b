"""What a model costs to train, counted rather than timed.

A pass on the meta device gives its FLOPs and what autograd keeps. Nothing is computed and no memory is taken, so a
model of any size is counted in seconds on any machine. Memory follows from the counts exactly; time needs the share of
a GPU's peak that training reaches, which the caller assumes or `fae_core.cost.measured` measures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fae_core.errors import FAEError, InvalidSettings, first_line
from fae_core.models.pretrained import PretrainedModel

_GIGABYTE = 1e9
FP32, BF16 = 4, 2
_SWITCH = "gradient_checkpointing"  # of a config, or of a model


@dataclass(frozen=True)
class Cost:
    """The counts of one model; FLOPs and bytes are per sample, activations in bf16.

    Attributes:
        parameters: Number of all parameters.
        trainable: Number of parameters that are trained.
        forward_flops: FLOPs of the forward pass.
        backward_flops: FLOPs of the backward pass.
        activations: Bytes that autograd keeps for the backward pass.
        checkpointed: The same where each block is computed again in the backward pass; None: the model cannot do so.
    """

    parameters: int
    trainable: int
    forward_flops: float
    backward_flops: float
    activations: float
    checkpointed: float | None

    def work(self, gradient_checkpointing: bool = False) -> float:
        """FLOPs of training on one sample.

        Args:
            gradient_checkpointing: Add one more forward pass.
        """
        return self.forward_flops * (2 if gradient_checkpointing else 1) + self.backward_flops


@dataclass(frozen=True)
class Estimate:
    """A training set-up and what it takes on each GPU.

    Attributes:
        parallel: How the GPUs work together.
        gradient_checkpointing: Blocks are computed again in the backward pass.
        batch_per_gpu: Samples of a step on one GPU.
        state: GB of weights (fp32 and bf16), gradients, AdamW's two moments and the average; divided under FSDP.
        activations: GB for this GPU's samples.
        largest_batch: Samples per GPU that fit beside the state; 0: none.
        gpu_hours_per_epoch: Hours of all GPUs together.
    """

    parallel: Literal["ddp", "fsdp"]
    gradient_checkpointing: bool
    batch_per_gpu: int
    state: float
    activations: float
    largest_batch: int
    gpu_hours_per_epoch: float

    @property
    def total(self) -> float:
        """GB of state and activations."""
        return self.state + self.activations


def measure_cost(build: Callable[..., PretrainedModel]) -> Cost:
    """Count a model, which is built on the meta device in training mode.

    Args:
        build: Makes the model, given fields of its config.
    """
    plain, forward, backward, model = _trace(build, checkpointing=False)
    checkpointed = _trace(build, checkpointing=True)[0] if _can_checkpoint(model) else None
    return Cost(
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        forward,
        backward,
        plain,
        checkpointed,
    )


def estimate(
    cost: Cost,
    *,
    gpus: int,
    batch_size: int,
    samples: int,
    parallel: Literal["ddp", "fsdp"] = "ddp",
    gradient_checkpointing: bool = False,
    gpu_memory: float = 80.0,
    flops_per_second: float = 4e14,
) -> Estimate:
    """What training a model of this cost takes.

    Args:
        cost: The counts of the model.
        gpus: Number of GPUs.
        batch_size: Samples of a step on all GPUs together.
        samples: Number of samples in an epoch.
        parallel: How the GPUs work together.
        gradient_checkpointing: Compute blocks again in the backward pass.
        gpu_memory: Memory of each GPU, in GB.
        flops_per_second: Speed that a GPU reaches in training.
    """
    activations = cost.checkpointed if gradient_checkpointing and cost.checkpointed is not None else cost.activations
    # Under autocast the weights exist in fp32 and, converted once a step, in bf16.
    held = cost.trainable * (5 * FP32 + BF16) + (cost.parameters - cost.trainable) * FP32
    state = held / (gpus if parallel == "fsdp" else 1) / _GIGABYTE
    share = -(-batch_size // gpus)
    return Estimate(
        parallel,
        gradient_checkpointing,
        share,
        state,
        share * activations / _GIGABYTE,
        max(0, int((gpu_memory - state) * _GIGABYTE / activations)) if activations else 0,
        samples * cost.work(gradient_checkpointing) / flops_per_second / 3600,
    )


def with_measured_rate(estimated: Estimate, samples: int, gpus: int, samples_per_second: float) -> Estimate:
    """The estimate with its hours from a measured rate.

    Args:
        estimated: The estimate to change.
        samples: Number of samples in an epoch.
        gpus: Number of GPUs.
        samples_per_second: Measured rate of all GPUs together.
    """
    return replace(estimated, gpu_hours_per_epoch=samples / samples_per_second / 3600 * gpus)


def recomputes(model: PretrainedModel) -> bool:
    """Whether the model is set to compute its blocks again in the backward pass."""
    return bool(getattr(model.config, _SWITCH, False) or getattr(model, _SWITCH, False))


def count_pass(model: PretrainedModel) -> tuple[float, float, float]:
    """Count one more sample of a model as it is, on the meta device and in bf16.

    A model whose `dry_run` needs fp32 weights, which it has under autocast, is counted with them, and its activations
    as half as large.

    Args:
        model: It is put into training mode and cast; parameters that are not to be trained are frozen.

    Returns:
        Bytes kept for the backward pass, FLOPs of the forward pass, FLOPs of the backward pass.

    Raises:
        FAEError: The model's `dry_run` does not run on the meta device.
    """
    try:
        return _one_more(model, torch.bfloat16)
    except Exception:  # such as two dtypes in one product; autocast, which would make them one, ignores the meta device
        try:
            return _one_more(model, torch.float32)
        except Exception as error:
            name = type(model).__name__
            raise FAEError(f"dry_run of {name} fails on the meta device: {first_line(error)}") from error


def _one_more(model: PretrainedModel, dtype: torch.dtype) -> tuple[float, float, float]:
    """What `count_pass` returns, counted in a dtype."""
    model.to(dtype).train()
    checkpointing = recomputes(model)
    first, second = (_pass(model, batch, checkpointing, dtype) for batch in (1, 2))
    kept, forward, backward = (b - a for a, b in zip(first, second, strict=True))
    return kept, forward, backward


def _trace(build: Callable[..., PretrainedModel], checkpointing: bool) -> tuple[float, float, float, PretrainedModel]:
    """Bytes kept for backward, forward and backward FLOPs, each of one more sample, and the model."""
    with torch.device("meta"):
        model = build()
        if hasattr(model.config, _SWITCH):
            model = build(**{_SWITCH: checkpointing})
        elif hasattr(model, _SWITCH):
            setattr(model, _SWITCH, checkpointing)
    return *count_pass(model), model


def _can_checkpoint(model: PretrainedModel) -> bool:
    return hasattr(model, _SWITCH) or hasattr(model.config, _SWITCH)


def _pass(model: PretrainedModel, batch: int, checkpointing: bool, dtype: torch.dtype) -> tuple[float, float, float]:
    """Bytes kept for backward, those of `dtype` as if they were bf16; forward and backward FLOPs of a batch."""
    kept: dict[int, tuple[Tensor, float]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        size = storage.nbytes() * (BF16 / dtype.itemsize if tensor.dtype == dtype else 1)
        kept[storage._cdata] = (tensor, size)  # the tensor too, so that no storage's address is used again
        return tensor

    def keep_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in tree_leaves(inputs):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                keep(tensor)

    # torch.utils.checkpoint holds a block's inputs itself; hooks on saved tensors do not see those inside tuples.
    blocks = getattr(model, "blocks", ()) if checkpointing else ()
    hooks = [block.register_forward_pre_hook(keep_inputs) for block in blocks]
    with torch.device("meta"), torch.enable_grad():
        try:
            with FlopCounterMode(display=False) as forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                out = model.dry_run(batch)
        finally:
            for hook in hooks:
                hook.remove()
        with FlopCounterMode(display=False) as backward:
            if out.requires_grad:
                out.float().sum().backward()
    weights = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    size = sum(size for storage, (_, size) in kept.items() if storage not in weights)
    return float(size), float(forward.get_total_flops()), float(backward.get_total_flops())


def require_room(build: Callable[[], nn.Module], what: str) -> None:
    """Refuse a model whose fp32 weights alone are more than this machine's whole memory.

    Args:
        build: Makes the model; it is called on the meta device.
        what: The settings, for the message.

    Raises:
        InvalidSettings: The weights do not fit.
    """
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build().parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if FP32 * count > memory:
        raise InvalidSettings(
            f"{what} make {count:,} parameters, {FP32 * count / _GIGABYTE:,.0f} GB in fp32; this machine has "
            f"{memory / _GIGABYTE:,.0f} GB of memory: lower width or depth"
        )
