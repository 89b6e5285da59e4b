"""How fast images are read for a GPU: ours against torch's DataLoader, on the same cores, by turns in one run.

- ours, batch: `fae_core.images.load_batch`, one batch after the other; its threads share this process.
- ours, loader: the same through the training loop's loader, which prepares batches ahead.
- Pillow: DataLoader with as many worker processes as cores; Pillow decodes and resizes (bilinear, as torchvision's
  Resize does by default, or bicubic, as ours), centre crop, division by 255.
- torchvision: the same with torchvision.io.decode_jpeg and torchvision's resize of uint8 tensors, with antialiasing.

All processes of a way are bound to so many cores. The first number is images a second by the clock, at best; the second
images per second of processor time over all processes of the way, at best, which does not depend on what else runs.

python tools/bench/images.py --data PHOTOGRAPHS --cores 1 2 --out images.json
python tools/bench/images.py --make IMAGES --cores 1 2        # photographs of 500x375 and 110 KB made of any images
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from fae_core.cli.process import keep_freed_memory
from fae_core.images import open_images, resample
from fae_core.images.batch import load_batch
from fae_core.machine import available_threads
from fae_core.training.config import TrainConfig
from fae_core.training.loader import ahead

Way = Callable[[], Iterator[Tensor]]  # gives the batches of a round
Read = Callable[..., Tensor]

# Images a second of one GPU, measured on an H200 (docs/scaling.md): the encoder's forward pass, and a training step of
# what learns from its features or latents.
ENCODER = {"fae-dinov2-g-32": 577.6}
LEARNERS = {
    "feature-decoder-1536": 881.9,
    "pixel-decoder-l": 567.4,
    "sit-xl": 381.4,
    "lightningdit-xl": 217.9,
    "mmdit-256": 418.7,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a folder of JPEG photographs")
    source.add_argument("--make", type=Path, help="a folder of images from which photographs of 500x375 are made")
    parser.add_argument("--count", type=int, default=512, help="images a round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 256])
    parser.add_argument("--cores", type=int, nargs="+", default=[available_threads()])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file for the record")
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.make:
            make_photographs(arguments.make, Path(folder), 256)
        record = measured(arguments, arguments.data or Path(folder))
    print(as_table(record))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


def make_photographs(images: Path, folder: Path, count: int) -> None:
    """JPEG files of 500x375 pixels and at least 110 KB, each of four images side by side, with their full detail."""
    source, draw = open_images(images), random.Random(0)
    for number in range(count):
        whole = Image.new("RGB", (512, 512))
        for place, index in enumerate(draw.sample(range(len(source)), 4)):
            whole.paste(source.read(index).resize((256, 256)), (256 * (place % 2), 256 * (place // 2)))
        data, quality = b"", 60
        while len(data) < 110_000 and quality <= 100:
            file = io.BytesIO()
            whole.crop((6, 68, 506, 443)).save(file, "JPEG", quality=quality)
            data, quality = file.getvalue(), quality + 1
        (folder / f"{number:04d}.jpg").write_bytes(data)


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All ways at all sizes and numbers of cores, by turns."""
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    files = (files * -(-arguments.count // len(files)))[: arguments.count]
    usable, rows = sorted(os.sched_getaffinity(0)), []
    for size in arguments.sizes:
        for cores in arguments.cores:
            os.sched_setaffinity(0, usable[:cores])
            ways = make_ways(folder, files, size, cores, arguments.batch)
            best = dict.fromkeys(ways, (0.0, 0.0))
            for turn in range(arguments.rounds + 1):
                for name, way in ways.items():
                    rates = rate(way, len(files))
                    if turn:  # the first warms up
                        best[name] = max(best[name][0], rates[0]), max(best[name][1], rates[1])
            rows += [
                {"size": size, "cores": cores, "way": name, "images_a_second": clock, "images_a_core_second": processor}
                for name, (clock, processor) in best.items()
            ]
            del ways  # ends the workers
            os.sched_setaffinity(0, usable)
    return {
        "date": date.today().isoformat(),
        "machine": processor_name(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "pillow", "numpy")},
        "python": platform.python_version(),
        "photographs": {
            "bytes": round(float(np.mean([Path(file).stat().st_size for file in files]))),
            **shape_of(files),
        },
        "count": len(files),
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "resample.c": resample.is_compiled(),
        "rows": rows,
    }


def make_ways(folder: Path, files: list[str], size: int, cores: int, batch: int) -> dict[str, Way]:
    """What is measured: each gives the batches of one round."""
    source = open_images(folder)
    steps = range(0, len(files), batch)

    def load(start: int) -> Tensor:
        rows = [row % len(source) for row in range(start, min(start + batch, len(files)))]
        return load_batch(source, rows, size, threads=cores)

    def workers(read: Read, method: InterpolationMode) -> Way:
        loader = DataLoader(
            Photographs(files, partial(read, size=size, method=method)),
            batch,
            num_workers=cores,
            persistent_workers=True,
        )
        return lambda: iter(loader)

    threads = TrainConfig.model_fields["loader_threads"].default
    return {
        "ours, batch": lambda: map(load, steps),
        "ours, loader": lambda: (loaded for _, loaded in ahead(load, steps, threads)),
        "Pillow, bilinear": workers(by_pillow, InterpolationMode.BILINEAR),
        "Pillow, bicubic": workers(by_pillow, InterpolationMode.BICUBIC),
        "torchvision, bilinear": workers(by_torchvision, InterpolationMode.BILINEAR),
        "torchvision, bicubic": workers(by_torchvision, InterpolationMode.BICUBIC),
    }


class Photographs(Dataset):
    """Files, read by a function of their path."""

    def __init__(self, files: list[str], read: Callable[[str], Tensor]) -> None:
        self.files, self.read = files, read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.files[index])


def by_pillow(file: str, size: int, method: InterpolationMode) -> Tensor:
    """One image of the Pillow ways."""
    return to_tensor(_cropped(Image.open(file).convert("RGB"), size, method))


def by_torchvision(file: str, size: int, method: InterpolationMode) -> Tensor:
    """One image of the torchvision ways."""
    return _cropped(decode_jpeg(read_file(file), ImageReadMode.RGB), size, method).float() / 255


def _cropped(image: Any, size: int, method: InterpolationMode) -> Any:
    """The middle of an image whose short side is resized."""
    return functional.center_crop(functional.resize(image, [size], interpolation=method, antialias=True), [size, size])


def rate(way: Way, count: int) -> tuple[float, float]:
    """Images per second by the clock and per second of processor time, of this process and its workers."""
    batches = way()  # workers start here the first time, and wait for the next round later
    began, used = time.perf_counter(), processor_seconds()
    seen = sum(len(batch) for batch in batches)
    assert seen == count
    return count / (time.perf_counter() - began), count / (processor_seconds() - used)


def processor_seconds() -> float:
    """Seconds of processor time of this process and its children so far."""
    ticks = 0
    for process in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        ticks += sum(map(int, Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def shape_of(files: list[str]) -> dict[str, int]:
    """The size of the first image."""
    with Image.open(files[0]) as image:
        return {"width": image.width, "height": image.height}


def processor_name() -> str:
    """The processor and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def as_table(record: dict[str, Any]) -> str:
    """The record as tables: rates, each also as a share of ours; and how many cores a GPU wants."""
    rows = record["rows"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    resize = "resample.c" if record["resample.c"] else "Pillow (resample.c is not compiled here)"
    lines = [f"{record['machine']}, {record['date']}, {versions}; ours resizes with {resize}", ""]
    lines += [
        "| size | cores | way | images/s | images a core-second | ours, batch / it |",
        "|---|---|---|---|---|---|",
    ]
    ours = {(row["size"], row["cores"]): row for row in rows if row["way"] == "ours, batch"}
    for row in rows:
        mine = ours[row["size"], row["cores"]]
        ratios = [mine[name] / row[name] for name in ("images_a_second", "images_a_core_second")]
        lines.append(
            f"| {row['size']} | {row['cores']} | {row['way']} | {row['images_a_second']:.0f} | "
            f"{row['images_a_core_second']:.0f} | {ratios[0]:.2f}, {ratios[1]:.2f} |"
        )
    return "\n".join([*lines, "", *wanted_cores(rows)])


def wanted_cores(rows: list[dict[str, Any]]) -> list[str]:
    """The cores that one GPU wants for reading, by what it does with the images."""
    rates = {row["size"]: row["images_a_core_second"] for row in rows if row["way"] == "ours, batch"}
    jobs = {f"encode, {encoder}": value for encoder, value in ENCODER.items()}
    for encoder, forward in ENCODER.items():
        jobs |= {f"{name} on images, {encoder}": 1 / (1 / forward + 1 / value) for name, value in LEARNERS.items()}
    lines = ["| a GPU's work | images/s | " + " | ".join(f"cores, read at {size}" for size in rates) + " |"]
    lines.append("|---|---|" + "---|" * len(rates))
    for name, value in jobs.items():
        cores = " | ".join(f"{value / rate:.1f}" for rate in rates.values())
        lines.append(f"| {name} | {value:.0f} | {cores} |")
    return lines


if __name__ == "__main__":
    main()
