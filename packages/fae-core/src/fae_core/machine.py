"""What a process may use of its machine: cores and memory, within the limits of a container, and the names of devices.

torch is not imported, so that a command can refuse a device at once.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

from fae_core.errors import FAEError

_GROUP = Path("/sys/fs/cgroup")
_GPU = re.compile(r"cuda(?::(0|[1-9]\d{0,3}))?")


def available_cores() -> int:
    """The cores that this process may use, within its affinity (taskset, SLURM) and its container's quota (cpu.max)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_GROUP / "cpu.max").read_text().split()
        cores = min(cores, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or "max": no quota
        pass
    return max(1, cores)


def available_threads() -> int:
    """How many threads this process should read with: the cores that it may use, shared with the others beside it."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def available_memory() -> int:
    """Bytes of memory that can be taken now, within the container's limit (memory.max)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max"
        limit = free
    return min(free, limit)


def gpu_number(device: str) -> int | None:
    """The number of the GPU that a device names, 0 for "cuda"; None for "cpu". Raises FAEError for another name."""
    if device == "cpu":
        return None
    found = _GPU.fullmatch(device)
    if found is None:
        raise FAEError(f"unknown device {device[:40]!r}; FAE works on cpu, cuda or cuda:N")
    return int(found[1] or 0)


def has_driver() -> bool:
    """Whether there can be a GPU that torch sees: False where Linux has no driver of one."""
    if not sys.platform.startswith("linux") or Path("/dev/kfd").exists():  # of AMD's GPUs, which torch names cuda, too
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def no_gpu(device: str) -> FAEError:
    """The error for a GPU where torch sees none."""
    return FAEError(f"device {device} was asked for, but torch sees no GPU; pass --device cpu")
