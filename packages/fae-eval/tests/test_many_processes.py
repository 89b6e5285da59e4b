"""Many processes measure to the last bit what one does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_group import launcher

from fae_eval.data import open_samples
from fae_eval.data.samples import batch_starts

PROGRAM = Path(__file__).with_name("shared_evaluation.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_find_what_one_finds_to_the_last_bit(photographs, tmp_path):
    photographs("real", count=23)
    (photographs("made", count=18, seed=1) / "green" / "broken.png").write_bytes(b"no image")
    found = {}
    for processes in (1, 2):
        out = tmp_path / f"out-{processes}"
        out.mkdir()
        command = [*launcher(processes), str(PROGRAM), str(tmp_path), str(out)]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = [json.loads((out / f"process-{rank}.json").read_text()) for rank in range(processes)]
    one, (first, second) = found[1][0], found[2]
    assert first == second  # every process has the record
    assert first == one
    assert one["table"]["rows"][0][1] == 18
    assert "1 unreadable images were left out" in " ".join(one["warnings"])
    pictures = [(tmp_path / f"out-{n}" / "r.png").read_bytes() for n in (1, 2)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(("count", "batch", "processes"), [(23, 5, 2), (23, 5, 7), (4, 8, 3), (40, 8, 4)])
def test_shares_are_the_batches_of_one_process_in_order(count, batch, processes):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    samples = open_samples(images)
    whole = [b[:, 0, 0, 0].tolist() for b in samples.batches(batch)]
    shares = [[b[:, 0, 0, 0].tolist() for b in samples.batches(batch, (r, processes))] for r in range(processes)]
    assert [b for share in shares for b in share] == whole
    sizes = [len(batch_starts(count, batch, (r, processes))) for r in range(processes)]
    assert max(sizes) - min(sizes) <= 1
