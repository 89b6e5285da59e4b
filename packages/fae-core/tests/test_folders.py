"""Folders that FAE did not make are never deleted, an older one goes only once the new one stands, and each has one
writer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from fae_core import LatentSpec
from fae_core.commands.running import (
    LAUNCHED,
    arguments_in_force,
    command_in_force,
    command_to_go_on,
    inputs_in_force,
    recorded_arguments,
)
from fae_core.errors import FAEError, FolderInUse, OutputExists
from fae_core.files import (
    begun_folder,
    claim_file,
    hold,
    recover_folder,
    remove_leftovers,
    require_new_folder,
    staged_folder,
    write_atomic,
)
from fae_core.files.ownership import is_ours, kind_of
from fae_core.images import open_images
from fae_core.images.crops import CropSettings, write_crops
from fae_core.latent_store import LatentStoreWriter, write_store

SPEC = LatentSpec(channels=4, height=2, width=2, image_size=16, backbone="none")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


TRAINING = {"steps": 8, "batch_size": 4, "checkpoint_every": 2}
OURS = {
    "run": {
        "config.yaml": yaml.safe_dump({"data": "x", "training": TRAINING}),
        "checkpoints/step-00000001/state.json": {},
    },
    "recipe": {"steps.json": {"title": "t", "variables": {}, "steps": []}},
    "bundle": {"bundle.json": {"format_version": 1, "tokenizer": {}, "generator": {}}},
    "model": {"config.json": {"model_type": "sit", "package": "fae_diffusion", "version": "1", "config": {}}},
    "samples": {"samples.json": {"job": {"generator": "a", "decoder": "b", "seed": 0}}, "images/000000.png": ""},
    "latent store": {"index.json": {"format": "fae-latent-store"}, "shard-000000.safetensors": ""},
    "text cache": {"index.json": {"fingerprint": "a", "encoder": "b", "width": 4, "prompts": 1, "tokens": 2}},
}
FOREIGN = {
    "photographs": {"a.png": "picture", "sub/b.png": "picture"},
    "a model of transformers": {"config.json": {"model_type": "dinov2", "hidden_size": 8}, "model.safetensors": ""},
    "settings of another project": {"config.yaml": "training: {lr: 1}\nname: x\n", "notes.txt": "mine"},
    "a search index": {"index.json": {"format": "something", "documents": []}},
    "a yaml list": {"config.yaml": "- 1\n"},
    "damaged json": {"config.json": "{", "samples.json": "[1]", "steps.json": "3"},
    "steps of something else": {"steps.json": {"steps": 3}},
    "hidden files only": {".git/config": "x", ".env": "secret"},
    "train and test": {"train/a.png": "x", "test/b.png": "y"},
    "train alone": {"train/a.png": "x"},
    "a list of classes of one's own": {"train/classes.json": [{"name": "cat"}], "train/a.png": "x"},
}


@pytest.mark.parametrize("kind", OURS)
def test_a_folder_that_any_version_wrote_may_be_replaced(kind: str, tmp_path: Path) -> None:
    out = make(tmp_path / "out", OURS[kind])
    assert kind_of(out) == kind and is_ours(out)
    with staged_folder(out, overwrite=True) as staging:
        (staging / "new").write_text("new")
    assert list(tree(out)) == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_folder_is_refused_and_kept(what: str, tmp_path: Path) -> None:
    out = make(tmp_path / "out", FOREIGN[what])
    before = tree(out)
    assert not is_ours(out)
    with pytest.raises(FAEError, match="--overwrite replaces what FAE made only"), staged_folder(out, overwrite=True):
        pytest.fail("nothing may be written")
    for kind in OURS:
        with pytest.raises(FAEError, match="only"), begun_folder(out, overwrite=True, kind=kind):
            pytest.fail("nothing may be written")
    with pytest.raises(FAEError):
        LatentStoreWriter(out, SPEC, _plan(), overwrite=True)
    assert tree(out) == before and [path.name for path in tmp_path.iterdir()] == ["out"]


def _plan():
    from fae_core.latent_store import Plan

    return Plan(total=2, shard_size=2, posterior="mean", dtype="float32")


@pytest.mark.parametrize("kind", OURS)
def test_somebodys_notes_in_a_folder_of_ours_are_not_deleted(kind: str, tmp_path: Path) -> None:
    out = make(tmp_path / "out", {**OURS[kind], "notes.txt": "mine"})
    with pytest.raises(FAEError, match=r"also holds notes\.txt"), staged_folder(out, overwrite=True):
        pytest.fail("nothing may be written")
    assert (out / "notes.txt").read_text() == "mine"


WHOLE = {
    "run": {
        **OURS["run"],
        **dict.fromkeys(("metrics.jsonl", "unreadable.txt", "report.html", "bad-batch-00000003.safetensors"), "x"),
        "checkpoints/step-00000001/shard-00001-model-00001-of-00001.safetensors": "x",
        "checkpoints/.step-00000002.new.tmp/shard-00001-model-00001-of-00001.safetensors": "x",
        "samples/step-00000002.png": "x",
        "exports/step-2/config.json": OURS["model"]["config.json"],
        "exports/step-2/model.safetensors": "x",
        "model/config.json": OURS["model"]["config.json"],
        "model/encoder/model.safetensors": "x",
        "trackers/wandb/id.txt": "x",
        "results/generation.json": {"kind": "generation", "title": "t"},
        "results/generation.svg": "x",
    },
    "bundle": {**OURS["bundle"], "README.md": "x", "tokenizer/model.safetensors": "x"},
    "samples": {
        **OURS["samples"],
        "images/000001.png": "x",
        "images/.000002.png.0f.tmp": "x",
        "images/.DS_Store": "x",
        "samples.npz": "x",
        "grid.png": "x",
    },
    "latent store": {**OURS["latent store"], "skipped.txt": "x", ".progress/000000.json": {}},
    "text cache": {**OURS["text cache"], "tokens.bin": "x"},
    "recipe": {
        "steps.json": {
            "title": "t",
            "variables": {},
            "steps": [
                {"name": name, "command": f"fae {command} --out old/[1]/{out}", "seconds": 1}
                for name, command, out in (("a", "crops", "data"), ("b", "eval generation", "tables"))
            ],
        },
        "logs/a.log": "x",
        "data/train/classes.json": [{"index": 0, "wnid": "cat", "name": "cat"}],
        "data/train/cat/0001.png": "x",
        "data/held-out/0001.png": "x",
        "tables/generation.json": {"kind": "generation", "title": "t"},
        "run/config.yaml": OURS["run"]["config.yaml"],
    },
}
USERS = {
    "run": (
        *("images/a.png", "train/a.png", "samples/a.png", "model/notes.txt", "exports/mine/a.txt", "checkpoints/a.txt"),
        *("results/thesis.txt", "results/own.json", "results/picture.png", "exports/step-2/notes.txt"),
    ),
    "bundle": ("tokenizer/notes.txt", "generator/sub/notes.txt"),
    "samples": ("images/holiday.png", "images/best/000001.png", "model/notes.txt"),
    "latent store": (".progress/notes.txt", "images/a.png"),
    "text cache": ("results/notes.txt",),
    "recipe": (
        *("data/train/mine/0001.png", "data/train/cat/tom.png", "data/train/cat/mine/0001.png"),
        *("run/images/a.png", "logs/notes.txt", "tables/mine/a.txt", "tables/a.txt", "images/a.png"),
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_all_that_fae_writes_at_any_depth_may_be_replaced_and_nothing_else(kind: str, tmp_path: Path) -> None:
    out = make(tmp_path / "out", WHOLE[kind])
    require_new_folder(out, overwrite=True, kind=kind)
    for name in USERS[kind]:
        path = make(out, {name: "mine"}) / name
        with pytest.raises(FAEError, match="also holds") as caught, staged_folder(out, overwrite=True):
            pytest.fail("nothing may be written")
        named = str(caught.value).partition("also holds ")[2].partition(",")[0]
        assert f"{name}/".startswith(f"{named}/") and path.read_text() == "mine"
        path.unlink()
        for parent in (p for p in path.parents if out in p.parents and not any(p.iterdir())):
            parent.rmdir()
    with staged_folder(out, overwrite=True) as staging:
        (staging / "new").write_text("new")
    assert list(tree(out)) == ["new"]


def test_what_a_user_adds_to_crops_is_kept_whether_or_not_a_step_of_a_recipe_made_them(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.linear_gradient("L").convert("RGB").save(photos / "a.png")
    experiment = make(tmp_path / "out", OURS["recipe"])
    crops = write_crops(open_images(str(photos)), experiment / "crops", CropSettings(size=8), count=2)
    require_new_folder(experiment, overwrite=True, kind="recipe")
    for name in ("crops/mine/a.png", "crops/images/0001.png"):
        make(experiment, {name: "mine"})
        with pytest.raises(FAEError, match="also holds crops/"):
            require_new_folder(experiment, overwrite=True, kind="recipe")
        with pytest.raises(FAEError, match="also holds"):
            require_new_folder(crops, overwrite=True)
        shutil.rmtree((experiment / name).parent)


def test_only_the_same_kind_replaces_a_folder_that_grows_in_place(tmp_path: Path) -> None:
    out = make(tmp_path / "out", OURS["latent store"])
    with pytest.raises(FAEError, match="is not a run folder"), begun_folder(out, overwrite=True, kind="run"):
        pytest.fail("nothing may be written")
    with begun_folder(out, overwrite=True, kind="latent store") as folder:
        write_atomic(folder / "new", b"x")
    assert list(tree(out)) == ["new"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_dangling_link_a_link_and_names_that_no_system_takes_are_one_line(resume: bool, tmp_path: Path) -> None:
    real = make(tmp_path / "real", OURS["model"])
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "file").write_text("")
    for name in ("dangling", "round", "x" * 300, "y" * 250, "a/" + "x" * 300 + "/b", "file", "file/below"):
        with pytest.raises(FAEError) as caught:
            require_new_folder(tmp_path / name, overwrite=True, resume=resume)
            with staged_folder(tmp_path / name, overwrite=True):
                pass
        assert "\n" not in str(caught.value)
    with pytest.raises(FAEError, match="symbolic link"), staged_folder(tmp_path / "link", overwrite=True):
        pass
    require_new_folder(tmp_path / "link", overwrite=False, resume=True)  # going on through a link replaces nothing
    assert tree(real) and (tmp_path / "link").is_symlink()


def test_a_folder_that_is_an_input_or_holds_one_or_lies_in_one_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = make(tmp_path / "data" / "out", OURS["model"])
    make(out / "encoder", OURS["model"])
    (tmp_path / "alias").symlink_to(out)
    inside = ("data/out/encoder", "./data/out/config.json", "data/out/*.json", "data/out/encoder[:9]")
    for given in ("data/out", "data/../data/out/", "data", "alias", *inside):
        for words in (("x", given, "--out", "data/out"), ("x", f"--data={given}", "--out=data/out")):
            token = arguments_in_force.set(words)
            try:
                with pytest.raises(FAEError, match="which this command reads"), staged_folder(out, overwrite=True):
                    pytest.fail("nothing may be written")
            finally:
                arguments_in_force.reset(token)
    token = arguments_in_force.set(("x", "nowhere", "--count", "3", "--out", "data/out"))
    with staged_folder(out, overwrite=True) as staging:
        make(staging, OURS["model"])
    arguments_in_force.reset(token)
    with pytest.raises(FAEError, match="which this command reads"), staged_folder(out, overwrite=True, inputs=[out]):
        pytest.fail("nothing may be written")


def test_settings_and_texts_are_no_patterns_and_a_pattern_reads_its_files_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = make(tmp_path / "out", OURS["model"])
    (tmp_path / "train-00.tar").touch()
    for option, given in (
        ("--set", "training.betas=[0.9,0.95]"),
        ("--set", "model.sampling={steps: 3}"),
        ("--caption-template", "a photo of a {}"),
        ("--split", "out"),
        ("--sampling", "out"),
        ("--data", "train-{00..01}.tar"),
    ):
        token = arguments_in_force.set(("train", "flow", option, given, "--out", "out"))
        try:
            with staged_folder(out, overwrite=True) as staging:
                make(staging, OURS["model"])
            assert (str(tmp_path / given) if option == "--data" else given) in recorded_arguments()
        finally:
            arguments_in_force.reset(token)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("[1]/{0..3}.tar", ["[1]/0.tar", "[1]/2.tar"]),
        ("[1]/{0..3}.tar[:5]", ["[1]/0.tar", "[1]/2.tar"]),
        ("x{0..1}", ["x{0..1}"]),
        ("x{0..1}[1:]", ["x{0..1}"]),
        ("x*", ["x{0..1}", "x0"]),
        ("{3..0}.tar", []),
        ("s3://[1]/{0..999999}.tar", []),
    ],
)
def test_a_pattern_stands_for_the_files_that_are_read(given: str, read: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, dict.fromkeys(["[1]/0.tar", "[1]/2.tar", "[1]/7.tar", "1/0.tar", "x{0..1}/0.png", "x0/0.png"], ""))
    token = arguments_in_force.set(("check", given, "--out", "report.json"))
    try:
        assert sorted(map(str, inputs_in_force())) == sorted(read)
    finally:
        arguments_in_force.reset(token)


def test_what_lies_beside_the_model_of_a_run_may_be_replaced_by_what_reads_the_run(tmp_path: Path) -> None:
    run = make(tmp_path / "run", {**OURS["run"], **{f"model/{k}": v for k, v in OURS["model"].items()}})
    make(run / "reconstruction", OURS["model"])
    with staged_folder(run / "reconstruction", overwrite=True, inputs=[run]) as staging:
        (staging / "new").write_text("")
    with pytest.raises(FAEError, match="reads"), staged_folder(run / "model", overwrite=True, inputs=[run]):
        pytest.fail("nothing may be written")


def test_crops_never_replace_the_pictures_that_they_are_cut_from(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.linear_gradient("L").convert("RGB").save(photos / "a.png")
    settings = CropSettings(size=8)
    with pytest.raises(FAEError, match="only"):
        write_crops(open_images(str(photos)), photos, settings, count=2, overwrite=True)
    first = write_crops(open_images(str(photos)), tmp_path / "first", settings, count=2)
    assert write_crops(open_images(str(photos)), first, settings, count=3, overwrite=True) == first
    with pytest.raises(FAEError, match="reads"):
        write_crops(open_images(str(first / "train")), first, settings, count=2, overwrite=True)
    assert len(tree(first)) == 3 and list(tree(photos)) == ["a.png"]


KILLED = """
import os, sys
from pathlib import Path
from fae_core.files import staged_folder

step, out, calls = int(sys.argv[1]), Path(sys.argv[2]), [0]

def audit(event, arguments):
    moved = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
    if moved or (event == "open" and "out" in str(arguments[0])):
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), 9)

sys.addaudithook(audit)
with staged_folder(out, overwrite=True) as staging:
    for name in ("config.json", "more"):
        (staging / name).write_text('{"model_type": "a", "package": "b", "config": {"new": 1}}')
"""


def test_a_kill_at_any_file_operation_of_a_replacement_leaves_the_old_or_the_new_folder(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    new = '{"model_type": "a", "package": "b", "config": {"new": 1}}'
    seen, step = set(), 0
    while True:
        step += 1
        place = tmp_path / str(step)
        out = make(place / "out", OURS["model"])
        old = tree(out)
        status = subprocess.run([sys.executable, str(script), str(step), str(out)], check=False).returncode
        assert status in (0, -9)
        if status == 0:
            break
        with hold(out):
            recover_folder(out)
        found = tree(out)
        assert found in (old, {"config.json": new.encode(), "more": new.encode()})
        seen.add(found == old)
        with staged_folder(out, overwrite=True) as staging:
            make(staging, OURS["model"])
        assert [path.name for path in place.iterdir()] == ["out"], "the next writer cleans up"
    assert seen == {True, False} and step > 8


def test_leftovers_of_earlier_versions_are_cleaned_and_neighbours_are_left_alone(tmp_path: Path) -> None:
    for name in (".out.123.tmp", ".out.1.new.tmp", ".other.new.tmp", ".out.gone.tmp"):
        make(tmp_path / name, {"x": ""})
    with staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.new.tmp", ".out.1.new.tmp", "out"]


def test_a_folder_set_aside_comes_back_and_what_others_write_stays(tmp_path: Path) -> None:
    make(tmp_path / ".model.old", OURS["model"])
    make(tmp_path / ".busy.new.tmp", {"x": ""})
    with hold_elsewhere(tmp_path / "busy"):
        remove_leftovers(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [".busy.new.tmp", "model"]
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_hidden_folder_of_the_user_beside_the_output_is_neither_deleted_nor_taken_for_it(tmp_path: Path) -> None:
    mine = {".out.old": {"notes.txt": "mine"}, ".out2.old": OURS["model"]}  # ... or a copy that the user set aside
    for name, content in mine.items():
        make(tmp_path / name, content)
    out, other = tmp_path / "out", make(tmp_path / "out2", OURS["model"])
    kept = {name: tree(tmp_path / name) for name in mine}
    for folder in (out, other, out):
        with staged_folder(folder, overwrite=True) as staging:
            make(staging, OURS["model"])
        remove_leftovers(tmp_path)
        assert {name: tree(tmp_path / name) for name in mine} == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.old", ".out2.old", "out", "out2"]


HOLDER = """
import sys, time
from fae_core.files import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


class hold_elsewhere:
    """Another process that holds a folder until the block ends, or until it is killed."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self) -> subprocess.Popen:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def test_the_second_writer_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "out"
    (tmp_path / "alias").symlink_to(tmp_path / "runs")
    with hold_elsewhere(out) as process:
        for name in (out, tmp_path / "alias" / "out", tmp_path / "runs" / ".." / "runs" / "out"):
            with pytest.raises(FolderInUse, match=f"process {process.pid} on {os.uname().nodename}"), hold(name):
                pytest.fail("two writers")
        with pytest.raises(FolderInUse), staged_folder(out):
            pytest.fail("two writers")
        with pytest.raises(FolderInUse):
            write_store(out, SPEC, torch.zeros(2, 4, 2, 2))
        with hold(tmp_path / "runs" / "other"):  # a neighbour is free
            pass
    with hold(out), hold(out), staged_folder(out) as staging:  # one thread may hold it several times
        (staging / "a").write_text("")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["out"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with hold_elsewhere(tmp_path / "out") as process:
        process.kill()
        process.wait()
        assert (tmp_path / ".out.lock").is_file()
        with hold(tmp_path / "out"):
            assert json.loads((tmp_path / ".out.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_host_is_taken_over_when_it_gives_no_sign_of_life(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fae_core.files.lock._PATIENCE", 1.0)
    lock = tmp_path / ".out.lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "command": "fae train", "since": "now"}))
    alive = subprocess.Popen(["sh", "-c", f"while :; do touch {lock}; sleep 0.1; done"])
    try:
        with pytest.raises(FolderInUse, match="process 1 on elsewhere"), hold(tmp_path / "out"):
            pytest.fail("two writers")
    finally:
        alive.kill()
        alive.wait()
    with hold(tmp_path / "out"):
        pass
    assert not lock.exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": "x"}', '{"host": 3}', "\udcff" * 3, '{"pid": 99999999999999999999}']
)
def test_a_damaged_lock_file_of_a_dead_process_is_no_obstacle(content: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fae_core.files.lock._PATIENCE", 0.1)
    (tmp_path / ".out.lock").write_bytes(content.encode(errors="surrogateescape"))
    with hold(tmp_path / "out"):
        pass


@pytest.mark.parametrize("folder", ["", "new"])  # one that each makes for its lock, and removes again
def test_many_writers_at_once_take_turns(folder: str, tmp_path: Path) -> None:
    script = (
        "import sys, os\nfrom pathlib import Path\nfrom fae_core.errors import FolderInUse\n"
        "from fae_core.files import hold\n"
        "out = Path(sys.argv[1])\nfor _ in range(200):\n    try:\n        with hold(out):\n"
        "            mark = out.with_name('inside')\n            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))\n"
        "            mark.unlink()\n"
        "    except FolderInUse:\n        pass\n"
    )
    each = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / folder / "out")]) for _ in range(3)]
    assert [process.wait() for process in each] == [0, 0, 0]


def test_a_command_is_the_only_writer_of_its_file_until_it_ends(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "results" / "record.json"

    def second(overwrite: bool) -> None:
        with command_in_force(("eval", "second")):
            claim_file(out, overwrite=overwrite)
            claim_file(out, overwrite=overwrite)  # a command within it, such as a step of a recipe
            out.write_text("second")

    with ThreadPoolExecutor(1) as other:
        with command_in_force(("eval", "first")):
            claim_file(out, overwrite=False)
            for overwrite in (False, True):
                with pytest.raises(FolderInUse, match=r"record\.json is in use by .* \(`fae eval first`"):
                    other.submit(second, overwrite).result()
            with monkeypatch.context() as patch:  # in a process that the first one has started
                patch.setenv(LAUNCHED, "1")
                other.submit(claim_file, out, overwrite=False).result()
        assert list(tmp_path.iterdir()) == []  # nothing was written
        other.submit(second, False).result()
        with pytest.raises(OutputExists), command_in_force(("eval", "third")):
            claim_file(out, overwrite=False)
    assert [path.name for path in out.parent.iterdir()] == ["record.json"] and out.read_text() == "second"


def test_a_folder_whose_parent_is_read_only_is_locked_inside(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    out = tmp_path / "parent" / "out"
    out.mkdir(parents=True)
    out.parent.chmod(0o500)
    with hold(out):
        assert (out / ".lock").is_file()
    assert list(out.iterdir()) == []


def test_the_command_to_go_on_is_the_one_that_was_typed(monkeypatch) -> None:
    assert command_to_go_on() == "resume=True"
    token = arguments_in_force.set(("train", "flow", "--out", "a b", "--overwrite", "--resume"))
    assert command_to_go_on() == "fae train flow --out 'a b' --resume"
    arguments_in_force.reset(token)


def test_a_store_begun_and_killed_before_its_plan_can_be_begun_again(tmp_path: Path) -> None:
    for options in ({"resume": True}, {"overwrite": True}):
        out = make(tmp_path / "out", {".progress/latent_spec.json": "{}"})
        assert LatentStoreWriter(out, SPEC, _plan(), **options).pending() == [0]
        shutil.rmtree(out)


def test_a_file_beyond_the_limit_of_its_size_is_one_line(tmp_path: Path) -> None:
    script = (
        "import resource, sys\nfrom fae_core.files import write_atomic\nfrom fae_core.errors import FAEError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_atomic(sys.argv[1], bytes(5000))\nexcept FAEError as error:\n    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True, check=True
    ).stdout
    assert told.count("\n") == 1 and "larger than the system allows" in told
    assert list(tmp_path.iterdir()) == []


def test_a_folder_named_like_a_word_of_a_recipe_is_not_the_recipes(tmp_path: Path) -> None:
    step = {"name": "a", "command": "fae encode --data photos --out out/latents", "seconds": 1}
    record = {"title": "t", "variables": {"data": "photos"}, "steps": [step]}
    folder = make(tmp_path / "out", {"steps.json": record, "data/mine.txt": "mine"})
    make(folder / "latents", OURS["latent store"])
    with pytest.raises(FAEError, match="also holds data"):
        require_new_folder(folder, overwrite=True, kind="recipe")
    shutil.rmtree(folder / "data")
    require_new_folder(folder, overwrite=True, kind="recipe")
