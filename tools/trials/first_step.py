"""How long until a command has made its first step on a folder of more than a million images?

    python tools/trials/first_step.py --photographs shared/data/imagenet-samples --work SCRATCH/first-step

Makes WORK/data, class folders of links to copies of the photographs, unless it is there, and starts each command on it
with tiny models. The first step is the first row of metrics.jsonl, the first shard of a latent store, or the first
count of images whose features are measured. Each command is stopped after it. Prints a table: seconds by the clock,
seconds of one core's time, the longest silence on standard error, and memory. --keep leaves the folder. Give --work a
folder of the file system on which to measure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_POLL_SECONDS = 0.1
_COUNT = re.compile(r": ([1-9]\d*)/\d+, ")  # of a line of progress

TRAIN = "--steps 2 --batch-size 8 --device cpu --set training.log_every=1 --set training.checkpoint_every=1000"
COMMANDS = {
    "train autoencoder": f"train autoencoder --data {{data}} --preset feature-decoder-tiny {TRAIN}",
    "train autoencoder, features normalised": "train autoencoder --data {data} --preset feature-decoder-tiny "
    f"--set encoder.standardize_features=true {TRAIN}",
    "train autoencoder, default preset": f"train autoencoder --data {{data}} --weights random {TRAIN}",
    "train pixel": f"train pixel --data {{data}} --preset pixel-decoder-tiny {TRAIN}",
    "train vae": f"train vae --data {{data}} --preset conv-vae-tiny {TRAIN}",
    "train diffusion --data": "train diffusion --data {data} --tokenizer cifar10 --preset lightningdit-tiny "
    f"--set training.loader_threads=0 {TRAIN}",
    "encode": "encode --data {data} --model cifar10 --shard-size 32 --device cpu",
    "eval frechet": "eval frechet --reference {data} --samples {photographs} --size 64 --batch-size 8 --device cpu "
    "--no-cache",
    "eval frechet, cached": "eval frechet --reference {data} --samples {photographs} --size 64 --batch-size 8 "
    "--device cpu",
}


def make_folder(photographs: Path, work: Path, images: int, classes: int, symbolic: bool) -> Path:
    """A folder of `classes` folders with `images` links in all, in turn to copies of the photographs in WORK."""
    data, originals = work / "data", work / "photographs"
    if data.is_dir():
        return data
    originals.mkdir(parents=True, exist_ok=True)
    copies = []
    for number, path in enumerate(sorted(p for p in photographs.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))):
        copies.append(shutil.copyfile(path, originals / f"{number:05d}.jpg").absolute())
    link = os.symlink if symbolic else os.link
    for label in range(classes):
        folder = data / f"n{label:08d}"
        folder.mkdir(parents=True)
        for number in range(images * label // classes, images * (label + 1) // classes):
            link(copies[number % len(copies)], f"{folder}/n{label:08d}_{number}.JPEG")
    return data


def has_started(out: Path) -> Callable[[str], bool]:
    """Whether a command that writes to `out`, and printed a text so far, has made its first step."""

    def look(text: str) -> bool:
        metrics = out / "metrics.jsonl"
        shards = out.glob("shard-*.safetensors")
        counted = any(_COUNT.search(line) and line.startswith("features of") for line in text.splitlines())
        return (metrics.is_file() and metrics.stat().st_size > 0) or any(shards) or (out.suffix == ".json" and counted)

    return look


def measure(command: list[str], out: Path, limit: float) -> tuple[float | None, float, float, int]:
    """Seconds until the first step (None beyond the limit), of the processor's time, the longest silence, peak MB."""
    started = last = time.monotonic()
    silence, peak, text, work = 0.0, 0, "", 0.0
    look = has_started(out)
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        first = None
        while process.poll() is None and time.monotonic() - started < limit:
            new = (process.stderr.read() or b"").decode(errors="replace")
            now = time.monotonic()
            if new:
                silence, last, text = max(silence, now - last), now, text + new
            peak, work = max(peak, resident(process.pid)), processor_seconds(process.pid) or work
            if look(text):
                first = now - started
                break
            time.sleep(_POLL_SECONDS)
        silence = max(silence, time.monotonic() - last)
        process.send_signal(signal.SIGTERM)
        try:
            rest = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            rest = process.communicate()[1]
        if first is None and look(text + (rest or b"").decode(errors="replace")):
            first = time.monotonic() - started
        if first is None and process.returncode not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            sys.stderr.write(text + (rest or b"").decode(errors="replace"))
    return first, work, silence, peak


def resident(process: int) -> int:
    """A process's resident memory in MB; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 // 10**6
    except OSError:
        return 0


def processor_seconds(process: int) -> float:
    """A process's time on all cores, which does not depend on what else they do; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--symbolic", action="store_true", help="symbolic links in place of hard ones")
    parser.add_argument("--only", default="", help="commands whose names begin so")
    parser.add_argument("--limit", type=float, default=280.0, help="seconds")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    data = make_folder(arguments.photographs, arguments.work, arguments.images, arguments.classes, arguments.symbolic)
    print(f"{'command':<42}{'first step':>12}{'of a core':>12}{'silence':>10}{'memory':>10}", flush=True)
    for name, words in COMMANDS.items():
        if not name.startswith(arguments.only):
            continue
        out = arguments.work / ("out.json" if name.startswith("eval") else "out")
        shutil.rmtree(out, ignore_errors=True)
        filled = words.format(data=data, photographs=arguments.work / "photographs").split()
        command = [sys.executable, "-m", "fae_core.cli.main", *filled, "--out", str(out)]
        first, work, silence, peak = measure(command, out, arguments.limit)
        shown = f"> {arguments.limit:.0f} s" if first is None else f"{first:.1f} s"
        print(f"{name:<42}{shown:>12}{work:>10.1f} s{silence:>8.1f} s{peak:>7} MB", flush=True)
    shutil.rmtree(arguments.work / "out", ignore_errors=True)
    if not arguments.keep:
        shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()
