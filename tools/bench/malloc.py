"""What it costs that glibc gives freed tensors back to the system: the same training steps with and without, one
thread.

    python tools/bench/malloc.py

Each way runs in a process of its own, in turn, because the setting cannot be taken back. CPU seconds of the program and
of the kernel on its behalf, and the pages that were handed out anew; `fae` keeps what is freed
(fae_core/cli/process.py).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

WAYS = ("returned", "kept")
STEPS, ROUNDS = 30, 3


def measure(way: str) -> dict[str, float]:
    """CPU seconds and page faults of some steps of a small convolutional autoencoder (batch 32, 32 pixels)."""
    from fae_core.cli.process import keep_freed_memory

    if way == "kept" and not keep_freed_memory():
        sys.exit("this system's malloc cannot be told to keep what is freed (it is not glibc's, or MALLOC_* is set)")
    import torch

    from fae_decoders import ConvVAE

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = ConvVAE.from_preset("conv-vae-cifar10")
    images = torch.rand(32, 3, 32, 32)

    def step() -> None:
        posterior = vae.posterior(images)
        vae.decoder(posterior.mode()).square().mean().backward()
        vae.zero_grad()

    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "program_s": after.ru_utime - before.ru_utime,
        "kernel_s": after.ru_stime - before.ru_stime,
        "faults": after.ru_minflt - before.ru_minflt,
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, way], env=environment, stdout=subprocess.PIPE, check=True)
            found = json.loads(done.stdout)
            total = found["program_s"] + found["kernel_s"]
            if way not in best or total < best[way]["program_s"] + best[way]["kernel_s"]:
                best[way] = found
    print(f"{'':10}{'program s':>11}{'kernel s':>10}{'page faults':>13}")
    for way in WAYS:
        print(f"{way:10}{best[way]['program_s']:11.2f}{best[way]['kernel_s']:10.2f}{best[way]['faults']:13,.0f}")
    totals = [best[way]["program_s"] + best[way]["kernel_s"] for way in WAYS]
    print(f"{STEPS} steps, best of {ROUNDS}: {totals[0] / totals[1]:.2f} times as fast with freed memory kept")


if __name__ == "__main__":
    main()
