"""Writing samples: an image does not depend on its batch, and running out of memory only makes batches smaller."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import LatentSpec
from fae_core.errors import FAEError, OutputExists
from fae_core.protocols import Observer, SamplingStep
from fae_core.random import SlotRandom
from fae_core.sampling.job import SampleJob

SPEC = LatentSpec(3, 4, 4, 4, "toy/backbone", fingerprint="toy")


class Device:
    """A generator and a decoder that hold so many samples at once."""

    spec, config = SPEC, SimpleNamespace(classes=2)

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity, self.batches = capacity, []

    def sample(self, condition: torch.Tensor, *, random: SlotRandom, noise: torch.Tensor | None = None) -> torch.Tensor:
        if len(condition) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(condition))
        return random.normal(SPEC.shape, "noise") + condition.view(-1, 1, 1, 1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z.sigmoid()


def run(monkeypatch: pytest.MonkeyPatch, device: Device, out: Path, **settings: object) -> np.ndarray:
    for loader in ("load_generator", "load_decoder"):
        monkeypatch.setattr(f"fae_core.sampling.draw.{loader}", lambda source, device=None, found=device: found)
    SampleJob("generator", "decoder", out, count=11, **settings).run(device="cpu")
    return np.stack([np.asarray(Image.open(path)) for path in sorted((out / "images").iterdir())])


def test_out_of_memory_halves_the_batch_and_changes_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(monkeypatch, Device(), tmp_path / "plain", batch_size=8)
    small = Device(capacity=3)
    halved = run(monkeypatch, small, tmp_path / "halved", batch_size=8)
    assert max(small.batches) <= 3 and sum(small.batches) == 11
    assert (plain == halved).all() and len(plain) == 11


def test_a_single_sample_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FAEError, match="out of memory with one image at a time"):
        run(monkeypatch, Device(capacity=0), tmp_path / "out", batch_size=4)


def test_a_folder_in_use_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, Device(), tmp_path / "out")
    with pytest.raises(OutputExists, match=r"--overwrite .* or --resume"):
        run(monkeypatch, Device(), tmp_path / "out")
    with pytest.raises(FAEError, match="between 0 and 1"):
        run(monkeypatch, Device(), tmp_path / "other", labels="0,7")
    assert not (tmp_path / "other").exists()


def test_a_generator_that_fails_makes_and_replaces_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(Device):
        def sample(self, condition: torch.Tensor, **_: object) -> torch.Tensor:
            raise FAEError("no such way to sample")

    before = run(monkeypatch, Device(), tmp_path / "out")
    for name in ("new", "out"):
        for loader in ("load_generator", "load_decoder"):
            monkeypatch.setattr(f"fae_core.sampling.draw.{loader}", lambda source, device=None: Fails())
        with pytest.raises(FAEError, match="no such way"):
            SampleJob("generator", "decoder", tmp_path / name, count=11).run(overwrite=True, device="cpu")
    assert not (tmp_path / "new").exists()
    assert (run(monkeypatch, Device(), tmp_path / "again") == before).all() and len(before) == 11
    assert len([*(tmp_path / "out/images").iterdir()]) == 11


def test_secrets_are_not_recorded_and_what_was_recorded_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in ("load_generator", "load_decoder"):
        monkeypatch.setattr(f"fae_core.sampling.draw.{loader}", lambda source, device=None: Device())
    job = SampleJob("https://me:p@55w@host.org/model?sig=c0ffee", "user:p@55w@host/decoder", tmp_path / "out", count=2)
    job.run(device="cpu")
    job.run(resume=True, device="cpu")
    written = (tmp_path / "out" / "samples.json").read_text()
    assert "https://***@host.org/model?***" in written and "***@host/decoder" in written
    assert "55w" not in written and "c0ffee" not in written


class Painter(torch.nn.Module):
    """A generator and a decoder in one, whose pictures depend on the seed alone."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.config = SPEC, SimpleNamespace(classes=2)

    def sample(self, condition: torch.Tensor, *, random: SlotRandom) -> torch.Tensor:
        return random.normal(SPEC.shape, "noise")

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z.sigmoid()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SampleJob:
    for loader in ("load_generator", "load_decoder"):
        monkeypatch.setattr(f"fae_core.sampling.draw.{loader}", lambda source, device=None: Painter())
    job = SampleJob("generator", "decoder", tmp_path / "out", count=5)
    job.run(device="cpu")
    return job


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "no end", "a text", "another format"])
def test_a_damaged_picture_is_made_again(damage: str, job: SampleJob) -> None:
    path = job.image_path(2)
    whole = path.read_bytes()
    (job.out / "samples.npz").unlink()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "flipped": bytes(flipped),
            "no end": whole[:-12],
            "a text": b"not a picture",
            "another format": b"GIF89a" + whole[6:],
        }[damage]
    )
    (job.out / "images" / ".000003.png.tmp").write_bytes(b"half")  # of a writer that was killed, in earlier versions
    job.run(resume=True, device="cpu")
    assert path.read_bytes() == whole and (job.out / "samples.npz").is_file()
    assert [entry.name for entry in job.out.rglob(".*")] == []


def test_only_samples_are_replaced_and_never_what_else_lies_there(job: SampleJob) -> None:
    (job.out / "other.npz").write_bytes(b"mine")
    with pytest.raises(FAEError, match=r"also holds other\.npz"):
        job.run(overwrite=True, device="cpu")
    (job.out / "other.npz").rename(job.out.parent / "other.npz")
    job.run(overwrite=True, device="cpu")
    assert sorted(path.name for path in job.out.iterdir()) == ["grid.png", "images", "samples.json", "samples.npz"]


def test_a_pipe_in_a_picture_s_place_is_made_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(monkeypatch, Device(), tmp_path / "out")
    (tmp_path / "out" / "images" / "000003.png").unlink()
    os.mkfifo(tmp_path / "out" / "images" / "000003.png")
    SampleJob("generator", "decoder", tmp_path / "out", count=11).run(resume=True, device="cpu")
    pictures = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "images").iterdir())]
    assert (np.stack(pictures) == before).all()


def test_what_is_drawn_of_a_batch_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(Device):
        def sample(self, condition: torch.Tensor, *, observe: Observer, **options: Any) -> torch.Tensor:
            for done in (0.25, 0.5):
                observe(SamplingStep(done, "step", None))
            return super().sample(condition, **options)

    monkeypatch.setattr("fae_core.progress._FIRST_SECONDS", -1.0)
    monkeypatch.setattr("fae_core.progress._LINE_SECONDS", -1.0)
    run(monkeypatch, Slow(), tmp_path / "out", batch_size=8)
    assert "sampling: 0/11, 0 s, 50% of the next 8\n" in capsys.readouterr().err
