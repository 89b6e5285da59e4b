"""What `fae` settles for its process before torch is loaded."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from fae_core.cli.process import keep_freed_memory
kept = keep_freed_memory() if {keep} else False
import torch
torch.set_num_threads(1)
def work():
    return sum(x.sum() for x in [torch.ones(1_000_000) for _ in range(16)])
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(keep: bool, **environment: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    program = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    told = subprocess.run(program, env={**clean, **environment}, capture_output=True, text=True, check=True).stdout
    kept, faults = told.split()
    return kept, int(faults)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back and can be told not to"
)
def test_freed_memory_serves_the_next_tensors() -> None:
    """Twenty times sixteen tensors of four megabytes are 312,500 pages of 4 KiB where each is asked for anew."""
    kept, faults = run(True)
    assert kept == "True" and faults < 2_000
    assert run(False)[1] > 20 * max(faults, 100)


def test_the_users_own_settings_win() -> None:
    assert run(True, MALLOC_ARENA_MAX="2")[0] == "False"
