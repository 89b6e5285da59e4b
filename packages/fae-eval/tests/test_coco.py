"""The text-to-image protocol: one caption per image, fixed by the seed, and the reference's crop."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fae_core.errors import DataError
from fae_eval.data.coco import centre_square, choose_captions, write_coco


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


def test_bad_annotations_are_refused(tmp_path):
    with pytest.raises(DataError, match="not COCO's"):
        choose_captions({"images": [{}]}, 1)
    with pytest.raises(DataError, match="wanted"):
        choose_captions(annotations(2), 3)
