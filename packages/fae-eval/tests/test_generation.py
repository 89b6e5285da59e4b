"""evaluate(): labels, warnings, ADM references, caching, and independence from the batch size."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core.errors import DataError, FAEError, UnknownName
from fae_core.images import open_images
from fae_core.latent_store import write_store
from fae_core.testing import shared_folder
from fae_eval import Result, evaluate
from fae_eval.data import AdmStatistics, open_samples, read_adm_statistics, write_adm
from fae_eval.data.samples import ArraySamples
from fae_eval.metrics.neighbours import shared_rows
from fae_eval.preview import PreviewFrechet
from fae_eval.studies.generation import FLOOR, relate_to_floor


def test_equal_sets_have_distance_zero_and_others_do_not(extractor, photographs):
    real, other = photographs("real"), photographs("other", seed=1)
    result = evaluate({"same": real, "other": other}, real, extractor=extractor, metrics=["fid", "pr"])
    distances = {row[0]: row[2] for row in result.table["rows"]}
    assert distances["same"] == pytest.approx(0, abs=1e-8)
    assert distances["other"] > 1e-5
    assert result.values["same: precision"] == result.values["same: recall"] == 1


def test_only_the_official_inception_is_called_fid(extractor, photographs):
    real = photographs("real")
    result = evaluate(real, real, extractor=extractor)
    assert "FD-pixels" in result.table["columns"]
    assert not any("FID" in str(column) for column in result.table["columns"])
    assert "not FID" in " ".join(result.notes)
    extractor.official_inception = True
    named = evaluate(real, real, extractor=extractor, purpose="reconstruction")
    assert named.table["columns"][2:] == ["rFID", "sFID", "IS", "precision", "recall"]


def test_the_batch_size_changes_nothing(extractor, photographs):
    real, made = photographs("real"), photographs("made", seed=1)
    one, many = (
        evaluate(made, real, extractor=extractor, metrics=["fid", "kid", "pr", "is"], batch_size=size, kernel_subsets=3)
        for size in (1, 7)
    )
    assert one.values == many.values
    assert one.provenance["samples"]["moments"] == many.provenance["samples"]["moments"]


def test_statistics_are_taken_from_the_reference_file(extractor, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    mu = np.full(12, 0.5)
    write_adm(tmp_path / "ref.npz", [images], 30, None, AdmStatistics(mu, np.eye(12), None, None))
    extractor.official_inception = True
    from_file = evaluate(images, tmp_path / "ref.npz", extractor=extractor, metrics=["fid"])
    assert from_file.provenance["reference"]["statistics"] == "from the file"
    assert from_file.values["FID"] > 1  # the file claims unit variances, the images have far smaller ones
    larger = evaluate(images.repeat(2, 1).repeat(2, 2), tmp_path / "ref.npz", extractor=extractor, metrics=["fid"])
    assert "16x16 pixels and the reference 8x8" in warnings_of(larger)  # though no image of the file was read
    extractor.official_inception = False
    computed = evaluate(images, tmp_path / "ref.npz", extractor=extractor, metrics=["fid"])
    assert computed.values["FD-pixels"] == pytest.approx(0, abs=1e-8)


def test_adm_containers_in_miniature():
    ref, samples = shared_folder("cases/eval/npz_ref_tiny.npz"), shared_folder("cases/eval/npz_samples_tiny.npz")
    stored, arrays = read_adm_statistics(ref), np.load(ref)
    np.testing.assert_array_equal(stored.mu, arrays["mu"])
    np.testing.assert_array_equal(stored.sigma_s, arrays["sigma_s"])
    assert read_adm_statistics(samples) is None
    sums = [sum(int(b.sum()) for b in open_samples(path).batches(5)) for path in (ref, samples)]
    assert sums == [4661810, 7828175]
    assert open_samples(ref).labels == arrays["arr_1"].tolist()


def test_adm_container_round_trip(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3)).astype(np.uint8)
    path = write_adm(tmp_path / "a.npz", [images[:4], images[4:]], 7, [0, 1, 2, 0, 1, 2, 0])
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], images)
    assert open_samples(path).labels == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(DataError, match="expected 8 images"):
        write_adm(tmp_path / "b.npz", [images], 8)
    assert not (tmp_path / "b.npz").exists()


def warnings_of(result: Result) -> str:
    return "\n".join(result.warnings)


def test_broken_protocols_are_named(extractor, photographs, monkeypatch):
    real, made = photographs("real"), photographs("made", count=12, size=20, suffix="jpg")
    warned = warnings_of(evaluate(made, real, extractor=extractor, metrics=["fid"]))
    for sentence in ("leave the covariance singular", "stored as JPEG", "16x16"):
        assert sentence in warned
    monkeypatch.setattr("fae_eval.studies.generation.SPLIT_SIZE", 8)
    assert "ordered by class" in warnings_of(evaluate(real, real, extractor=extractor, metrics=["is"]))
    # Without labels the classifier's own answers tell.
    images = np.zeros((40, 8, 8, 3), np.uint8)
    images[:20, :, :4], images[20:, :, 4:] = 255, 255
    assert "ordered by class" in warnings_of(evaluate(images, images, extractor=extractor, metrics=["is"]))
    shuffled = images[np.random.default_rng(0).permutation(40)]
    assert "ordered by class" not in warnings_of(evaluate(shuffled, images, extractor=extractor, metrics=["is"]))


def test_rfid_against_a_generation_reference_is_named(extractor, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    path = write_adm(tmp_path / "r.npz", [images], 30, None, AdmStatistics(np.zeros(12), np.eye(12), None, None))
    result = evaluate(images, path, extractor=extractor, metrics=["fid"], purpose="reconstruction")
    assert "rFID needs the originals" in warnings_of(result)


def test_the_record_says_everything_that_a_repetition_needs(extractor, photographs, tmp_path):
    real = photographs("real")
    result = evaluate(real, real, floor=photographs("floor", seed=2), extractor=extractor, label_sampling="equal")
    facts = result.provenance
    for name in ("command", "date", "device", "versions", "extractor", "reference", "samples", "uint8_rule"):
        assert name in facts or name == "device"
    assert facts["reference"]["count"] == 24
    assert facts["precision_recall"] == {"precision": "fp32", "k": 3, "reference_images": 24}
    assert facts["label_sampling"] == "equal"
    assert [row[0] for row in result.table["rows"]] == ["samples", FLOOR]
    loaded = Result.load(result.save(tmp_path / "r.json"))
    assert loaded.table["rows"][0][2] == result.table["rows"][0][2]
    assert "provenance:" in result.text()


def test_distances_are_also_told_in_units_of_the_floor(extractor, photographs):
    real, floor = photographs("real"), photographs("floor", seed=2)
    sets = {"a": photographs("a", seed=3), "b": photographs("b", seed=4, count=12)}
    result = evaluate(sets, real, floor=floor, extractor=extractor, metrics=["fid", "dc"])
    assert result.columns == ["", "images", "FDr", "FD-pixels", "density", "coverage"]
    unit = result.rows[-1][3]
    assert [row[2] for row in result.rows] == [pytest.approx(row[3] / unit) for row in result.rows]
    assert result.rows[-1][:3] == [FLOOR, 24, 1.0] and result.values["a: FDr"] == result.rows[0][2]
    assert result.provenance["density_coverage"] == {"k": 5, "reference_images": 24}
    assert "FDr" not in evaluate(sets, real, extractor=extractor).columns
    same = evaluate(sets["a"], real, floor=real, extractor=extractor, metrics=["fid"])  # a floor of 0 is no unit
    assert same.rows[-1][-1] == pytest.approx(0, abs=1e-9)
    assert f"{FLOOR}: these are images of the reference" in warnings_of(same)
    assert "images of the reference" not in warnings_of(result)


def test_a_floor_of_rounding_is_no_unit():
    rows = [["samples", 9, 5.0], [FLOOR, 9, 2e-14]]
    assert not relate_to_floor(["", "images", "FD-x"], rows, "FD-x") and rows[0] == ["samples", 9, 5.0]
    rows[1][2] = 2e-3
    assert relate_to_floor(["", "images", "FD-x"], rows, "FD-x") and rows[0] == ["samples", 9, 2500.0, 5.0]


def test_a_floor_that_shares_images_with_its_reference_is_named(extractor, photographs):
    """Whatever the order, and wherever an image is in its batch."""
    real, other = (
        np.concatenate(list(open_samples(photographs(name, seed=seed)).batches(32)))
        for name, seed in (("real", 1), ("other", 2))
    )
    floor = np.concatenate([other[:18], real[20:14:-1]])
    result = evaluate(other, real, floor=floor, extractor=extractor, metrics=["fid"], batch_size=5)
    assert f"{FLOOR}: 6 of these 24 are images of the reference; a floor needs others" in warnings_of(result)
    features, others = torch.randn(200, 30), torch.randn(300, 30)
    features[:7] = others[torch.arange(7) * 40] * (1 + 1e-6)
    assert shared_rows(features, others) == 7 and shared_rows(others, features) == 7
    assert shared_rows(others, others[:1]) == 1 and shared_rows(others, others + 1e-2) == 0


def test_a_size_is_that_of_all_images_wherever_they_come_from(extractor, fae, photographs, tmp_path):
    """The samples of a decoder of 16 pixels, and a reference of 32 that is cropped to 8: both are measured at 8."""
    real = photographs("real", size=32)
    images = np.stack([np.asarray(open_images(real).read(i)) for i in range(24)])
    stored = write_store(tmp_path / "latents", fae.spec, fae.encode(torch.rand(24, 3, 16, 16)))
    sources = {
        "files": real,
        "array": images,
        "floats": torch.from_numpy(images).permute(0, 3, 1, 2) / 255,
        "stream": iter([images[:20], images[20:]]),
        "store": stored.folder,
        "drawn": ArraySamples(images[:, :16, :16], "drawn"),
    }
    result = evaluate(sources, real, size=8, decoder=fae, extractor=extractor, metrics=["fid"])
    assert all(result.provenance[f"samples {name}"]["size"] == "8x8" for name in sources)
    distances = {row[0]: row[-1] for row in result.rows}
    same = ("files", "array", "floats", "stream")
    assert [distances[name] for name in same] == pytest.approx([0] * 4, abs=1e-8) and distances["store"] > 1e-6
    assert "different resizes" not in warnings_of(result)
    keys = {open_samples(images, size=size).cache_key() for size in (None, 8, 9)}
    assert len(keys) == 3
    for source in (real, images):  # opened twice, they are cropped once
        opened = open_samples(source, size=8)
        assert open_samples(opened, size=8) is opened and opened.preparation.count("centre crop") == 1


def test_a_preview_measures_samples_against_images_of_their_size(extractor, photographs, monkeypatch, tmp_path):
    monkeypatch.setattr("fae_eval.preview.load_extractor", lambda *_, **__: extractor)
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "cache"))
    real = photographs("real", size=32)
    Image.new("RGB", (48, 40)).save(real / "red" / "wide.png")  # photographs have many sizes
    cropped = np.concatenate(list(open_samples(real, size=8).batches(32)))
    measured = PreviewFrechet(str(real), "pixels", size=(8, 8))(iter([cropped]))
    assert measured == {"preview_FD-pixels": pytest.approx(0, abs=1e-8)}


def test_the_floor_has_as_many_images_as_there_are_samples(extractor, photographs):
    real, many = photographs("real"), photographs("floor", seed=2, count=48)
    few = photographs("few", seed=3, count=8)
    result = evaluate(few, real, floor=many, extractor=extractor, metrics=["fid"])
    assert [row[1] for row in result.rows] == [8, 8] and "in units of" not in warnings_of(result)
    alone = evaluate(open_images(f"{many}[::6]"), real, extractor=extractor, metrics=["fid"])
    assert result.rows[1][-1] == alone.rows[0][-1]
    largest = evaluate({"few": few, "more": real}, real, floor=many, extractor=extractor, metrics=["fid"])
    assert largest.rows[-1][:2] == [FLOOR, 24] and "units of 24 real images" in warnings_of(largest)
    assert "(few 8)" in warnings_of(largest)
    assert "(samples 24)" in warnings_of(evaluate(real, real, floor=few, extractor=extractor, metrics=["fid"]))


def test_the_reference_is_measured_once_and_again_when_it_changes(extractor, photographs, tmp_path):
    real, cache = photographs("real"), tmp_path / "cache"
    first = evaluate(real, real, extractor=extractor, cache=cache, metrics=["fid", "is"])
    again = evaluate(real, real, extractor=extractor, cache=cache, metrics=["fid", "is"])
    assert (first.provenance["reference"]["cached"], again.provenance["reference"]["cached"]) == (False, True)
    assert first.values == again.values
    entry = next(cache.iterdir())
    entry.write_bytes(entry.read_bytes()[:-8])
    assert evaluate(real, real, extractor=extractor, cache=cache).provenance["reference"]["cached"] is False
    next(real.glob("red/*.png")).unlink()
    assert evaluate(real, real, extractor=extractor, cache=cache).provenance["reference"]["cached"] is False


def test_unreadable_images_are_left_out_and_named(extractor, photographs):
    real, made = photographs("real"), photographs("made", seed=1)
    (made / "red" / "broken.png").write_bytes(b"no image")
    result = evaluate(made, real, extractor=extractor, metrics=["fid"])
    assert result.table["rows"][0][1] == 24
    assert "1 unreadable images were left out" in warnings_of(result)
    of_reference = evaluate(real, made, extractor=extractor, metrics=["fid"])
    assert "reference: 1 unreadable images were left out" in warnings_of(of_reference)
    for path in made.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 25 images"):
        evaluate(made, real, extractor=extractor)


def test_streams_arrays_and_sample_folders(extractor, photographs, tmp_path):
    real = photographs("real")
    images = np.concatenate(list(open_samples(real).batches(5)))
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    folder = tmp_path / "samples"
    (folder / "images").mkdir(parents=True)
    from fae_core.images import save_image

    for i, image in enumerate(floats):
        save_image(image, folder / "images" / f"{i:06d}.png")
    (folder / "samples.json").write_text(json.dumps({"labels": list(range(24))}))
    sources = {
        "array": images,
        "tensor": floats,
        "stream": (floats[i : i + 5] for i in range(0, 24, 5)),
        "folder": folder,
    }
    result = evaluate(sources, real, extractor=extractor, metrics=["fid"])
    assert [row[2] for row in result.table["rows"]] == pytest.approx([0] * 4, abs=1e-12)
    assert open_samples(folder).labels == list(range(24))
    part = open_samples(f"{folder}[3:20:4]")
    assert part.labels == [3, 7, 11, 15, 19] and part.origin == f"{folder}[3:20:4]"
    assert np.array_equal(np.concatenate(list(part.batches(5))), images[3:20:4])
    assert open_samples(real, limit=6).labels == [0, 0, 1, 1, 2, 2]


def test_one_metric_and_one_judge_need_no_list(extractor, photographs):
    real, made = photographs("real"), photographs("made", seed=1)
    one = evaluate(made, real, extractor=extractor, metrics="frechet")
    assert one.rows == evaluate(made, real, extractor=extractor, metrics=["frechet"]).rows
    with pytest.raises(UnknownName, match="unknown metric 'frechett'; did you mean frechet"):
        evaluate(made, real, extractor=extractor, metrics="frechett")

    class Other(type(extractor)):
        name = "other"

    assert evaluate(made, real, extractor=extractor, also=Other(), metrics="fid").columns[2:] == [
        "FD-other",
        "FD-pixels",
    ]
    with pytest.raises(UnknownName, match="'efficientnet-lite3'"):
        evaluate(made, real, extractor=extractor, also="efficientnet-lite3")


def test_mistakes_get_one_line(extractor, photographs, tmp_path):
    real = photographs("real")
    with pytest.raises(UnknownName, match="did you mean"):
        evaluate(real, real, extractor=extractor, metrics=["kidd"])
    with pytest.raises(FAEError, match="does not exist"):
        evaluate(tmp_path / "nowhere", real, extractor=extractor)
    with pytest.raises(DataError, match="another size"):
        mixed = photographs("real", count=3, size=20, seed=5)
        evaluate(mixed, mixed, extractor=extractor)
    batches = [np.zeros((2, side, side, 3), np.uint8) for side in (16, 8)]
    with pytest.raises(DataError, match="a stream has images of 16x16 and 8x8 pixels; give a size to crop all"):
        evaluate(iter(batches), real, extractor=extractor)
    assert evaluate(iter(batches), real, extractor=extractor, size=8).rows[0][1] == 4
    with pytest.raises(DataError, match="there are no images to measure"):
        evaluate(iter([]), real, extractor=extractor)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(12), sigma=np.eye(12))
    with pytest.raises(FAEError, match="needs images"):
        evaluate(real, tmp_path / "stats.npz", extractor=extractor, size=16)


def distance(samples, reference, extractor, cache):
    result = evaluate(samples, reference, extractor=extractor, metrics=["fid"], cache=cache)
    return next(iter(result.values.values())), result.provenance["reference"]["cached"]


def rewritten(kind, path, images):
    """The same file, or folder of the same names, with other images in it."""
    pictures = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for i, data in enumerate(pictures):
                member = tarfile.TarInfo(f"{i:04d}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    elif kind == "npz":
        np.savez(path, arr_0=images)
    elif kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"image": [{"bytes": data, "path": None} for data in pictures]}), path)
    else:
        path.mkdir(exist_ok=True)
        for i, data in enumerate(pictures):
            (path / f"{i}.png").write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["tar", "npz", "parquet", "folder"])
@pytest.mark.parametrize("same_times", [False, True])
def test_a_reference_that_was_rewritten_is_measured_anew(kind, same_times, extractor, tmp_path, monkeypatch):
    monkeypatch.setenv("FAE_CACHE", str(tmp_path / "known"))
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 12, 8, 8, 3)).astype(np.uint8)
    place = tmp_path / ("images" if kind == "folder" else f"images.{kind}")
    reference = rewritten(kind, place, first)
    files = [reference] if reference.is_file() else list(reference.iterdir())
    times = {file: file.stat().st_mtime_ns for file in files}
    assert distance(first, reference, extractor, tmp_path / "cache") == (pytest.approx(0, abs=1e-8), False)
    assert distance(first, reference, extractor, tmp_path / "cache")[1] is True
    rewritten(kind, place, second)
    for file, time in times.items() if same_times else ():
        os.utime(file, ns=(time, time))
    fresh = distance(first, reference, extractor, None)[0]
    assert fresh > 1e-3
    assert distance(first, reference, extractor, tmp_path / "cache") == (fresh, False)


def test_whatever_decides_the_features_tells_entries_apart(extractor, photographs, tmp_path):
    """Another class of extractor, architecture, resize, weights or preparation is another entry, and so is an order."""
    real = photographs("real")

    def entries():
        return len(list((tmp_path / "cache").glob("*.safetensors")))

    for number, change in enumerate(
        [{}, {"name": "other"}, {"resize": "thirds"}, {"fingerprint": "f" * 16}, {"settings": "mean 0.5"}], start=1
    ):
        for name, value in change.items():
            setattr(extractor, name, value)
        distance(real, real, extractor, tmp_path / "cache")
        assert entries() == number
    changed = type("Other", (type(extractor),), {})()
    distance(real, real, changed, tmp_path / "cache")
    evaluate(real, real, extractor=extractor, metrics=["fid"], cache=tmp_path / "cache", size=8)
    evaluate(real, real, extractor=extractor, metrics=["fid"], cache=tmp_path / "cache", limit=9)
    assert entries() == 8
    flat = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    for images in (flat, flat[::-1], flat.reshape(4, 16, 4, 3)):  # one and the same bytes twice
        evaluate(flat, images, extractor=extractor, metrics=["fid"], cache=tmp_path / "cache")
    assert entries() == 11


def test_any_damage_of_an_entry_is_found(extractor, photographs, tmp_path):
    real, made = photographs("real"), photographs("made", seed=1)
    values = evaluate(made, real, extractor=extractor, metrics=["fid", "pr"], cache=tmp_path / "cache").values
    entry = next((tmp_path / "cache").glob("*.safetensors"))
    whole = entry.read_bytes()
    for place in range(40, len(whole), len(whole) // 40):
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        again = evaluate(made, real, extractor=extractor, metrics=["fid", "pr"], cache=tmp_path / "cache")
        assert again.values == values
    for content in (b"", b"x" * 100, whole[:50], whole + b"0"):
        entry.write_bytes(content)
        assert (
            evaluate(made, real, extractor=extractor, metrics=["fid", "pr"], cache=tmp_path / "cache").values == values
        )


def test_processes_may_share_a_cache(photographs, tmp_path):
    real, cache = photographs("real"), tmp_path / "cache"
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import PixelExtractor
from fae_eval import evaluate
for _ in range(2):
    options = {{"extractor": PixelExtractor(), "metrics": ["fid"], "cache": {str(cache)!r}}}
    print(evaluate({str(real)!r}, {str(real)!r}, **options).values)
"""
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [line for process in processes for line in process.communicate(timeout=120)[0].splitlines()]
    assert len(found) == 4 and len(set(found)) == 1
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_measured(extractor, photographs, tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    extractor.outputs = lambda images: seen.append(images)
    with pytest.raises(FAEError, match="a part of the path is a file"):
        evaluate(photographs("real"), photographs("real"), extractor=extractor, cache=tmp_path / "file" / "cache")
    assert not seen


def test_wrong_options_are_told_before_anything_is_measured(extractor, photographs):
    real = photographs("real")
    extractor.outputs = None
    for options in ({"k": 0}, {"pr_precision": "fp8"}, {"seed": 2**32}, {"batch_size": 0}, {"kernel_subsets": 0}):
        with pytest.raises(FAEError):
            evaluate(real, real, extractor=extractor, **options)


def test_small_sets_are_named_in_the_record(extractor, photographs, monkeypatch):
    real = photographs("real")
    one = evaluate(real, real, extractor=extractor, metrics=["kid", "is"], kernel_subsets=2)
    assert one.provenance["kernel"]["subset_size"] == 24
    assert "fewer than 5,000" in warnings_of(one)
    monkeypatch.setattr("fae_eval.studies.generation.SPLIT_SIZE", 23)
    assert "last part has 1 of 23" in warnings_of(evaluate(real, real, extractor=extractor, metrics=["is"]))
    with pytest.raises(FAEError, match="at least 2 are needed"):
        evaluate(real, real, extractor=extractor, metrics=["fid"], limit=1)


def test_class_names_go_into_a_packed_file(photographs, tmp_path):
    real = open_samples(photographs("real"))
    path = write_adm(tmp_path / "a.npz", real.batches(5), len(real), real.labels, classes=real.classes)
    assert open_samples(path).classes == ["blue", "green", "red"]
    assert open_samples(path).labels == real.labels
