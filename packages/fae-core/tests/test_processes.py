"""Groups of processes are left without waiting for each other for ever."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# A group is joined and left again and again; its wrapped model is freed after it, as a command's is that has returned.
PROGRAM = """
import os, sys
import torch
from torch import nn
from fae_core.processes import processes

def train():
    with processes("cpu") as group:
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
        model(torch.randn(2, 4)).sum().backward()
        for _ in range(3):
            seen = [torch.empty(4) for _ in range(2)]
            torch.distributed.all_gather(seen, torch.ones(4))

for port in sys.argv[1:]:
    os.environ["MASTER_PORT"] = port
    train()
print("left")
"""


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
def test_a_group_is_left_while_its_threads_release_tensors(tmp_path: Path) -> None:
    """Freed by a wrapped model, every second or third group waits for its threads, and they for the interpreter."""
    ports = free_ports(12)
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *ports],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert [process.communicate(timeout=120)[0] for process in started] == ["left\n"] * 2
    finally:
        for process in started:
            process.kill()
