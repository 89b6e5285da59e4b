"""Kill every stage at random moments, resume it, and compare the outcome with an uninterrupted run, bit for bit.

    python tools/trials/faults.py --kills 20 --cases --out runs/faults   # tables of docs/reliability.md; half an hour
    python tools/trials/faults.py --kills 3 --stages "train flow,encode"   # a quick look
    python tools/trials/faults.py --kills 3 --stages none --cases          # only the other faults, of fault_cases.py

Stages run as `fae` commands in processes of their own, at the size of the tiny presets, on the CPU with one thread.
Every second kill waits until a checkpoint, a model, a shard or a picture is being written, after a random number of
others since the last start; the rest come after a random part of the time that the uninterrupted run took. With --cases
come the faults of fault_cases.py: signals, kills at each file operation, damage, two writers, no space. Writes
faults.json and faults.md; exits with 1 if any outcome differs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from fault_cases import Case

TRAINING = "--steps 8 --batch-size 4 --device cpu --set training.checkpoint_every=1 --set training.log_every=1"
# Each stage's command; {d} is the folder with the data and the inputs that earlier stages made, {out} where it writes.
STAGES = {
    "train autoencoder": f"train autoencoder --data {{d}}/images --preset feature-decoder-tiny "
    f"{TRAINING} --out {{out}}",
    "train pixel (noise)": "train pixel --stage noise --data {d}/images --autoencoder {d}/train-autoencoder "
    f"--preset pixel-decoder-tiny {TRAINING} --out {{out}}",
    "train pixel (finetune)": "train pixel --stage finetune --data {d}/images --autoencoder {d}/train-autoencoder "
    f"--init {{d}}/train-pixel-noise --preset pixel-decoder-tiny {TRAINING} --out {{out}}",
    "train vae": f"train vae --data {{d}}/images --preset conv-vae-tiny {TRAINING} --out {{out}}",
    "encode": "encode --data {d}/images --model {d}/train-pixel-finetune --shard-size 3 --device cpu --out {out}",
    "train diffusion": f"train diffusion --latents {{d}}/encode --preset lightningdit-tiny {TRAINING} --out {{out}}",
    "train flow": f"train flow --latents {{d}}/encode --preset starflow-tiny {TRAINING} --out {{out}}",
    "sample": "sample --generator {d}/train-diffusion --decoder {d}/train-pixel-finetune --count 24 --batch-size 2 "
    "--device cpu --out {out}",
}
PRELOADED = (
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "fae_core.models.draw",
    "fae_core.training.loop",
    "fae_decoders.fae.fae",
    "fae_diffusion.models.sit",
    "fae_encoder.encoder",
    "fae_flow.starflow",
    "timm",
)
# Files that say when or how long, and so differ from run to run.
VARYING = ("state.json", "metrics.jsonl", "config.yaml", "samples.json", "samples.npz", "README.md")


@dataclass
class Outcome:
    """What happened to one stage: kills, how many fell into a write, resumptions from saved work, runs that ended and
    agreed."""

    stage: str
    kills: int = 0
    while_writing: int = 0
    resumed: int = 0
    runs: int = 0
    identical: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="per stage")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, or none; default: all")
    parser.add_argument("--cases", action="store_true", help="the other faults, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    arguments = parser.parse_args()
    stages = [] if arguments.stages == "none" else arguments.stages.split(",")
    unknown = set(stages) - STAGES.keys()
    if unknown:
        parser.error(f"unknown stages {', '.join(sorted(unknown))}; known: {', '.join(STAGES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = (arguments.out / "work").resolve()
    outcomes, cases = run(stages, arguments.kills, arguments.seed, folder, everything=arguments.cases), []
    if arguments.cases:
        from fault_cases import prepare, run_cases

        prepare(folder)
        cases = run_cases(arguments.kills, folder)
    write(outcomes, cases, arguments.out)
    sys.exit(any(o.identical != o.runs for o in outcomes) or any(case.fine != case.trials for case in cases))


def run(stages: list[str], kills: int, seed: int, folder: Path, everything: bool = False) -> list[Outcome]:
    """Outcomes of some stages. The stages that these need as inputs, or every one, are run once, uninterrupted."""
    shutil.rmtree(folder, ignore_errors=True)
    make_images(folder / "images")
    preload()
    outcomes = []
    for stage, command in STAGES.items():
        reference = folder / folder_of(stage)
        if everything or needed(stage, stages):
            seconds = complete(command, folder, reference)
        if stage in stages:
            outcomes.append(torment(stage, command, kills, seconds, random.Random(f"{seed} {stage}"), folder))
            print(asdict(outcomes[-1]), flush=True)
    return outcomes


def torment(stage: str, command: str, kills: int, seconds: float, chance: random.Random, folder: Path) -> Outcome:
    """Kill and resume one stage until it was killed `kills` times, finishing every run that is begun."""
    outcome, expected = Outcome(stage), digest(folder / folder_of(stage))
    while outcome.kills < kills:
        out = folder / f"{folder_of(stage)}-killed-{outcome.runs}"
        ended = False
        while not ended:
            if outcome.kills < kills:
                aimed = outcome.kills % 2 == 1
                moment = saved(out) + chance.randrange(4) if aimed else chance.uniform(0.02, 0.95) * seconds
                ended = start_and_kill(command, folder, out, moment)
                outcome.kills += not ended
                outcome.while_writing += not ended and is_writing(out)
                outcome.resumed += not ended and saved(out) > 0
            else:
                complete(command, folder, out)
                ended = True
        outcome.runs += 1
        outcome.identical += digest(out) == expected
    return outcome


def start_and_kill(command: str, folder: Path, out: Path, moment: float) -> bool:
    """Start or resume, and kill after `moment` seconds or, where it is an int, while something is being written when so
    many things are saved. True if the stage ended before."""
    child = start(command, folder, out)
    begun = time.monotonic()
    aimed = isinstance(moment, int)
    while not caught_writing(child, out, moment) if aimed else time.monotonic() - begun < moment:
        if ended(child, command):
            return True
        time.sleep(0 if aimed else 0.002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return check(status, command, killed=True)


def caught_writing(child: int, out: Path, least: int) -> bool:
    """Whether the child was writing, with at least so many things saved, and is now stopped in the middle of it."""
    if not is_writing(out) or saved(out) < least:
        return False
    os.kill(child, signal.SIGSTOP)
    # Not reaped here: it may have ended just now, which `ended` is to see.
    os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if is_writing(out):
        return True
    os.kill(child, signal.SIGCONT)
    return False


def complete(command: str, folder: Path, out: Path) -> float:
    """Run or resume to the end; returns its seconds."""
    begun = time.monotonic()
    child = start(command, folder, out)
    _, status = os.waitpid(child, 0)
    check(status, command)
    return time.monotonic() - begun


def start(command: str, folder: Path, out: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """A forked child that runs the `fae` command after `prepare`. Forked, because importing torch would take most of
    each trial's time."""
    words = [word.format(d=folder, out=out) for word in command.split()]
    child = os.fork()
    if child:
        return child
    import torch

    from fae_core.cli.main import main as fae

    torch.set_num_threads(1)
    with (folder / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    prepare()
    try:
        fae([*words, "--resume"])
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    os._exit(1)


def ended(child: int, command: str) -> bool:
    pid, status = os.waitpid(child, os.WNOHANG)
    return pid != 0 and check(status, command)


def check(status: int, command: str, killed: bool = False) -> bool:
    """True where a child ended well, False where it was killed as planned; anything else is a defect."""
    if killed and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return True
    raise SystemExit(f"`fae {command}` failed with wait status {status}; see log.txt in the working folder")


def is_writing(out: Path) -> bool:
    """Whether a checkpoint, model, shard or picture is half-written: what is not complete yet has a name that begins
    with a dot."""
    # os.walk and not rglob: a folder may be renamed or rotated away by the stage while it is being looked into.
    return any(
        name.startswith(".")
        and not name.startswith((".config", ".progress", ".samples"))
        and not name.endswith(".lock")
        for _, folders, files in os.walk(out)
        for name in (*folders, *files)
    )


def saved(out: Path) -> int:
    """How much finished work there is to go on from: steps of the newest checkpoint, or shards, or pictures."""
    steps = [int(path.name.removeprefix("step-")) for path in out.glob("checkpoints/step-*")]
    return max([*steps, len(list(out.glob("*.safetensors"))), len(list(out.glob("images/[0-9]*.png")))])


def digest(out: Path) -> str:
    """One hash over everything that a stage made, leaving out what tells the time."""
    total = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in VARYING:
            total.update(f"{path.relative_to(out)}\0".encode())
            total.update(tensors(path) if path.suffix == ".safetensors" else path.read_bytes())
    return total.hexdigest()


def tensors(path: Path) -> bytes:
    """The tensors of a file, in the order of their names; headers may list them in another."""
    from safetensors.torch import load_file
    from torch import uint8

    return b"".join(
        f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode()
        + tensor.contiguous().flatten().view(uint8).numpy().tobytes()
        for name, tensor in sorted(load_file(path).items())
    )


def make_images(folder: Path) -> None:
    """Twenty-four small pictures of two classes."""
    for number in range(24):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(path)


def preload() -> None:
    """Import what the stages import, without starting any threads, so that forks begin at once: packages import their
    parts when they are first used, and torch what an optimizer needs at its first step."""
    for name in PRELOADED:
        importlib.import_module(name)


def needed(stage: str, wanted: list[str]) -> bool:
    """Whether a stage is asked for, or comes before one that is."""
    order = list(STAGES)
    return any(order.index(stage) <= order.index(other) for other in wanted)


def folder_of(stage: str) -> str:
    return stage.replace(" ", "-").replace("(", "").replace(")", "")


def write(outcomes: list[Outcome], cases: list[Case], out: Path) -> None:
    """faults.json and the same as tables."""
    facts = {"date": date.today().isoformat(), "machine": platform.platform(), "command": " ".join(sys.argv)}
    record = {**facts, "outcomes": [asdict(o) for o in outcomes], "cases": [asdict(case) for case in cases]}
    (out / "faults.json").write_text(json.dumps(record, indent=1) + "\n")
    rows = []
    if outcomes:
        rows = [
            "| stage | kills | while writing | with saved work to resume | runs ended | bit-identical |",
            "|---|---|---|---|---|---|",
        ]
    rows += [
        f"| {o.stage} | {o.kills} | {o.while_writing} | {o.resumed} | {o.runs} | {o.identical} |" for o in outcomes
    ]
    if cases:
        rows += ["", "| fault | trials | as it should be |", "|---|---|---|"]
        rows += [
            f"| {case.fault} | {case.trials} | {case.fine}{f' ({case.note})' if case.note else ''} |" for case in cases
        ]
    (out / "faults.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
