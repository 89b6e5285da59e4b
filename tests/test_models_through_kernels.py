"""The models of every package give the same numbers through the Triton kernels as through torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fae_core.ops import triton


@pytest.mark.slow
@pytest.mark.skipif(triton.MISSING is not None, reason=str(triton.MISSING))
def test_every_model_is_the_same_through_the_interpreted_kernels() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    file = Path(__file__).with_name("interpreted_models.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
