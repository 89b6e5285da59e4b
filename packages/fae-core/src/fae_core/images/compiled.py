"""C code of this package, compiled when a process first needs it, where there is a compiler.

It computes nothing that is not computed without it, and it is not kept: the library lies in a new folder that only this
user can write, for as long as it takes to load it.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

VARIABLE = "FAE_COMPILE_C"
# Arithmetic as it is written, without fused multiply-add. The ABI of vectors does not matter within one file.
_FLAGS = ("-O3", "-march=native", "-fno-fast-math", "-ffp-contract=off", "-shared", "-fPIC", "-Wno-psabi")
_SECONDS = 60.0


def load_compiled(source: Path) -> ctypes.CDLL | None:
    """The functions of a C file, compiled for this processor.

    Args:
        source: the file.

    Returns:
        The library; None without a compiler (`$CC`, or cc) that can compile it, and with FAE_COMPILE_C=0.
    """
    if os.environ.get(VARIABLE) == "0":
        return None
    try:
        command = [*shlex.split(os.environ.get("CC") or "cc"), *_FLAGS]
        with tempfile.TemporaryDirectory(prefix="fae-compiled-", ignore_cleanup_errors=True) as folder:
            made = str(Path(folder) / "library.so")
            subprocess.run(
                [*command, "-o", made, str(source), "-lm"],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
            )
            return ctypes.CDLL(made)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
