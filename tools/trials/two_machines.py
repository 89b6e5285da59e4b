"""Launch a run across two machines, on one: each is a network of its own with its own host name, joined by a virtual
cable.

    python tools/trials/two_machines.py --out runs/two-machines       # some minutes on two cores

The two share processors and disk and nothing else: no loopback, no ports, no shared-memory name. The launch line is the
one of docs/scaling.md. A small LightningDiT is trained on one machine, on both with DDP and on both with FSDP2; then on
both again while one loses its power in the middle of the run (every process on it is killed at once), and both are
launched anew with --resume. Losses must agree with one machine's to 1e-6, the weights after the power cut with those of
the undisturbed run to the bit, and pictures sampled on both with those of one. Needs Linux, unshare and nsenter
(util-linux), ip (iproute2), and leave to make network namespaces (root, or user namespaces). Writes two-machines.json;
exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

HOSTS = {"machine-0": "10.77.0.1", "machine-1": "10.77.0.2"}
NAMESPACES = ["--net", "--mount", "--uts"]
TRAINING = (
    "train diffusion --latents {d}/latents --preset lightningdit-tiny --batch-size 8 --device cpu --steps {steps} "
    "--set training.checkpoint_every=2 --set training.log_every=1 --set training.deterministic=true"
)
SAMPLING = "sample --generator {d}/{run} --decoder {d}/vae --count 6 --batch-size 2 --device cpu"


class Unavailable(Exception):
    """This machine does not let us make networks; the message says what is missing."""


class Machines:
    """Two network namespaces, each held open by a process that sleeps, with an address, a host name and a table of
    hosts."""

    def __init__(self, holders: list[subprocess.Popen]) -> None:
        self.holders = holders

    def run(self, machine: int, command: list[str], **options) -> subprocess.Popen:
        """Start a command on a machine."""
        return subprocess.Popen(self.inside(machine, command), **options)

    def inside(self, machine: int, command: list[str]) -> list[str]:
        holder = str(self.holders[machine].pid)
        return ["nsenter", "--target", holder, "--user", *NAMESPACES, "--preserve-credentials", *command]

    def cut_power(self, machine: int) -> None:
        """Kill every process on a machine but the one that keeps its network."""
        holder = self.holders[machine].pid
        network = Path(f"/proc/{holder}/ns/net").readlink()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != holder and _network(entry) == network:
                os.kill(int(entry.name), signal.SIGKILL)


def _network(process: Path) -> Path | None:
    try:
        return (process / "ns" / "net").readlink()
    except OSError:  # it ended, or is not ours to look at
        return None


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    """Make the two machines; they vanish with the context. Raises Unavailable."""
    for program in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed")
    table = folder / "hosts"
    table.write_text("".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **HOSTS}.items()))
    made = Machines([])
    try:
        first = ["unshare", "--user", "--map-root-user", *NAMESPACES, "sleep", "infinity"]
        made.holders.append(_hold(first))
        made.holders.append(_hold(made.inside(0, ["unshare", *NAMESPACES, "sleep", "infinity"])))
        cable = f"ip link add cable type veth peer name cable netns {made.holders[1].pid}"
        _must(made.inside(0, ["sh", "-c", cable]))
        for machine, (name, address) in enumerate(HOSTS.items()):
            setup = (
                f"ip link set lo up && ip addr add {address}/24 dev cable && ip link set cable up && "
                f"hostname {name} && "
                f"mount --bind {table} /etc/hosts"
            )
            _must(made.inside(machine, ["sh", "-c", setup]))
        yield made
    finally:
        for holder in made.holders:
            holder.kill()
            holder.wait()


def _hold(command: list[str]) -> subprocess.Popen:
    """A process that sleeps in namespaces of its own. Raises Unavailable where it may not have them."""
    holder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if holder.poll() is not None:
            raise Unavailable(" ".join((holder.stderr.read() if holder.stderr else "").split()) or "unshare failed")
        # `sleep` is what the process becomes once its namespaces are there.
        if Path(f"/proc/{holder.pid}/comm").read_text().strip() == "sleep":
            return holder
        time.sleep(0.01)
    holder.kill()
    raise Unavailable("unshare did not end in ten seconds")


def _must(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(" ".join(done.stderr.split()) or f"{command[-1]} failed")


class Trial:
    """The commands of the comparison, and what came of them."""

    def __init__(self, made: Machines, folder: Path, processes: int, steps: int) -> None:
        self.made, self.folder, self.processes, self.steps = made, folder, processes, steps
        self.log = folder / "log.txt"

    def alone(self, template: str, out: str, run: str = "") -> None:
        """A command in one process, outside both machines."""
        status = self._wait([self._start(None, [sys.executable, "-m", *self._words(template, out, run)])])
        if status != [0]:
            raise SystemExit(f"one process alone failed with status {status[0]}; see {self.log}")

    def launch(self, template: str, out: str, run: str = "") -> list[subprocess.Popen]:
        """The launch line of docs/scaling.md, once on each machine."""
        torchrun = (
            f"-m torch.distributed.run --nnodes 2 --nproc-per-node {self.processes} --rdzv-backend c10d "
            "--rdzv-endpoint machine-0:29500 --rdzv-id fae -m"
        )
        words = [sys.executable, *torchrun.split(), *self._words(template, out, run)]
        return [self._start(machine, words) for machine in range(2)]

    def together(self, template: str, out: str, run: str = "") -> None:
        status = self._wait(self.launch(template, out, run))
        if status != [0, 0]:
            raise SystemExit(f"the machines ended with status {status}; see {self.log}")

    def interrupted(self, template: str, out: str) -> list[int]:
        """Launch, cut one machine's power after the first checkpoint; the exit status of both launchers."""
        launched = self.launch(template, out)
        while not list((self.folder / out).glob("checkpoints/step-*")):
            if any(child.poll() is not None for child in launched):
                break
            time.sleep(0.05)
        self.made.cut_power(1)
        return self._wait(launched)

    def losses(self, run: str) -> list[float]:
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        return [row["loss"] for row in map(json.loads, lines) if "loss" in row]

    def weights(self, run: str) -> dict:
        from safetensors.torch import load_file

        return load_file(self.folder / run / "model" / "model.safetensors")

    def pictures(self, run: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.folder / run / "images").glob("*.png"))]

    def _words(self, template: str, out: str, run: str) -> list[str]:
        command = template.format(d=self.folder, steps=self.steps, run=run)
        return ["fae_core.cli.main", *command.split(), "--resume", "--out", str(self.folder / out)]

    def _start(self, machine: int | None, command: list[str]) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}
        if machine is None:
            del environment["GLOO_SOCKET_IFNAME"]
        with self.log.open("a") as log:
            options = {"stdout": log, "stderr": log, "env": environment}
            return (
                subprocess.Popen(command, **options) if machine is None else self.made.run(machine, command, **options)
            )

    @staticmethod
    def _wait(children: list[subprocess.Popen]) -> list[int]:
        return [child.wait(timeout=600) for child in children]


def compare(trial: Trial, parallels: list[str]) -> dict[str, object]:
    """Run everything; every value of the outcome is a fact, `ok` whether all are as they must be."""
    import torch

    prepare(trial.folder)
    trial.alone(TRAINING, "one")
    outcome: dict[str, object] = {"processes on each machine": trial.processes, "steps": trial.steps}
    ok = True
    for parallel in parallels:
        trial.together(f"{TRAINING} --set training.parallel={parallel}", parallel)
        furthest = max(abs(a - b) for a, b in zip(trial.losses("one"), trial.losses(parallel), strict=True))
        outcome[f"{parallel}: largest difference of a loss from one machine's"] = furthest
        ok = ok and furthest < 1e-6
    ended = trial.interrupted(f"{TRAINING} --set training.parallel=ddp", "cut")
    trial.together(f"{TRAINING} --set training.parallel=ddp", "cut")
    undisturbed, resumed = trial.weights("ddp"), trial.weights("cut")
    same = all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    outcome["exit status of the launchers after the power cut"] = ended
    outcome["weights after the power cut are those of the undisturbed run"] = same
    trial.alone(SAMPLING, "pictures-one", "ddp")
    trial.together(SAMPLING, "pictures-two", "ddp")
    drawn, together = trial.pictures("pictures-one"), trial.pictures("pictures-two")
    outcome["pictures"] = len(drawn)
    outcome["pictures of both machines are those of one"] = drawn == together
    ok = ok and ended[0] != 0 and same and len(drawn) == 6 and drawn == together
    return {"ok": ok, **outcome}


def prepare(folder: Path) -> None:
    """A VAE with fresh weights as the tokenizer, and random latents in its space."""
    import torch

    from fae_core.latent_store import write_store
    from fae_decoders import ConvVAE

    torch.manual_seed(0)
    vae = ConvVAE.from_preset("conv-vae-tiny")
    vae.save_pretrained(folder / "vae")
    latents = torch.randn(64, *vae.spec.shape)
    write_store(folder / "latents", vae.spec, latents, labels=[i % 3 for i in range(64)], classes=["a", "b", "c"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="on each machine")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--parallel", default="ddp,fsdp", help="ddp is always among them")
    parser.add_argument("--out", type=Path, default=Path("runs/two-machines"))
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"error: {arguments.out} exists")
    folder = (arguments.out / "work").resolve()
    folder.mkdir(parents=True)
    try:
        with machines(folder) as made:
            trial = Trial(made, folder, arguments.processes, arguments.steps)
            outcome = compare(trial, ["ddp", *(p for p in arguments.parallel.split(",") if p != "ddp")])
    except Unavailable as missing:
        shutil.rmtree(arguments.out)
        raise SystemExit(f"error: cannot make machines here: {missing}") from None
    record = {"outcome": outcome, "date": date.today().isoformat(), "platform": platform.platform()}
    (arguments.out / "two-machines.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, value in outcome.items():
        print(f"{name}: {value}")
    raise SystemExit(0 if outcome["ok"] else 1)


if __name__ == "__main__":
    main()
