"""What was measured on this device: milliseconds of each backend, by op, shapes, dtype, training and compiling.

`fae_core.ops.tune` measures. The record is a JSON file in the user's cache folder, one for each combination of device,
driver, torch and triton, read when a first choice on CUDA is made. A choice follows it only for the shapes that were
measured; elsewhere `RULE_OPS` say what happens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fae_core.documents import read_json
from fae_core.errors import FAEError
from fae_core.folders import MEASURED_OPS, cache_folder
from fae_core.ops import triton

VARIABLE = "FAE_OPS_TUNE"
"""The environment variable that turns measured choices off, where it is 0."""

MARGIN = 1.03
"""A backend other than torch's own choice has to be so many times faster to be taken."""

RULE_OPS = ("apply_rope", "qk_norm_rope")
"""Ops whose kernel is taken until it is measured: in eager mode, half precision, from `RULE_BYTES` on. On an H200 at
batch 128 their last version was 2 to 13 times as fast as what eager torch still does. No measurement says that of the
others (docs/kernels.md)."""

RULE_BYTES = 4 * 2**20
"""Below so many bytes a call is over before its launch is."""

FORMAT = 1


Case = tuple[str, tuple[int, ...], str, bool, bool]
"""What a measurement holds for: the op, `shape_of` the call, its dtype, whether with the backward pass, whether under
torch.compile."""

TIMES: dict[Case, dict[str, float]] = {}
"""Milliseconds by case and backend. "torch" stands for what a call takes without a choice."""

_read = False


def case(op: str, shape: tuple[int, ...], dtype: torch.dtype, *, training: bool, compiled: bool) -> Case:
    """The case of a call.

    Args:
        op: Name of the op.
        shape: As `shape_of` gives it.
        dtype: Of the first tensor.
        training: With the backward pass.
        compiled: Under torch.compile.
    """
    return (op, shape, str(dtype).removeprefix("torch."), training, compiled)


def shape_of(shape: Sequence[int], keys: Sequence[int] | None = None) -> tuple[int, ...]:
    """The shape that a measurement is kept under.

    Args:
        shape: Of the first tensor of the call.
        keys: Of an attention's keys, (B, H, M, D): M follows where it is not the number of queries.
    """
    if keys is None or keys[2] == shape[2]:
        return tuple(shape)
    return (*shape, keys[2])


def best(times: dict[str, float]) -> str:
    """The backend to take: the fastest, or torch's own choice where that is nearly as fast.

    Args:
        times: Milliseconds by backend.
    """
    fastest = min(times, key=lambda name: times[name])
    return "torch" if times.get("torch", float("inf")) < times[fastest] * MARGIN else fastest


def is_off() -> str | None:
    """Why measured choices are not followed and nothing is measured, or None."""
    if os.environ.get(VARIABLE) == "0":
        return f"{VARIABLE}=0"
    if torch.are_deterministic_algorithms_enabled():
        return "deterministic algorithms are asked for"
    if torch.version.hip:
        return "nothing was tried on AMD devices"
    return None


def times(op: str, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, float] | None:
    """What was measured for a call as things stand, with or without gradients, compiled or not; None: nothing.

    Args:
        op: Name of the op.
        shape: As `shape_of` gives it.
        dtype: Of the first tensor.
    """
    if not TIMES:
        return None
    compiling, training = torch.compiler.is_compiling(), torch.is_grad_enabled()
    return TIMES.get(case(op, shape, dtype, training=training, compiled=compiling))


def load() -> None:
    """Read this device's record, once in a process. One that cannot be read counts as empty."""
    global _read
    if _read or not torch.cuda.is_available():
        return
    _read = True
    path = record_path()
    if path.exists():
        try:
            TIMES.update(parse(read_json(path)))
        except FAEError:
            return


def record_path(folder: Path | None = None) -> Path:
    """The file of this device, driver, torch and triton.

    Args:
        folder: Of the records; None: in the user's cache folder.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(environment().values()))
    return (folder or cache_folder() / MEASURED_OPS) / f"{name}.json"


def environment() -> dict[str, str]:
    """Device, driver, torch and triton, by name."""
    device = driver = "none"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        driver = triton.driver_version()
    return {"device": device, "driver": driver, "torch": torch.__version__, "triton": triton.version() or "none"}


def parse(record: dict[str, Any]) -> dict[Case, dict[str, float]]:
    """The cases of a record.

    Args:
        record: What `as_record` made.

    Raises:
        FAEError: It is no record of this format.
    """
    found: dict[Case, dict[str, float]] = {}
    try:
        if record["format"] != FORMAT:
            raise ValueError
        for row in record["cases"]:
            shape = tuple(int(n) for n in row["shape"])
            key = (str(row["op"]), shape, str(row["dtype"]), bool(row["training"]), bool(row["compiled"]))
            found[key] = {str(name): float(value) for name, value in row["milliseconds"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FAEError(f"not a record of measured kernels of format {FORMAT}") from None
    return {key: value for key, value in found.items() if value}


def as_record(times: dict[Case, dict[str, float]]) -> dict[str, Any]:
    """A record of cases, as JSON.

    Args:
        times: Milliseconds by case and backend.
    """
    names = ("op", "shape", "dtype", "training", "compiled")
    rows = [{**dict(zip(names, key, strict=True)), "milliseconds": value} for key, value in sorted(times.items())]
    return {"format": FORMAT, **environment(), "cases": rows}
