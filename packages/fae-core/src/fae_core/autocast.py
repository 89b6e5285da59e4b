"""The precision of a forward pass: bf16 by autocast, where the device computes it."""

from __future__ import annotations

import logging
from functools import cache

import torch

log = logging.getLogger("fae")


def autocast(device: str, precision: str) -> torch.autocast:
    """The context of a forward pass, whatever context the caller is in.

    Without instructions for bf16 (AVX-512 on x86) torch computes bf16 up to a hundred times slower than fp32; a CPU
    that has none uses fp32, and a warning says so once.

    Args:
        device: "cpu", "cuda", or "cuda:0" and so on.
        precision: "fp32", or "bf16" for autocast.
    """
    kind = device.partition(":")[0]
    bf16 = precision == "bf16" and (kind != "cpu" or _cpu_has_bf16())
    return torch.autocast(kind, torch.bfloat16, enabled=bf16)


@cache
def _cpu_has_bf16() -> bool:
    found = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not found:
        log.warning("this CPU has no instructions for bf16: fp32 is used, which is faster here")
    return found
