"""Do the built wheels work where there is no checkout? Run by the Python of an environment that holds only wheels.

python tools/checks/wheels.py encode FOLDER     # with fae-encoder: make images, `fae encode` them, keep the latents
python tools/checks/wheels.py reload FOLDER     # with fae-core alone: read the same latents back
python tools/checks/wheels.py sample FOLDER     # with fae-decoders and generators: draw from every bundle
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    steps = {"encode": encode, "reload": reload, "sample": sample}
    if len(sys.argv) != 3 or sys.argv[1] not in steps:
        print(__doc__, file=sys.stderr)
        return 2
    import fae_core

    assert ROOT not in Path(fae_core.__file__).resolve().parents, "fae_core comes from the checkout, not from a wheel"
    steps[sys.argv[1]](Path(sys.argv[2]))
    return 0


def encode(folder: Path) -> None:
    """`fae encode` on eight images of two classes; the latents differ from image to image."""
    from PIL import Image

    from fae_core.images import resample

    assert Path(resample.__file__).with_name("resample.c").is_file(), "fae-core's wheel lacks resample.c"
    random = np.random.default_rng(0)
    for name in ("clouds", "stones"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(4):
            coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
            coarse.resize((160, 120), Image.Resampling.BICUBIC).save(folder / "images" / name / f"{number}.jpg")
    command = Path(sys.executable).with_name("fae")
    subprocess.run([command, "encode", "--data", folder / "images", "--out", folder / "latents"], check=True)
    latents, labels = read(folder / "latents")
    assert latents.shape[0] == 8 and sorted(labels) == [0] * 4 + [1] * 4, (latents.shape, labels)
    assert np.isfinite(latents).all() and latents.std(axis=0).min() > 0, "all images have the same latents"
    np.savez(folder / "expected.npz", latents=latents, labels=labels)
    print(f"encoded {len(latents)} images to latents of {latents.shape[1:]}")


def reload(folder: Path) -> None:
    """fae_core alone reads what fae_encoder wrote."""
    assert importlib.util.find_spec("fae_encoder") is None, "fae_encoder is installed here"
    latents, labels = read(folder / "latents")
    with np.load(folder / "expected.npz", allow_pickle=False) as expected:
        np.testing.assert_array_equal(latents, expected["latents"])
        np.testing.assert_array_equal(labels, expected["labels"])
    print(f"fae_core alone read the same {len(latents)} latents")


def sample(folder: Path) -> None:
    """`fae sample --model NAME` for every bundle in the checkout's packages: the wheels must carry them all."""
    from PIL import Image

    names = [record.parent.name for record in sorted(ROOT.glob("packages/*/src/*/bundles/*/bundle.json"))]
    command = Path(sys.executable).with_name("fae")
    for name in names:
        out = folder / f"samples-{name}"
        subprocess.run(
            [command, "sample", "--model", name, "--out", out, "--count", "2", "--device", "cpu"], check=True
        )
        pictures = np.stack([np.asarray(Image.open(path)) for path in sorted((out / "images").iterdir())])
        assert len(pictures) == 2 and pictures.std() > 1, f"{name} paints nothing"
    print(f"sampled from {len(names)} bundles: {', '.join(names) or 'none is carried'}")


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from fae_core import LatentStore

    store = LatentStore(folder)
    latents, labels = store.read(list(range(len(store))))
    store.spec.check(latents)
    return latents.numpy(), labels.numpy()


if __name__ == "__main__":
    sys.exit(main())
