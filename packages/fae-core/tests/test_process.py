"""What `fae` sets for its process before torch is loaded. What keeping freed memory gains: tools/bench/malloc.py."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = "from fae_core.cli.process import keep_freed_memory; print(keep_freed_memory())"


def run(**environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    program = [sys.executable, "-c", PROGRAM]
    return subprocess.run(program, env={**clean, **environment}, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc returns freed memory and has a setting against it"
)
def test_glibc_takes_the_settings() -> None:
    assert run() == "True\n"


def test_the_users_own_settings_win() -> None:
    assert run(MALLOC_ARENA_MAX="2") == "False\n"
