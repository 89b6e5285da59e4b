"""What `fae info PRESET --gpus N` and `--measure` print: memory and time of training, counted, assumed or measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fae_core.cost.measured import Throughput
    from fae_core.models.pretrained import PretrainedModel

H100_TFLOPS = 989.0  # dense bf16
UTILISATION = 0.4  # share of a GPU's peak that training is assumed to reach


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of the table; see the options of `fae info`.

    Attributes:
        gpus: Number of GPUs.
        batch_size: Samples of a step on all GPUs together.
        samples: Number of samples in an epoch.
        gpu_memory: Memory of each GPU, in GB.
        tflops: Peak of a GPU; None: `H100_TFLOPS`.
        utilisation: Share of the peak that training reaches.
        rate: Measured samples per second of all GPUs together; None: not measured.
    """

    gpus: int
    batch_size: int
    samples: int
    gpu_memory: float
    tflops: float | None
    utilisation: float
    rate: float | None


def training_lines(
    build: Callable[..., PretrainedModel], about: Assumptions, measured: Throughput | None = None
) -> list[str]:
    """What training takes, as a table with the assumptions under it.

    Args:
        build: Makes the model, as for `measure_cost`.
        about: The assumptions.
        measured: This device's rate, which replaces the assumed speed.
    """
    from fae_core.cost.counted import estimate, measure_cost, with_measured_rate

    cost = measure_cost(build)
    peak = about.tflops or H100_TFLOPS
    speed = measured.flops_per_second if measured else peak * 1e12 * about.utilisation
    hours = "device-hours" if measured else "GPU-hours"
    lines = [
        f"a sample: {cost.forward_flops / 1e9:,.1f} GFLOPs forward, {cost.backward_flops / 1e9:,.1f} backward; "
        f"{cost.activations / 1e6:,.0f} MB kept for backward"
        + (f", {cost.checkpointed / 1e6:,.0f} MB with gradient checkpointing" if cost.checkpointed is not None else ""),
        f"training on {about.gpus} GPUs of {about.gpu_memory:g} GB, {about.batch_size} samples a step, "
        f"epochs of {about.samples:,}:",
        f"{'':<22}{'state':>8}{'+ activations':>15}{'= GB a GPU':>12}{'fits':>6}{'most a GPU':>12}"
        f"{f'{hours} an epoch':>23}",
    ]
    for parallel in ("ddp", "fsdp") if about.gpus > 1 else ("ddp",):
        for checkpointing in (False, True) if cost.checkpointed is not None else (False,):
            found = estimate(
                cost,
                gpus=about.gpus,
                batch_size=about.batch_size,
                samples=about.samples,
                parallel=parallel,
                gradient_checkpointing=checkpointing,
                gpu_memory=about.gpu_memory,
                flops_per_second=speed,
            )
            if about.rate:
                found = with_measured_rate(found, about.samples, about.gpus, about.rate)
            name = f"{parallel}{', checkpointing' if checkpointing else ''}"
            fits = "yes" if found.total <= about.gpu_memory else "no"
            lines.append(
                f"{name:<22}{found.state:>8.1f}{found.activations:>15.1f}{found.total:>12.1f}{fits:>6}"
                f"{found.largest_batch:>12,}{found.gpu_hours_per_epoch:>23,.1f}"
            )
    if measured:
        time = f"{speed / 1e9:,.1f} GFLOP/s a device as measured on this one"
    elif about.rate:
        time = f"{about.rate:g} samples a second as measured"
    else:
        time = f"{about.utilisation:.0%} of {peak:g} TFLOP/s (an assumption; --measure times this device)"
    lines.append(f"assumed: weights, AdamW and average in fp32, activations in bf16, no fragmentation; time: {time}")
    return lines


def measured_lines(found: Throughput, samples: int, devices: int, tflops: float | None) -> list[str]:
    """What was timed, on which device, and the hours that follow.

    Args:
        found: The measured rate.
        samples: Number of samples in an epoch.
        devices: Number of devices.
        tflops: The device's peak, where it is known.
    """
    spread = f"{min(found.seconds):.3g} to {max(found.seconds):.3g} s"
    part = "the whole model"
    if found.blocks and found.blocks[0] < found.blocks[1]:
        part = f"measured on {found.blocks[0]} of {found.blocks[1]} identical blocks, scaled by FLOPs"
    core = "" if found.precision == "bf16" else f" ({found.samples_per_core_second:.4g} per core-second)"
    share = f", {found.flops_per_second / 1e12 / tflops:.1%} of {tflops:g} TFLOP/s" if tflops else ""
    hours = samples / found.samples_per_second / 3600
    return [
        f"timed on {found.device} in {found.precision}: {len(found.seconds)} steps of batch {found.batch}, "
        f"{spread} each; {part}",
        f"measured: {found.samples_per_second:.4g} samples/s{core}, {found.flops_per_second / 1e9:,.1f} GFLOP/s{share}",
        f"an epoch of {samples:,}: {hours:,.1f} hours on one such device"
        + (f", {hours / devices:,.1f} on {devices} that are as fast together as alone" if devices > 1 else ""),
        "timed: forward and backward passes with random weights and inputs (what is frozen: forward only); "
        "not the optimiser, data or communication",
        *(f"without a flag: {line}" for line in found.choices),
    ]


def measure(build: Callable[..., PretrainedModel], device: str | None, batch: int, **options: Any) -> Throughput:
    """Time this device.

    Args:
        build: Makes the model, as for `measure_cost`.
        device: Device to time; None: CUDA where there is one.
        batch: Samples of a step on a GPU where `measure_batch` is None; a CPU then takes 1.
        **options: `measure_batch`, and further options of `measure_throughput`.
    """
    from fae_core.cost.measured import measure_throughput
    from fae_core.processes import resolve_device

    device = resolve_device(device)
    chosen = options.pop("measure_batch") or (batch if device.startswith("cuda") else 1)
    return measure_throughput(build, device=device, batch=chosen, **options)
