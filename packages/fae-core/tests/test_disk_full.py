"""A disk that is really full: one clear line, what was complete stays, and with space again the work goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))  # for toy_training, whatever folder pytest was started in

from toy_training import ToyTask

from fae_core import LatentSpec
from fae_core.errors import FAEError
from fae_core.files import staged_folder, write_atomic
from fae_core.latent_store import LatentStoreWriter, Plan
from fae_core.processes import Processes
from fae_core.training import TrainConfig, train
from fae_core.training.checkpoint import Checkpoints

SETTINGS = TrainConfig(steps=8, batch_size=4, learning_rate=1e-3, checkpoint_every=2, keep_checkpoints=8, log_every=1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all space but `leave` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return ballast


def test_small_files_and_folders(disk: Path) -> None:
    write_atomic(disk / "a.json", b"old")
    ballast = fill(disk)
    with pytest.raises(FAEError, match=r"cannot write .*a\.json: no space left on the disk"):
        write_atomic(disk / "a.json", b"x" * 100_000)
    assert (disk / "a.json").read_bytes() == b"old"
    with pytest.raises(FAEError, match="no space left"), staged_folder(disk / "model") as staging:
        (staging / "weights").write_bytes(bytes(100_000))
    with pytest.raises(FAEError, match="no space left"), staged_folder(disk / "model") as staging:
        save_file({"weight": torch.zeros(100_000)}, staging / "model.safetensors")
    assert sorted(path.name for path in disk.iterdir()) == ["a.json", ballast.name]


def test_a_run_stops_in_one_line_and_goes_on_when_there_is_space(disk: Path, tmp_path: Path) -> None:
    train(ToyTask(), SETTINGS, tmp_path / "straight", device="cpu")
    size = sum(path.stat().st_size for path in (tmp_path / "straight/checkpoints/step-00000002").iterdir())
    ballast = fill(disk, leave=int(2.5 * size))
    with pytest.raises(FAEError, match="no space left on the disk") as caught:
        train(ToyTask(), SETTINGS, disk / "run", device="cpu")
    assert "\n" not in str(caught.value)
    checkpoints = Checkpoints(disk / "run", Processes(0, 1, "cpu"), keep=8)
    assert checkpoints.latest() is not None
    ballast.unlink()
    train(ToyTask(), SETTINGS, disk / "run", resume=True, device="cpu")
    finished, straight = (folder / "model/model.safetensors" for folder in (disk / "run", tmp_path / "straight"))
    assert finished.read_bytes() == straight.read_bytes()


def test_a_latent_store_keeps_its_whole_shards(disk: Path) -> None:
    spec = LatentSpec(channels=4, height=8, width=8, image_size=64, backbone="none")
    plan = Plan(total=64, shard_size=16, dtype="float32", posterior="mean", source="random")
    writer = LatentStoreWriter(disk / "store", spec, plan)
    latents = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 4, 8, 8), dtype=np.float32))

    def write(shard: int) -> None:
        part = writer.shard(shard)
        part.add(list(part.range), {"mean": latents[part.range.start : part.range.stop]}, names=[""] * len(part.range))
        part.commit()

    write(0)
    ballast = fill(disk, leave=8192)
    with pytest.raises(FAEError, match="no space left on the disk"):
        write(1)
    assert writer.pending() == [1, 2, 3]
    ballast.unlink()
    writer = LatentStoreWriter(disk / "store", spec, plan, resume=True)
    for shard in writer.pending():
        write(shard)
    store = writer.finish()
    torch.testing.assert_close(store.spec.denormalize(store.read(slice(None))[0]), latents, atol=1e-5, rtol=1e-5)


def test_a_read_only_disk_is_one_line_and_keeps_what_it_has(disk: Path) -> None:
    write_atomic(disk / "a.json", b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(FAEError, match=r"cannot write .*a\.json: the folder is read-only"):
        write_atomic(disk / "a.json", b"new")
    with pytest.raises(FAEError, match="the folder is read-only"):
        train(ToyTask(), SETTINGS, disk / "run", device="cpu")
    assert (disk / "a.json").read_bytes() == b"old" and not (disk / "run").exists()
