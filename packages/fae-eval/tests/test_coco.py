"""The text-to-image protocol: one caption per image, fixed by the seed, and the reference's crop."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fae_core.errors import DataError
from fae_eval import evaluate
from fae_eval.cli import app
from fae_eval.data.adm import read_about
from fae_eval.data.coco import centre_square, choose_captions, write_coco
from fae_eval.studies.reference import open_reference


def annotations(images: int = 6) -> dict:
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(images)],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "caption": f"image {i},\n caption {j}"}
            for i in range(images)
            for j in range(5)
        ],
    }


def test_one_caption_per_image_by_the_seed_and_nothing_else():
    content = annotations()
    chosen = choose_captions(content, 4, seed=1)
    assert len({entry["image_id"] for entry in chosen}) == 4
    assert all(entry["caption"].startswith(f"image {entry['image_id']}, caption ") for entry in chosen)
    content["images"].reverse()
    content["annotations"].reverse()
    assert choose_captions(content, 4, seed=1) == chosen
    assert choose_captions(content, 4, seed=2) != chosen
    # A smaller choice is the beginning of a larger one.
    assert choose_captions(content, 6, seed=1)[:4] == chosen


def test_the_crop_is_the_largest_centred_square():
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[:, 3:7] = 200
    assert np.asarray(centre_square(Image.fromarray(pixels), 4)).tolist() == np.full((4, 4, 3), 200).tolist()


def test_prompts_and_reference_are_in_one_order(tmp_path):
    (tmp_path / "val").mkdir()
    for i in range(6):
        Image.new("RGB", (20, 10), (40 * i, 0, 0)).save(tmp_path / "val" / f"{i}.jpg", quality=100)
    (tmp_path / "captions.json").write_text(json.dumps(annotations()))
    prompts, reference = write_coco(tmp_path / "captions.json", tmp_path / "val", tmp_path / "out", count=5, size=8)
    order = [json.loads(line)["image_id"] for line in prompts.read_text().splitlines()]
    with np.load(reference, allow_pickle=False) as arrays:
        red = arrays["arr_0"][:, 4, 4, 0]
    assert [round(value / 40) for value in red.tolist()] == order


@pytest.mark.parametrize("reference", ["same", "val2014", "both"])
def test_both_references_are_offered_and_name_themselves(extractor, tmp_path, reference):
    (tmp_path / "val").mkdir()
    for i in range(6):
        Image.new("RGB", (20, 10), (40 * i, 0, 0)).save(tmp_path / "val" / f"{i}.jpg", quality=100)
    content = annotations()
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 5]
    (tmp_path / "captions.json").write_text(json.dumps(content))
    given = f"--annotations {tmp_path}/captions.json --images {tmp_path}/val --count 3 --size 8 --out {tmp_path}/out"
    outcome = CliRunner().invoke(app, ["coco", *given.split(), "--reference", reference])
    assert not outcome.exception
    about = {
        "reference.npz": "the same 3 images of COCO val2014 whose captions are drawn (seed 0)",
        "reference-val2014.npz": "all 6 images of COCO val2014",
    }
    wanted = {"same": ["reference.npz"], "val2014": ["reference-val2014.npz"], "both": list(about)}[reference]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.npz")) == sorted(wanted)
    assert len((tmp_path / "out" / "prompts.jsonl").read_text().splitlines()) == 3
    for name in wanted:
        assert read_about(tmp_path / "out" / name) == about[name]
        opened = open_reference(tmp_path / "out" / name, extractor, need_features=False)
        assert opened is not None and opened.facts["about"] == about[name]
        assert opened.facts["count"] == int(about[name].split()[1 if name != "reference.npz" else 2])


def test_statistics_of_pytorch_fid_are_a_reference_and_the_record_says_so(extractor, tmp_path):
    """U-ViT's fid_stats_mscoco256_val.npz is such a file."""
    extractor.official_inception = True
    np.savez(tmp_path / "stats.npz", mu=np.zeros(extractor.dim), sigma=np.eye(extractor.dim))
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    result = evaluate(images, tmp_path / "stats.npz", metrics=["fid"], extractor=extractor)
    assert result.provenance["reference"]["statistics"] == "from the file"
    assert any("as pytorch-fid writes them" in warning for warning in result.warnings)
    spatial = {"mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    np.savez(tmp_path / "adm.npz", mu=np.zeros(extractor.dim), sigma=np.eye(extractor.dim), **spatial)
    result = evaluate(images, tmp_path / "adm.npz", metrics=["fid"], extractor=extractor)
    assert not any("pytorch-fid" in warning for warning in result.warnings)


def test_a_file_that_says_no_text_about_itself_is_refused(tmp_path):
    for about in (np.asarray(7), np.asarray(["a", "b"]), np.asarray("a" * 2000), np.asarray(b"a")):
        np.savez(tmp_path / "r.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8), about=about)
        with pytest.raises(DataError, match="one text"):
            read_about(tmp_path / "r.npz")


def test_bad_annotations_are_refused(tmp_path):
    with pytest.raises(DataError, match="not COCO's"):
        choose_captions({"images": [{}]}, 1)
    with pytest.raises(DataError, match="wanted"):
        choose_captions(annotations(2), 3)
