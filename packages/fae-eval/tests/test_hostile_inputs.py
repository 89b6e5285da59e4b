"""Files that `fae eval` reads, with values of wrong type, size and encoding: one line each."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError
from fae_core.images import open_images
from fae_eval.cli.convergence import steps_of
from fae_eval.cli.pictures import queries_of
from fae_eval.data import read_adm_statistics
from fae_eval.data.captions import paired_captions, sample_prompts
from fae_eval.data.coco import choose_captions, write_coco
from fae_eval.data.samples import open_samples
from fae_eval.extractors import load_extractor

ODD = [None, True, -1, 10**400, 1e308, "", "\ud800", [], {}, [None], "../x.png", "/etc/passwd"]


def refused(call, *arguments):
    """The line that an error says. Anything else that is raised fails the test."""
    with pytest.raises(FAEError) as told:
        call(*arguments)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.array(["a"]), "sigma": np.eye(1)},
        {"mu": np.zeros(2), "sigma": np.eye(3)},
        {"mu": np.zeros(2, complex), "sigma": np.eye(2)},
        {"mu": np.zeros((1, 2)), "sigma": np.eye(2)},
        {"mu": np.zeros(2), "sigma": np.eye(2), "mu_s": np.zeros(2)},
        {"mu": np.zeros(2, "datetime64[s]"), "sigma": np.eye(2)},
    ],
)
def test_statistics_of_other_types_are_refused(arrays, tmp_path):
    np.savez(tmp_path / "r.npz", **arrays)
    assert "r.npz" in refused(read_adm_statistics, tmp_path / "r.npz")


def test_captions_and_prompts_of_other_types_are_refused_or_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    source = open_images(tmp_path)
    good = {"images": [{"id": 1, "file_name": "0.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}
    for part, field in (("images", "id"), ("images", "file_name"), ("annotations", "image_id"), ("annotations", "id")):
        for odd in ODD:
            changed = {**good, part: [{**good[part][0], field: odd}]}
            (tmp_path / "c.json").write_text(json.dumps(changed))
            for call in (lambda: paired_captions(source, tmp_path / "c.json"), lambda c=changed: choose_captions(c, 1)):
                try:
                    call()
                except FAEError as error:
                    assert "\n" not in str(error)
    for raw in (b"\xff\xfe", b"[" * 10**5, b"7", b'{"image": 3}', b'{"image": "0.png", "caption": [1]}x'):
        (tmp_path / "c.jsonl").write_bytes(raw)
        refused(paired_captions, source, tmp_path / "c.jsonl")
    os.mkfifo(tmp_path / "f.jsonl")
    assert "not a file" in refused(paired_captions, source, tmp_path / "f.jsonl")
    for labels in ([3], [-1], ["0"], [True], [10**400], None):
        (tmp_path / "samples.json").write_text(json.dumps({"job": {"prompts": ["a"]}, "labels": labels}))
        refused(sample_prompts, tmp_path, 1)


def test_annotations_name_no_file_elsewhere(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        stored = {"images": [{"id": 1, "file_name": name}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}
        (tmp_path / "a.json").write_text(json.dumps(stored))
        call = lambda: write_coco(tmp_path / "a.json", tmp_path / "images", tmp_path / "out", count=1)  # noqa: E731
        assert "no file name in" in refused(call)


def test_samples_with_labels_of_other_types_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "0.png")
    for record in ({"labels": ["a"]}, {"labels": [-2]}, {"labels": [0], "class_names": "cat"}, {"labels": [0.5]}):
        (tmp_path / "samples.json").write_text(json.dumps(record))
        refused(open_samples, tmp_path)


def test_options_of_odd_numbers_are_refused(tmp_path):
    for text in ("²=a", "9" * 5000 + "=a", "1", "-1=a", "=a"):
        refused(steps_of, [text])
    for text in ("nan,0", "inf,0.5", "2,0", "0.5", "a,b"):
        refused(queries_of, [text], 1)
    for name in ("efficientnet-lite2@²²", "efficientnet-lite2@" + "9" * 5000, "inception@64"):
        refused(load_extractor, name)
    for where in ("/", "**/x**", "a" * 5000, "[", ""):
        refused(invoke, ["eval", "compare", f"A={where}", "B=x"])
    os.mkfifo(tmp_path / "note")
    refused(invoke, ["eval", "report", str(tmp_path), "--note-file", str(tmp_path / "note")])


def test_arrays_that_are_no_images_are_refused():
    for array in (
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3)),
        np.full((1, 2, 2, 3), "a"),
        np.empty(3, object),
    ):
        refused(open_samples, array)
    backwards = np.zeros((2, 4, 4, 3), np.uint8)[::-1, :, ::-1]
    assert len(open_samples(backwards)) == 2
