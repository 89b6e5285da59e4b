"""How fast a latent store is read from the page cache by one thread, in GB of stored bytes a second of the processor's
time.

That is a second by the clock where the core has nothing else to do; nothing here waits for a disk.

python tools/bench/latent_store.py            # 16,384 latents of 16x16x32, 268 MB in fp16, 537 MB in fp32
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fae_core.latent_store import LatentStore, write_store
from fae_core.spec import LatentSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = LatentSpec(32, 16, 16, 256, "none", mean=(0.1,) * 32, std=(1.5,) * 32)
    z = torch.randn(arguments.count, *spec.shape, generator=torch.Generator().manual_seed(0))
    print("| dtype | batch | order | GB/s, new tensor | GB/s, out= reused |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float16", "float32"):
            store = write_store(Path(folder) / dtype, spec, z, dtype=dtype)
            for batch in (64, 256, 1024):
                for order in ("in order", "shuffled"):
                    print(f"| {dtype} | {batch} | {order} | {measure(store, batch, order, arguments.rounds)} |")


def measure(store: LatentStore, batch: int, order: str, rounds: int) -> str:
    """Best of some rounds over the store, with and without a buffer of the caller's."""
    size = store[0].z.numel() * (2 if store.plan.dtype == "float16" else 4) * len(store)
    places = np.arange(len(store)) if order == "in order" else np.random.default_rng(0).permutation(len(store))
    buffer = torch.empty(batch, *store.spec.shape)
    best = {False: float("inf"), True: float("inf")}
    for _ in range(rounds):
        for reuse in best:
            started = time.process_time()
            for start in range(0, len(places), batch):
                store.read(places[start : start + batch], out=buffer if reuse else None)
            best[reuse] = min(best[reuse], time.process_time() - started)
    return " | ".join(f"{size / seconds / 1e9:.2f}" for seconds in best.values())


if __name__ == "__main__":
    main()
