"""Feed damaged files to every reader of foreign data and count what comes back: a result, one clear line, or a defect.

    python tools/trials/fuzz.py --inputs 2000 --out runs/fuzz
    python tools/trials/fuzz.py --commands --cases 3000 --out runs/fuzz      # whole commands: fuzz_commands.py

The corpus is one small valid file of each kind. Each input is one of them after a few random edits: bytes changed, runs
repeated or removed, the end cut off, numbers put at their extremes. Anything but a result or an FAEError of one line is
a defect, kept in the output folder; so is an input that takes longer than --seconds. Exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fuzz_commands import fuzz, report
from PIL import Image
from safetensors.torch import save

from fae_core.errors import FAEError
from fae_core.files import read_json, read_yaml
from fae_core.images import decode_image
from fae_core.images.npz import NpzImages
from fae_core.images.parquet import ParquetImages
from fae_core.images.tar import scan
from fae_core.latent_store import LatentStore, write_store
from fae_core.models.folder import load_weights
from fae_core.models.foreign import read_state_dict
from fae_core.spec import LatentSpec

IMAGES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "PPM": "ppm"}
EXTREMES = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80", b"\x00" * 8, b"\xff" * 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="of each kind")
    parser.add_argument(
        "--seconds", type=float, help="that one input may take (5), or that all commands may take (3600)"
    )
    parser.add_argument("--commands", action="store_true", help="drive the commands instead of the readers")
    parser.add_argument("--cases", type=int, default=3000, help="of commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.commands:
        tally = fuzz(arguments.out, arguments.seed, arguments.cases, arguments.seconds or 3600.0)
        print(report(tally))
        sys.exit(bool(tally.defects))
    arguments.seconds = arguments.seconds or 5.0
    defects = 0
    print("| reader | inputs | read | refused in one line | defects | slowest |\n|---|---|---|---|---|---|")
    for name, (valid, read) in readers(arguments.out).items():
        chance = random.Random(f"{arguments.seed} {name}")
        counts, slowest = Counter(), 0.0
        for number in range(arguments.inputs):
            data = damaged(valid, chance)
            started = time.perf_counter()
            outcome = attempt(read, data)
            seconds = time.perf_counter() - started
            slowest = max(slowest, seconds)
            if outcome == "defect" or seconds > arguments.seconds:
                (arguments.out / f"defect-{name.replace(' ', '-')}-{number}").write_bytes(data)
                outcome = "defect"
            counts[outcome] += 1
        defects += counts["defect"]
        print(
            f"| {name} | {arguments.inputs:,} | {counts['read']:,} | {counts['refused']:,} | {counts['defect']} "
            f"| {slowest * 1000:.0f} ms |",
            flush=True,
        )
    sys.exit(defects > 0)


def attempt(read: Callable[[bytes], object], data: bytes) -> str:
    try:
        read(data)
    except FAEError as error:
        return "defect" if "\n" in str(error) else "refused"
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return "defect"
    return "read"


def damaged(valid: bytes, chance: random.Random) -> bytes:
    """`valid` after one to six edits, half of them within the first 512 bytes, where headers are."""
    data = bytearray(valid)
    for _ in range(chance.randint(1, 6)):
        if not data:
            break
        place = chance.randrange(min(len(data), 512) if chance.random() < 0.5 else len(data))
        match chance.randrange(5):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                extreme = chance.choice(EXTREMES)
                data[place : place + len(extreme)] = extreme
            case 2:
                del data[place : place + chance.randrange(1, 64)]
            case 3:
                data[place:place] = data[place : place + chance.randrange(1, 64)]
            case 4:
                del data[max(1, len(data) - chance.randrange(1, len(data) + 1)) :]
    return bytes(data)


def readers(folder: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """Each kind's valid file, and what reads the bytes of one."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    found = {f"image {kind}": (encoded(picture, kind), decode_image) for kind in IMAGES}

    def through(suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def run(data: bytes) -> object:
            path = folder / f"input{suffix}"
            path.write_bytes(data)
            return read(path)

        return run

    found["tar shard"] = (tar_of(encoded(picture, "PNG")), lambda data: scan(io.BytesIO(data), "input.tar"))
    arrays = io.BytesIO()
    np.savez(arrays, pixels[None].repeat(3, 0), np.arange(3))
    found["npz images"] = (arrays.getvalue(), through(".npz", lambda path: NpzImages(path).read(0)))
    found["parquet images"] = (
        parquet_of(encoded(picture, "PNG")),
        through(".parquet", lambda path: ParquetImages([path]).read(0)),
    )
    tensors = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.zeros(3)}
    linear = torch.nn.Linear(4, 3)
    found["safetensors weights"] = (save(tensors), through(".safetensors", lambda path: load_weights(linear, path)))
    pickled = io.BytesIO()
    torch.save(tensors, pickled)
    found["torch checkpoint"] = (pickled.getvalue(), through(".pt", read_state_dict))
    text = json.dumps({"steps": [1, 2.5, {"a": None}], "name": "x" * 40, "deep": [[[["y"]]]]})
    found["JSON"] = (text.encode(), through(".json", read_json))
    found["YAML"] = (b"a: 1\nb: [1, 2, {c: d}]\ne:\n  f: |\n    text\n  g: 1e-3\n", through(".yaml", read_yaml))
    spec = LatentSpec(2, 4, 4, 32, "none", mean=(0.0, 1.0), std=(1.0, 2.0))
    store = folder / "store"
    write_store(store, spec, torch.randn(6, 2, 4, 4), labels=[0, 1] * 3, overwrite=store.exists())
    for file, name in (
        ("latent_spec.json", "latent spec"),
        ("index.json", "store index"),
        ("shard-000000.safetensors", "store shard"),
    ):
        found[name] = ((store / file).read_bytes(), within(store, file, spec))
    return found


def within(store: Path, file: str, spec: LatentSpec) -> Callable[[bytes], object]:
    """Read the whole store with one of its files replaced."""
    import shutil

    def run(data: bytes) -> object:
        copy = store.with_name("store-damaged")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        (copy / file).write_bytes(data)
        opened = LatentStore(copy)
        opened.verify()
        return opened.read(slice(None)), opened[0]

    return run


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def tar_of(image: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (
            ("0.png", image),
            ("0.cls", b"3"),
            ("0.txt", b"a caption"),
            ("1.png", image),
            ("1.cls", b"4"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet_of(image: bytes) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    rows = pyarrow.table({"img": [{"bytes": image, "path": None}] * 3, "label": [0, 1, 2]})
    pyarrow.parquet.write_table(rows, buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
