"""--processes N: start this command again in N processes on this machine, as torchrun does, and wait for them."""

from __future__ import annotations

import os
import signal
import socket
import time

from fae_core.commands.children import Children, children
from fae_core.commands.running import LAUNCHED, arguments_in_force
from fae_core.errors import FAEError

_POLL_SECONDS = 0.1
_STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}
_GRACE = 30.0  # seconds for the others to end by themselves once one has


def relaunched(processes: int) -> bool:
    """Run the current command in several processes.

    SIGTERM and SIGINT are passed on to all, once; at a second one they are killed.

    Args:
        processes: How many.

    Returns:
        Whether they did the work; False: this process should do it itself.

    Raises:
        FAEError: One of the processes failed.
        SystemExit: They were asked to stop; with 128 + the signal.
    """
    if processes == 1 or "WORLD_SIZE" in os.environ:
        return False
    command = without_processes(list(arguments_in_force.get()))
    shared = {
        LAUNCHED: "1",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # by default each process would use all cores
    }
    with children() as group:
        for rank in range(processes):
            group.start(command, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        statuses = _wait(group)
        if group.signal:
            raise SystemExit(128 + group.signal)
    failed = [status for status in statuses if status]
    stopped = {status if status > 0 else 128 - status for status in failed}
    if stopped and stopped <= _STOPPED:  # one of them was asked to stop, and stopped the others
        raise SystemExit(max(stopped))
    if failed:
        raise FAEError(f"a process of `fae {' '.join(command[:2])}` failed (its message is above)")
    return True


def _wait(group: Children) -> list[int | None]:
    """Statuses of all, once they have ended; after a failure or a signal the others get some time to end."""
    until = None
    while True:
        statuses = [child.poll() for child in group.running]
        if None not in statuses:
            return statuses
        ended = [status for status in statuses if status is not None]
        if until is None and (any(ended) or (group.signal and ended)):
            until = time.monotonic() + _GRACE
            if not group.signal and not set(ended) & _STOPPED:
                group.send(signal.SIGTERM)
        if group.again or (until is not None and time.monotonic() > until):
            return statuses  # the end of the block kills them
        time.sleep(_POLL_SECONDS)


def _free_port() -> int:
    """A port that is free, where the processes can connect."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def without_processes(arguments: list[str]) -> list[str]:
    """The arguments without --processes N."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--processes":
            skip = True
        elif not argument.startswith("--processes="):
            kept.append(argument)
    return kept
