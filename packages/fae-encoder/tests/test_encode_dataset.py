"""Claims about `fae encode`: the same bytes for any processes and interruptions; bad images are named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import LatentStore, SlotRandom
from fae_core.commands.groups import invoke
from fae_core.errors import DataError, LatentSpecMismatch, OutputExists
from fae_core.images import load_batch, open_images
from fae_encoder import FAEEncoder
from fae_encoder.store.encode_dataset import EncodeConfig, encode_dataset

BAD = 9  # place of the unreadable image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small pictures in two classes, one of them truncated."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for place in range(40):
        file = folder / ("clouds" if place < 20 else "stones") / f"{place:02d}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 70, 3), np.uint8)).save(file)
    broken = folder / "clouds" / f"{BAD:02d}.png"
    broken.write_bytes(broken.read_bytes()[:600])
    return folder


@pytest.fixture(scope="module")
def encoder() -> FAEEncoder:
    torch.manual_seed(0)
    return FAEEncoder.from_preset("fae-tiny").eval()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_store_holds_what_the_encoder_gives(pictures: Path, encoder: FAEEncoder, tmp_path: Path) -> None:
    source = open_images(pictures)
    store = encode_dataset(encoder, source, tmp_path / "s", EncodeConfig(dtype="float32", flips=True, shard_size=16))
    places = [i for i in range(40) if i != BAD]
    assert len(store) == 39
    assert [store[i].source for i in range(39)] == places
    assert store.labels.tolist() == [source.labels[i] for i in places]
    assert store.classes == ["clouds", "stones"]
    assert store[10].name == "clouds/11.png"
    images = load_batch(source, places[:12], 64)
    with torch.no_grad():
        posterior, mirrored = encoder.posterior(images), encoder.posterior(images.flip(-1))
    for flip, wanted in ((False, posterior), (True, mirrored)):
        mean, std = store.read_posterior(range(12), flip=flip)
        torch.testing.assert_close(mean, wanted.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(std, wanted.std, atol=1e-5, rtol=1e-5)
    z = store.spec.with_statistics([0.0] * 8, [1.0] * 8).normalize(posterior.mean)
    torch.testing.assert_close(store.read(range(12))[0], store.spec.normalize(z), atol=1e-5, rtol=1e-5)
    skipped = (tmp_path / "s" / "skipped.txt").read_text()
    assert skipped.startswith(f"{BAD}\t")
    assert "clouds/09.png" in skipped


def test_bytes_do_not_depend_on_batch_size_threads_or_processes(
    pictures: Path, encoder: FAEEncoder, tmp_path: Path
) -> None:
    source = open_images(pictures)
    one = EncodeConfig(shard_size=12, batch_size=32)
    encode_dataset(encoder, source, tmp_path / "one", one)
    many = EncodeConfig(shard_size=12, batch_size=3, threads=1)
    for rank in (2, 1, 0):  # the first process waits for the others, so it comes last here
        # Whoever comes first begins the store, as process 0 does when they run at once.
        encode_dataset(encoder, source, tmp_path / "many", many, rank=rank, world=3, resume=True)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_samples_are_drawn_by_place(pictures: Path, encoder: FAEEncoder, tmp_path: Path) -> None:
    source = open_images(pictures)
    config = EncodeConfig(dtype="float32", posterior="sample", seed=3)
    store = encode_dataset(encoder, source, tmp_path / "s", config)
    with torch.no_grad():
        wanted = encoder.posterior(load_batch(source, [11], 64)).sample(SlotRandom(3, [11]))
    torch.testing.assert_close(store.read_posterior([10])[0], wanted, atol=1e-5, rtol=1e-5)
    assert store.read_posterior([10])[1] is None


def test_statistics_are_the_encoders_where_it_has_them(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = FAEEncoder.from_preset("fae-tiny").eval()
    source = open_images(pictures).select(range(8))
    measured = encode_dataset(encoder, source, tmp_path / "data", EncodeConfig(dtype="float32", posterior="mean"))
    z, _ = measured.read(range(8))
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(8), atol=1e-4, rtol=0)
    encoder.with_statistics([0.25] * 8, [3.0] * 8)
    own = encode_dataset(encoder, source, tmp_path / "own", EncodeConfig(dtype="float32", posterior="mean"))
    assert own.spec == encoder.spec
    torch.testing.assert_close(
        own.read(range(8))[0], encoder.encode(load_batch(source, range(8), 64)), atol=1e-5, rtol=1e-5
    )


def test_all_images_bad_is_an_error(encoder: FAEEncoder, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 1 samples could be read"):
        encode_dataset(encoder, open_images(pictures).select([BAD]), tmp_path / "s")


def test_resuming_with_another_encoder_or_other_data_is_refused(
    encoder: FAEEncoder, pictures: Path, tmp_path: Path
) -> None:
    source = open_images(pictures).select(range(4))
    encode_dataset(encoder, source, tmp_path / "s")
    with pytest.raises(OutputExists, match="--resume"):
        encode_dataset(encoder, source, tmp_path / "s")
    torch.manual_seed(1)
    with pytest.raises(LatentSpecMismatch, match="fingerprint"):
        encode_dataset(FAEEncoder.from_preset("fae-tiny"), source, tmp_path / "s", resume=True)
    with pytest.raises(DataError, match="begun with source"):
        encode_dataset(encoder, open_images(pictures).select(range(1, 5)), tmp_path / "s", resume=True)


def test_a_finished_store_is_not_passed_off_as_one_of_other_statistics(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = FAEEncoder.from_preset("fae-tiny").with_statistics([0.25] * 8, [3.0] * 8).eval()
    source, out = open_images(pictures).select(range(4)), tmp_path / "s"
    own = encode_dataset(encoder, source, out)
    assert own is not None and encode_dataset(encoder, source, out, resume=True).spec == own.spec
    with pytest.raises(LatentSpecMismatch, match=r"finished with other statistics.* mean: "):
        encode_dataset(encoder, source, out, EncodeConfig(statistics="data"), resume=True)
    with pytest.raises(LatentSpecMismatch, match=r"finished with other statistics.* std: "):
        encode_dataset(encoder.with_statistics([0.25] * 8, [2.0] * 8), source, out, resume=True)
    by_data = EncodeConfig(statistics="data")
    measured = encode_dataset(encoder, source, out, by_data, overwrite=True)
    assert encode_dataset(encoder, source, out, by_data, resume=True).spec == measured.spec != own.spec


def test_the_command_says_what_it_skipped_wrote_and_what_comes_next(pictures: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "latents"
    command = ["encode", "--data", str(pictures), "--model", "fae-tiny", "--out", str(out), "--limit", "30"]
    invoke(command)
    said = capfd.readouterr()
    assert "1 of 30 images could not be read and were skipped" in said.err
    assert "09.png" in said.err
    assert f"wrote 29 latents of 8x4x4 (float16, normalised by their own statistics) to {out}" in said.out
    assert f"next: fae train diffusion --latents {out}" in said.out
    before = contents(out)
    with pytest.raises(OutputExists):
        invoke(command)
    invoke([*command, "--overwrite"])
    assert contents(out) == before


@pytest.mark.parametrize(
    ("trained", "statistics", "said"),
    [
        (True, "auto", "normalised by the encoder's statistics"),
        (True, "data", "normalised by their own statistics"),
        (False, "encoder", "not normalised"),
    ],
)
def test_the_command_says_by_what_latents_are_normalised(
    pictures: Path, tmp_path: Path, capfd, trained: bool, statistics: str, said: str
) -> None:
    model = "fae-tiny"
    if trained:
        encoder = FAEEncoder.from_preset("fae-tiny", seed=0).with_statistics([0.25] * 8, [3.0] * 8)
        model = str(encoder.save_pretrained(tmp_path / "encoder"))
    command = ["encode", "--data", f"{pictures}[:4]", "--model", model, "--out", str(tmp_path / "latents")]
    invoke([*command, "--statistics", statistics])
    assert f"latents of 8x4x4 (float16, {said})" in capfd.readouterr().out


@pytest.mark.slow
def test_kill_9_and_resume_with_more_processes_give_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    options = ["encode", "--data", str(pictures), "--model", "fae-tiny", "--shard-size", "4"]
    invoke([*options, "--out", str(tmp_path / "whole")])
    out = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fae_core.cli.main", *options, "--out", str(out)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("shard-*"))) < 3:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert len(done) >= 3
    subprocess.run([*command, "--resume", "--processes", "2"], env=environment, check=True)
    noted = {path: time for path, time in done.items() if path.stat().st_mtime_ns == time}
    assert len(noted) >= len(done) - 1  # the last one may have been renamed but not yet noted
    assert contents(out) == contents(tmp_path / "whole")
    LatentStore(out).verify()


def test_captions_travel_into_the_store(pictures: Path, encoder: FAEEncoder, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(pictures / "clouds", tmp_path / "images")
    for place in range(20):
        (tmp_path / "images" / f"{place:02d}.txt").write_text(f"cloud number {place}")
    store = encode_dataset(encoder, open_images(tmp_path / "images"), tmp_path / "s", EncodeConfig(shard_size=8))
    assert [store[i].caption for i in range(19)] == [f"cloud number {i}" for i in range(20) if i != BAD]
    (tmp_path / "images" / "19.txt").write_text("another caption")
    with pytest.raises(DataError, match="begun with source"):
        encode_dataset(
            encoder, open_images(tmp_path / "images"), tmp_path / "s", EncodeConfig(shard_size=8), resume=True
        )


def test_out_of_memory_halves_the_group_and_goes_on(
    pictures: Path, encoder: FAEEncoder, tmp_path: Path, monkeypatch, caplog
) -> None:
    source = open_images(pictures)
    whole = encode_dataset(encoder, source, tmp_path / "whole", EncodeConfig(dtype="float32"))
    posterior = encoder.posterior

    def small_device(images: torch.Tensor):
        if len(images) > 8:
            raise torch.OutOfMemoryError
        return posterior(images)

    monkeypatch.setattr(encoder, "posterior", small_device)
    halved = encode_dataset(encoder, source, tmp_path / "halved", EncodeConfig(dtype="float32"))
    torch.testing.assert_close(halved.read(slice(None))[0], whole.read(slice(None))[0], atol=1e-5, rtol=1e-5)
    assert "out of memory for 32 images" in caplog.text and "for 16 images" in caplog.text
