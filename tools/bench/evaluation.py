"""Speed and memory of fae-eval's Frechet distance and precision/recall beside torch-fidelity's and scipy's, in one run.

    python tools/bench/evaluation.py                      # 2048 dimensions, 10,000 x 10,000: some minutes on one core
    python tools/bench/evaluation.py --dim 512 --count 2000

Every contender gets a process of its own and the same features. Seconds are CPU seconds of the call alone, so that a
busy machine changes them little; memory is the peak during the call above what the process held before it (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

CONTENDERS = ("frechet ours", "frechet ours, reference cached", "frechet torch-fidelity", "frechet scipy sqrtm")
NEIGHBOURS = ("precision/recall ours", "precision/recall torch-fidelity")


def features(count: int, dim: int, seed: int) -> torch.Tensor:
    """Correlated features with a decaying spectrum, as networks give them."""
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)) / dim**0.5
    drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -1.5, dim)
    return torch.nn.functional.softplus(3 * drawn @ mixing + 0.05 * seed)


def statistics(count: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = features(count, dim, seed).double()
    centred = x - x.mean(0)
    return x.mean(0).numpy(), (centred.T @ centred / (count - 1)).numpy()


def prepare(name: str, count: int, dim: int) -> Callable[[], object]:
    """The call to measure, with its inputs made and its imports done."""
    from fae_eval.metrics import GaussianFactor, frechet_distance, precision_recall

    if name.startswith("precision/recall"):
        real, made = features(count, dim, 1), features(count, dim, 2)
        if name.endswith("ours"):
            return lambda: precision_recall(real, made, 3)
        from torch_fidelity.metric_prc import calculate_precision_recall_full

        return lambda: calculate_precision_recall_full(made, real, 3)
    first, second = statistics(count, dim, 1), statistics(count, dim, 2)
    if name == "frechet ours":
        return lambda: frechet_distance(*first, *second)
    if name == "frechet ours, reference cached":
        reference = GaussianFactor.of(*first)
        assert reference.full_rank  # which factors it
        return lambda: frechet_distance(reference, mu2=GaussianFactor.of(*second))
    if name == "frechet torch-fidelity":
        from torch_fidelity.metric_fid import fid_statistics_to_metric

        one, two = ({"mu": mu, "sigma": sigma} for mu, sigma in (first, second))
        return lambda: fid_statistics_to_metric(one, two, False)["frechet_inception_distance"]
    import scipy.linalg

    def by_scipy() -> float:
        root = scipy.linalg.sqrtm(first[1] @ second[1]).real
        gap = first[0] - second[0]
        return float(gap @ gap + np.trace(first[1]) + np.trace(second[1]) - 2 * np.trace(root))

    return by_scipy


def measure(name: str, count: int, dim: int) -> dict[str, object]:
    call = prepare(name, count, dim)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"name": name, "value": value, "cpu_s": cpu, "wall_s": wall, "peak_mb": (memory("VmHWM") - before) / 1024}


def memory(field: str) -> int:
    """Kilobytes, from the kernel's own book-keeping."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="measure one contender in this process and print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measure(options.only, options.count, options.dim)))
        return
    rows = []
    for name in (*CONTENDERS, *NEIGHBOURS):
        sizes = ["--dim", str(options.dim), "--count", str(options.count), "--threads", str(options.threads)]
        done = subprocess.run(
            [sys.executable, __file__, *sizes, "--only", name], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        print(
            f"{row['name']:34} {row['cpu_s']:8.2f} CPU-s {row['wall_s']:8.2f} s "
            f"{row['peak_mb']:8.0f} MB   {row['value']}",
            flush=True,
        )
    by_name = {row["name"]: row for row in rows}
    for ours, theirs in ((one, other) for one in CONTENDERS[:2] for other in CONTENDERS[2:]):
        print(
            f"{ours}: {by_name[theirs]['cpu_s'] / by_name[ours]['cpu_s']:.1f} x faster than {theirs.split(' ', 1)[1]}"
        )
    ours, theirs = (by_name[name] for name in NEIGHBOURS)
    share = ours["peak_mb"] / theirs["peak_mb"]
    print(f"precision/recall ours: {theirs['cpu_s'] / ours['cpu_s']:.1f} x faster, {share:.1%} of the memory")


if __name__ == "__main__":
    main()
