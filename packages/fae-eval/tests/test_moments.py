"""Moments are bit-identical whatever the batch size, order and number of processes, and agree with numpy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from fae_core.errors import FAEError, InvalidFile
from fae_eval.metrics import Moments


def features(count: int = 1500, dim: int = 24, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * scale + 0.3


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_batch_size_order_and_merging_do_not_change_a_bit(scale):
    x = features(scale=scale)
    whole = Moments.of(x)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]
    parts = [Moments(24) for _ in range(3)]
    for i, batch in enumerate(shuffled.split(37)):
        parts[i % 3].add(batch)
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged.digest == whole.digest
    assert torch.equal(merged.mean, whole.mean)
    assert torch.equal(merged.covariance, whole.covariance)


@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 5e-7), (300.0, 1e-3)])
def test_agrees_with_numpy(scale, tolerance):
    x = features(scale=scale)
    moments = Moments.of(x)
    np.testing.assert_allclose(moments.mean.numpy(), x.double().mean(0).numpy(), atol=2e-6)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), atol=tolerance)


def test_a_large_mean_costs_no_digits():
    # Multiples of 2^-18 near 15: their spread of 2^-10 would drown in a naive E[x^2] - E[x]^2 of fp32 sums.
    x = 15 + torch.randint(-256, 256, (1000, 3), generator=torch.Generator().manual_seed(2)).double() * 2.0**-18
    np.testing.assert_allclose(Moments.of(x).covariance.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-12)


REDUCE = """
import sys, torch, torch.distributed as dist
from fae_eval.metrics import Moments
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
x = torch.load(f"{folder}/x.pt", weights_only=True)
# The first process never sees a feature beyond 16, so only the second has the high parts.
mine = Moments.of(x[:20].clamp(-1, 1)) if rank == 0 else Moments.of(x[20:])
print(mine.all_reduce().digest)
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_agree_with_one(tmp_path):
    x = features(scale=20.0)
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", REDUCE]
    running = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    digests = {process.communicate(timeout=120)[0].strip() for process in running}
    assert digests == {Moments.of(torch.cat([x[:20].clamp(-1, 1), x[20:]])).digest}


def test_save_and_load_keep_every_bit_and_notice_damage(tmp_path):
    moments = Moments.of(features(scale=20.0))
    path = moments.save(tmp_path / "m.safetensors")
    assert Moments.load(path).digest == moments.digest
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InvalidFile, match="damaged"):
        Moments.load(path)
    (tmp_path / "other").write_bytes(b"no tensors")
    with pytest.raises(InvalidFile):
        Moments.load(tmp_path / "other")


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(FAEError, match="finite"):
        Moments.of(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(FAEError, match="shape"):
        Moments(3).add(torch.zeros(2, 4))
    with pytest.raises(FAEError, match="too few"):
        _ = Moments.of(torch.zeros(1, 2)).covariance
    with pytest.raises(FAEError, match="cannot be merged"):
        Moments(3).merge(Moments(4))
    with pytest.raises(FAEError, match="overflow"):
        full = Moments.of(torch.full((512, 1), 16.0))
        for _ in range(12):
            full.merge(Moments.from_tensors({k: v.clone() for k, v in full.tensors().items()}, full.metadata(), "copy"))
