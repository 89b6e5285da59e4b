"""How fast this device trains a model, timed: forward and backward passes with random weights and inputs.

Weights are random and stored on the device in fp32; a GPU computes under bf16 autocast, a CPU in fp32. Frozen parts
take part in the forward pass only. The optimiser's update, which takes the same time for every batch size, is not
timed, nor are reading data and communication. From a model whose weights, gradients and activations do not fit,
identical blocks are removed until they do; its speed follows from the FLOPs.
"""

from __future__ import annotations

import functools
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from fae_core import ops
from fae_core.cost.counted import BF16, FP32, Cost, measure_cost, recomputes
from fae_core.errors import FAEError, first_line
from fae_core.machine import available_memory
from fae_core.models.pretrained import PretrainedModel
from fae_core.ops.compiling import cannot_compile, compiles
from fae_core.ops.measured import best
from fae_core.ops.tune import why_not

ModelT = TypeVar("ModelT", bound=nn.Module)
_SHARE = 0.8  # of the free memory that a measurement may take
_WEIGHT_SCALE = 0.02


@dataclass(frozen=True)
class Throughput:
    """A measured rate. FLOPs count forward, backward and what gradient checkpointing computes again.

    Attributes:
        device: Name of the device.
        precision: "bf16" or "fp32".
        batch: Samples of a step.
        blocks: (measured, all) of the longest run of identical blocks; None where there is no such run.
        seconds: Duration of each repeat.
        core_seconds: Time of the processor's cores in each repeat, added up; on a GPU they only wait.
        work: FLOPs of a sample in the part that was timed.
        whole: FLOPs of a sample in the whole model.
        choices: What the device gets without a flag, a line each: compiling, attention, kernels.
    """

    device: str
    precision: str
    batch: int
    blocks: tuple[int, int] | None
    seconds: tuple[float, ...]
    core_seconds: tuple[float, ...]
    work: float
    whole: float
    choices: tuple[str, ...] = ()

    @property
    def flops_per_second(self) -> float:
        """The speed that the device reached, by the median repeat."""
        return self.batch * self.work / statistics.median(self.seconds)

    @property
    def samples_per_second(self) -> float:
        """The rate of the whole model."""
        return self.flops_per_second / self.whole

    @property
    def samples_per_core_second(self) -> float:
        """The rate of one core that is not shared, of the whole model on a CPU, by the median repeat."""
        return self.batch * self.work / self.whole / statistics.median(self.core_seconds)


@dataclass(frozen=True)
class BlockRun:
    """Neighbours of one kind and shape in a ModuleList or Sequential.

    Attributes:
        path: Name of the ModuleList or Sequential in the model.
        start: Index of the first.
        count: Number of blocks.
        parameters: Number of parameters of one block.
    """

    path: str
    start: int
    count: int
    parameters: int


def measure_throughput(
    build: Callable[..., PretrainedModel],
    *,
    device: str = "cpu",
    batch: int = 1,
    blocks: int | None = None,
    repeats: int = 3,
    warmup: int = 1,
    memory: float | None = None,
    compile: bool | Literal["auto"] = False,
) -> Throughput:
    """Time training steps of a model.

    Args:
        build: Makes the model, given fields of its config.
        device: Device to time, such as "cpu" or "cuda:0".
        batch: Samples of a step.
        blocks: Number of blocks of the longest run of identical blocks; None: as many as fit.
        repeats: Steps that are timed.
        warmup: Steps before them.
        memory: Bytes that may be used; None: 80 % of what is free.
        compile: As in the settings of training: whether its blocks are compiled.

    Raises:
        FAEError: Not even a single block fits, or the device runs out of memory; one line.
    """
    whole = measure_cost(build)
    with torch.device("meta"):
        model = build()
    checkpointing, run = recomputes(model), longest_run(model)
    everything = run.count if run else 1
    budget = _free_memory(device) * _SHARE if memory is None else memory
    kept = everything if blocks is None else min(blocks, everything)
    cost = whole if kept == everything else _shorter(build, kept)
    if blocks is None and _bytes(whole, batch, device, checkpointing) > budget:
        if run is None:
            raise FAEError(_too_large(_bytes(whole, batch, device, checkpointing), budget, batch))
        least = _shorter(build, 1)
        kept, needed = _most_that_fit(whole, least, everything, budget, batch, device, checkpointing)
        if not kept:
            raise FAEError(_too_large(needed, budget, batch))
        cost = _shorter(build, kept)
    if kept < everything:
        shorten(model, kept)
    try:
        choices = _prepare(model.train(), device, batch, compile)
        seconds, core_seconds = _timed_steps(model, device, batch, repeats, warmup)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        part = f" with {kept} of {everything} blocks" if run else ""
        raise FAEError(
            f"out of memory at {batch} samples a step{part}; lower --measure-batch, or --measure-blocks"
        ) from None
    return Throughput(
        device_name(device),
        "bf16" if device.startswith("cuda") else "fp32",
        batch,
        (kept, everything) if run else None,
        seconds,
        core_seconds,
        cost.work(checkpointing),
        whole.work(checkpointing),
        choices,
    )


def longest_run(model: nn.Module) -> BlockRun | None:
    """The run of identical blocks that holds the most parameters; None for a model without two such blocks in a row."""
    runs = []
    for path, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        kinds = [(type(child), tuple((name, p.shape) for name, p in child.named_parameters())) for child in module]
        start = 0
        for i in range(1, len(kinds) + 1):
            if i == len(kinds) or kinds[i] != kinds[start]:
                size = sum(p.numel() for p in module[start].parameters())
                runs.append(BlockRun(path, start, i - start, size))
                start = i
    runs = [run for run in runs if run.count > 1 and run.parameters]
    return max(runs, key=lambda run: run.count * run.parameters, default=None)


def shorten(model: ModelT, kept: int) -> ModelT:
    """Remove blocks from a model's longest run of identical blocks, of which it has one.

    Args:
        model: The model, which is changed.
        kept: Number of blocks to keep, from the first on.

    Returns:
        The same model.
    """
    run = longest_run(model)
    assert run is not None
    blocks = model.get_submodule(run.path)
    assert isinstance(blocks, nn.ModuleList | nn.Sequential)
    del blocks[run.start + kept : run.start + run.count]
    return model


def device_name(device: str) -> str:
    """The device's name, for a person; of a CPU also the number of threads that torch uses."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()} ({threads} thread{'s' if threads > 1 else ''})"


def _shorter(build: Callable[..., PretrainedModel], kept: int) -> Cost:
    try:
        return measure_cost(lambda **fields: shorten(build(**fields), kept))
    except Exception as error:  # such as a network that names its blocks by number
        reason = first_line(error)
        raise FAEError(
            f"this model does not run with fewer blocks ({reason[:120]}); measure all of it, where there is enough "
            "memory"
        ) from None


def _bytes(cost: Cost, batch: int, device: str, checkpointing: bool) -> float:
    """Bytes of a step: weights, gradients, activations (counted in bf16), and autocast's copy of the weights."""
    cuda = device.startswith("cuda")
    kept = cost.checkpointed if checkpointing and cost.checkpointed is not None else cost.activations
    weights = cost.parameters * (FP32 + (BF16 if cuda else 0)) + cost.trainable * FP32
    return weights + batch * kept * (1 if cuda else FP32 / BF16)


def _most_that_fit(
    whole: Cost, least: Cost, everything: int, budget: float, batch: int, device: str, checkpointing: bool
) -> tuple[int, float]:
    """How many of the blocks fit, and the bytes that one alone takes. All blocks cost the same."""
    one, all_ = (_bytes(cost, batch, device, checkpointing) for cost in (least, whole))
    each = (all_ - one) / (everything - 1)
    return (0 if one > budget else 1 + int((budget - one) / each)), one


def _prepare(model: PretrainedModel, device: str, batch: int, compile: bool | Literal["auto"]) -> tuple[str, ...]:
    """Give a model on the meta device weights, and do what training does before its first step; says what that was."""
    _materialize(model, device)
    compiled = compiles(compile, device)
    reason = cannot_compile(device) if compile == "auto" else f"training.compile is {compile}"
    lines = [f"blocks: {'compiled' if compiled else 'not compiled'}{f' ({reason})' if reason else ''}"]
    first = ops.order_backends(device)
    lines.append(f"attention: {first} first" if first else "attention: in torch's order")
    if (off := why_not()) is None:

        def run() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                model.dry_run(batch)

        for (op, shape, dtype, *_), times in ops.tune(run, compiled=compiled).items():
            found = ", ".join(f"{name} {value:.3f} ms" for name, value in sorted(times.items()))
            lines.append(f"{op} {'x'.join(map(str, shape))} {dtype}: {best(times)} ({found})")
    else:
        lines.append(f"kernels: torch's own ({off})")
    if compiled:
        for block in getattr(model, "blocks", ()):
            block.compile()
    return tuple(lines)


def _timed_steps(
    model: PretrainedModel, device: str, batch: int, repeats: int, warmup: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds and core-seconds of each step."""
    cuda = device.startswith("cuda")
    wait = functools.partial(torch.cuda.synchronize, device) if cuda else lambda: None
    seconds, core_seconds = [], []
    for _ in range(warmup + repeats):
        wait()
        started, begun = time.perf_counter(), time.process_time()
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
            out = model.dry_run(batch)
        if out.requires_grad:
            out.float().square().mean().backward()
        model.zero_grad(set_to_none=True)
        del out
        wait()
        seconds.append(time.perf_counter() - started)
        core_seconds.append(time.process_time() - begun)
    return tuple(seconds[warmup:]), tuple(core_seconds[warmup:])


def _materialize(model: nn.Module, device: str) -> None:
    """Give a model of the meta device memory on the device, with random weights.

    Buffers are filled with ones, so that scales, rotations and masks remove nothing; integers are zero.
    """
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, _WEIGHT_SCALE, generator=generator)
        for buffer in model.buffers():
            buffer.fill_(1 if buffer.is_floating_point() or buffer.dtype == torch.bool else 0)


def _free_memory(device: str) -> float:
    """Bytes that can be taken now, within a container's limit."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    return float(available_memory())


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def _too_large(needed: float, budget: float, batch: int) -> str:
    return (
        f"{batch} samples a step take {needed / 1e9:.2g} GB even with a single block, and {budget / 1e9:.2g} GB may be "
        "used; lower --measure-batch, or free memory"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
