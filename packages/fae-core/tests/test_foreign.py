"""Foreign checkpoints give their tensors or one line of complaint, and never run code."""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fae_core.errors import InvalidFile, InvalidSettings
from fae_core.models.foreign import read_checkpoint, read_state_dict, read_weights

ONE, TWO = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}


class Bomb:
    """Unpickling it would fail the test."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("the checkpoint was unpickled",))


def test_weights_are_found_where_training_programs_put_them(tmp_path: Path) -> None:
    torch.save({"model": ONE, "ema": TWO, "steps": 7}, tmp_path / "a.pt")
    torch.save(ONE | {"note": "plain"}, tmp_path / "b.pth")
    save_file(TWO, tmp_path / "c.safetensors")
    assert read_state_dict(tmp_path / "a.pt")["w"].item() == 2
    assert read_state_dict(tmp_path / "a.pt", sections=("model", "ema"))["w"].item() == 1
    assert read_state_dict(tmp_path / "a.pt", section="model")["w"].item() == 1
    assert read_state_dict(tmp_path / "b.pth").keys() == {"w"}
    assert read_state_dict(tmp_path / "c.safetensors")["w"].item() == 2
    with pytest.raises(InvalidFile, match="no section 'best'; it has ema, model"):
        read_state_dict(tmp_path / "a.pt", section="best")


def test_averaged_weights_are_taken_where_there_are_any(tmp_path: Path) -> None:
    for raw in ("model", "state_dict"):
        for averaged in ("ema", "state_dict_ema", "model_ema"):
            torch.save({raw: ONE, averaged: TWO}, tmp_path / "a.pt")
            assert read_state_dict(tmp_path / "a.pt")["w"].item() == 2
        for empty in ({}, None):
            torch.save({raw: ONE, "ema": empty}, tmp_path / "a.pt")
            assert read_state_dict(tmp_path / "a.pt")["w"].item() == 1
    torch.save({"model": ONE, "ema": {"decay": 0.99}}, tmp_path / "a.pt")
    with pytest.raises(InvalidFile, match="no weights in its section 'ema'; other sections: model"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(number: float, dtype: torch.dtype, tmp_path: Path) -> None:
    bad = {
        "a": torch.ones(3),
        "b": torch.tensor([1.0, number, 2.0], dtype=dtype),
        "c": torch.full((2,), number, dtype=dtype),
    }
    torch.save({"model": bad}, tmp_path / "a.pt")
    save_file(bad, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(InvalidFile, match="holds NaN or infinite numbers in b:") as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
    # What is not read as weights may hold anything: optimizer states, other parts, masks.
    rest = {"w": torch.ones(2), "n": torch.tensor(3), "e": torch.ones(0), "f": torch.ones(2).to(torch.float8_e4m3fn)}
    optimizer = {"state": {0: {"exp_avg": bad["b"]}}}
    torch.save({"ema": {**rest, "attn_mask": bad["b"]}, "model": bad, "optimizer": optimizer}, tmp_path / "a.pt")
    assert read_state_dict(tmp_path / "a.pt").keys() == {*rest, "attn_mask"}


STEM = "diffusion_pytorch_model"


def diffusers_folder(folder: Path, start: str, end: str, index: str | None = None) -> None:
    """Weights w = 1 and v = 2 of a folder: in one file, or in two shards that an index names."""
    save = save_file if end.endswith(".safetensors") else torch.save
    more = {"v": TWO["w"]}
    parts = {"": {**ONE, **more}} if index is None else {"-00001-of-00002": ONE, "-00002-of-00002": more}
    for number, part in parts.items():
        save(part, folder / f"{start}{number}{end}")
    if index is not None:
        shards = {name: f"{start}{number}{end}" for number, part in parts.items() for name in part}
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": shards}))


@pytest.mark.parametrize(
    ("variant", "start", "end", "index"),
    [
        (None, STEM, ".safetensors", None),
        (None, STEM, ".bin", None),
        (None, STEM, ".safetensors", f"{STEM}.safetensors.index.json"),
        (None, STEM, ".bin", f"{STEM}.bin.index.json"),
        ("fp16", f"{STEM}.fp16", ".safetensors", None),
        ("fp16", f"{STEM}.fp16", ".bin", None),
        ("fp16", f"{STEM}.fp16", ".safetensors", f"{STEM}.safetensors.index.fp16.json"),
        ("fp16", STEM, ".fp16.safetensors", f"{STEM}.safetensors.index.fp16.json"),
        ("non_ema", f"{STEM}.non_ema", ".bin", f"{STEM}.bin.index.non_ema.json"),
    ],
)
def test_the_weights_of_diffusers_folders_are_found(
    variant: str | None, start: str, end: str, index: str | None, tmp_path: Path
) -> None:
    diffusers_folder(tmp_path, start, end, index)
    for named in {None, variant}:  # without a choice, the only variant is taken
        state = read_weights(tmp_path, variant=named)
        assert {name: value.item() for name, value in state.items()} == {"w": 1.0, "v": 2.0}
    with pytest.raises(InvalidFile, match=f"has no {STEM}.bf16.safetensors"):
        read_weights(tmp_path, variant="bf16")
    with pytest.raises(InvalidSettings, match="leave the section out"):
        read_weights(tmp_path, section="ema")
    with pytest.raises(InvalidSettings, match="leave the variant out"):
        read_weights(next(tmp_path.glob(f"*{end}")), variant="fp16")
    if variant is not None:
        diffusers_folder(tmp_path, f"{STEM}.other", ".safetensors")
        with pytest.raises(InvalidFile, match=r"choose a variant"):
            read_weights(tmp_path)
        save_file({"w": torch.tensor([3.0])}, tmp_path / f"{STEM}.safetensors")
        assert read_weights(tmp_path)["w"].item() == 3  # the plain ones come first


def test_folders_of_diffusers_with_a_wrong_index_or_code_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=f"has no {STEM}.safetensors$"):
        read_weights(tmp_path)
    torch.save({"w": Bomb()}, tmp_path / f"{STEM}.bin")
    with pytest.raises(InvalidFile, match="more than tensors"):
        read_weights(tmp_path)
    index = tmp_path / f"{STEM}.safetensors.index.json"
    for weight_map, message in (
        ({"w": "../x.safetensors"}, "outside its folder"),
        ([1], "lacks a weight_map"),
        ({}, "lacks a weight_map"),
        ({"w": f"{STEM}-00001-of-00001.safetensors"}, "does not exist"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(InvalidFile, match=message):
            read_weights(tmp_path)


def test_classes_are_built_only_where_they_are_allowed(tmp_path: Path) -> None:
    torch.save({"model": ONE, "args": argparse.Namespace(depth=2)}, tmp_path / "a.pt")
    with pytest.raises(InvalidFile, match="more than tensors and plain values"):
        read_checkpoint(tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", allowed=[argparse.Namespace])["args"].depth == 2


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused(tmp_path: Path, legacy: bool) -> None:
    torch.save({"model": {"w": Bomb()}}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InvalidFile, match=r"a\.pt holds more than tensors"):
        read_state_dict(tmp_path / "a.pt")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.safetensors").write_bytes(b"not a checkpoint at all")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("../escape.txt", "x")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    (tmp_path / "folder.pt").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InvalidFile, match=path.name) as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path.parent / "escape.txt").exists()
    with pytest.raises(InvalidFile, match="does not exist"):
        read_state_dict(tmp_path / "absent.pt")


def saved(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": ONE, "steps": 7}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    legacy=st.booleans(),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 4000),
)
def test_any_damage_is_tensors_or_one_line(
    legacy: bool, edits: list[tuple[int, int]], cut: int, tmp_path: Path
) -> None:
    data = bytearray(saved(legacy))
    for place, value in edits:
        data[place % len(data)] = value
    (tmp_path / "a.pt").write_bytes(bytes(data[: max(cut, 1)]))
    try:
        assert read_state_dict(tmp_path / "a.pt")
    except InvalidFile as error:
        assert "\n" not in str(error)
