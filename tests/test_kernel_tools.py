"""The kernels' tools say in one line what they lack, and check what they can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[1] / "tools"


def tool(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / name), *arguments]
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    variables |= {"CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


@pytest.mark.skipif(torch.version.hip is not None, reason="CUDA_VISIBLE_DEVICES hides no AMD device")
@pytest.mark.parametrize(
    ("name", "arguments", "environment", "complaint"),
    [
        ("bench/kernels.py", (), {}, "error: this needs a CUDA device; without one: TRITON_INTERPRET=1"),
        ("bench/kernels.py", ("--check",), {}, "error: this needs a CUDA device or TRITON_INTERPRET=1"),
        ("checks/kernels.py", (), {"TRITON_INTERPRET": "1"}, "error: nothing can be compiled here: "),
    ],
)
def test_a_tool_without_what_it_needs_says_one_line(
    name: str, arguments: tuple[str, ...], environment: dict[str, str], complaint: str
) -> None:
    process = tool(name, *arguments, **environment)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith(complaint)
    assert process.stderr.count("\n") == 1
