"""A group of processes as torchrun starts it, but forked from one that has imported torch, which would take most of the
time of a small test in each of them.

python forked_group.py PROCESSES PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
from pathlib import Path


def launcher(processes: int) -> list[str]:
    """What comes before a program and its arguments, for so many processes."""
    return [sys.executable, *([__file__, str(processes)] if processes > 1 else [])]


def main() -> None:
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # noqa: F401

    processes, program, *arguments = sys.argv[1:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = set()
    for rank in range(int(processes)):
        child = os.fork()
        if not child:
            os.environ |= {**shared, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            sys.argv[:] = [program, *arguments]
            sys.path[0] = str(Path(program).resolve().parent)
            runpy.run_path(program, run_name="__main__")
            return
        children.add(child)
    failed = False
    while children:
        child, status = os.wait()
        children.discard(child)
        if status and not failed:  # the others would wait for it
            failed = True
            for other in children:
                os.kill(other, signal.SIGTERM)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
