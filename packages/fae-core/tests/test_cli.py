"""The command line: settings merge, errors are one line, recipes record what they ran."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fae_core
from fae_core.cli.launch import without_processes
from fae_core.cli.main import main
from fae_core.cli.settings import parse_override, resolve_settings
from fae_core.config import merge
from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.plugins import load_plugins
from fae_core.recipes.recipe import load_recipe, run_recipe


def run_cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        gradient = Image.linear_gradient("L").resize((60, 50))
        Image.merge("RGB", [gradient.point(lambda v, c=c: (v + c) // 2) for c in color]).save(
            tmp_path / "photos" / name / "a.png"
        )
    return tmp_path / "photos"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "title: two crops\n"
        "variables: {data: nowhere, count: 4}\n"
        "steps:\n"
        '  - {name: crops, run: "crops {data} --out {out}/data --count {count} --size 16"}\n'
        '  - {name: again, run: "crops {data} --out {out}/more --count 2 --size 8 --seed 1"}\n'
    )
    return path


def test_override_is_a_yaml_value_at_a_dotted_key() -> None:
    assert parse_override("training.steps=500") == {"training": {"steps": 500}}
    assert parse_override("a.b.c=[1, 2.5]") == {"a": {"b": {"c": [1, 2.5]}}}
    assert parse_override("name=x=y") == {"name": "x=y"}
    for wrong in ("training.steps", "=3", "a..b=1"):
        with pytest.raises(FAEError, match="KEY=VALUE"):
            parse_override(wrong)


def test_later_settings_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("training: {steps: 10, seed: 3}\nmodel: {depth: 2}\n")
    settings = resolve_settings(None, tmp_path / "c.yaml", ["training.steps=20"])
    assert settings == {"training": {"steps": 20, "seed": 3}, "model": {"depth": 2}}
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_a_relaunched_command_loses_only_its_process_count() -> None:
    assert without_processes(["train", "--processes", "4", "--out", "x"]) == ["train", "--out", "x"]
    assert without_processes(["train", "--processes=4", "--out", "x"]) == ["train", "--out", "x"]


def test_wrong_input_is_one_line_and_status_two(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert run_cli("crops", str(tmp_path / "nowhere"), "--out", str(tmp_path / "o")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "nowhere" in lines[0]
    assert not (tmp_path / "o").exists()


def test_unknown_preset_suggests_the_nearest(capsys: pytest.CaptureFixture) -> None:
    from fae_core.models.presets import preset_files

    if not preset_files():
        pytest.skip("no package with presets is installed beside fae-core")
    name = min(preset_files())
    assert run_cli("info", name[:-1] + "x") == 2
    assert f"did you mean {name}" in capsys.readouterr().err


def test_recipe_runs_its_steps_and_records_them(recipe: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    record = run_recipe(load_recipe(recipe, {"data": str(photos)}), out)
    assert [entry["name"] for entry in record] == ["crops", "again"]
    assert len(list((out / "data").rglob("*.png"))) == 4 and len(list((out / "more").rglob("*.png"))) == 2
    stored = json.loads((out / "steps.json").read_text())
    assert stored["steps"] == record and stored["variables"]["data"] == str(photos)
    assert record[0]["command"] == f"fae crops {photos} --out '{{out}}/data' --count 4 --size 16"


def test_recipe_resumes_after_the_last_finished_step(recipe: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(FAEError):
        run_recipe(load_recipe(recipe, {"data": str(tmp_path / "missing")}), out)
    run_recipe(load_recipe(recipe, {"data": str(photos)}), out, resume=True)
    (out / "data" / "marker").write_text("the first step is not run again")
    stored = json.loads((out / "steps.json").read_text())
    stored["steps"] = stored["steps"][:1]
    (out / "steps.json").write_text(json.dumps(stored))
    run_recipe(load_recipe(recipe, {"data": str(photos)}), out, resume=True)
    assert (out / "data" / "marker").is_file()
    assert [e["name"] for e in json.loads((out / "steps.json").read_text())["steps"]] == ["crops", "again"]


def test_only_the_steps_that_are_named_run_and_those_that_they_read(photos: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "some.yaml", tmp_path / "run"
    sources = {
        "a": str(photos),
        "b-1": "{out}/a/train",
        "b-2": "{out}/a/train",
        "c": "{out}/b-1/train",
        "d": str(photos),
    }
    path.write_text(
        "steps:\n"
        + "".join(
            f'  - {{name: {name}, run: "crops {source} --out {{out}}/{name} --count 1 --size 16"}}\n'
            for name, source in sources.items()
        )
    )

    def names(*only: str) -> list[str]:
        record = run_recipe(load_recipe(path), out, resume=out.exists(), only=only)
        return [entry["name"] for entry in record]

    with pytest.raises(FAEError, match="unknown step of the recipe 'b-3'; did you mean b-2 or b-1"):
        names("b-3")
    assert not out.exists()
    assert names("c") == ["a", "b-1", "c"]
    assert names("b-*") == ["a", "b-1", "b-2", "c"]
    (out / "c" / "marker").touch()
    assert names() == list(sources) and (out / "c" / "marker").exists()


def test_a_recipe_that_changed_makes_anew_what_may_have_changed(photos: Path, tmp_path: Path) -> None:
    def steps(*which: str) -> list[dict]:
        path = tmp_path / "changing.yaml"
        path.write_text("title: Changing\nsteps:\n" + "".join(f"  - {step}\n" for step in which))
        return run_recipe(load_recipe(path), tmp_path / "run", resume=(tmp_path / "run").exists())

    def crops(name: str, count: int, more: str = "") -> str:
        return f'{{name: {name}, run: "crops {photos} --out {{out}}/{name} --count {count} --size 16"{more}}}'

    steps(crops("a", 2), crops("c", 2))
    (tmp_path / "run" / "a" / "marker").touch()
    (tmp_path / "run" / "c" / "marker").touch()
    record = steps(crops("a", 2), crops("b", 2), crops("c", 2))
    assert [entry["name"] for entry in record] == ["a", "b", "c"]
    assert (tmp_path / "run" / "a" / "marker").exists()  # before the new step
    assert not (tmp_path / "run" / "c" / "marker").exists()  # after it
    record = steps(crops("a", 2), crops("b", 2), crops("c", 4))
    assert "--count 4" in record[-1]["command"] and len(record) == 3
    assert len(list((tmp_path / "run" / "c").rglob("*.png"))) == 4
    with pytest.raises(FAEError, match=r"has step a from `fae crops .*--count 2 .*`, not from `.*--count 3 "):
        steps(crops("a", 3, ", resumable: true"), crops("b", 2))


def test_recipe_mistakes_are_named(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean data"):
        load_recipe(recipe, {"dat": "x"})
    broken = tmp_path / "broken.yaml"
    broken.write_text('steps:\n  - {name: a, run: "crops {nothing} --out {out}"}\n')
    with pytest.raises(FAEError, match="nothing"):
        run_recipe(load_recipe(broken), tmp_path / "o")
    broken.write_text("steps: []\n")
    with pytest.raises(FAEError, match="no steps"):
        load_recipe(broken)
    with pytest.raises(InvalidFile, match="does not exist"):
        load_recipe(tmp_path / "absent.yaml")


def test_recipe_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text('steps:\n  - {name: x, run: "transmogrify --out {out}"}\n')
    with pytest.raises(FAEError, match="transmogrify"):
        run_recipe(load_recipe(path), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_recipe_does_not_replace_a_folder_it_did_not_make(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FAEError, match="not made by a recipe"):
        run_recipe(load_recipe(recipe), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_out_of_memory_names_the_settings_to_change(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    import torch

    from fae_core.cli import main as command_line
    from fae_core.commands import groups

    def too_much() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr(groups, "_application", too_much)
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["train", "flow"])
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "\n" not in error
    assert "Tried to allocate 2.00 GiB" in error and "--batch-size" in error and "training.accumulation" in error


def test_version_names_every_package_that_is_there(capsys: pytest.CaptureFixture) -> None:
    assert run_cli("--version") == 0
    assert f"fae-core {fae_core.__version__}" in capsys.readouterr().out.strip().split(", ")


def test_help_shows_every_command_in_full_and_loads_neither_torch_nor_rich() -> None:
    program = "import sys; from fae_core.cli.main import run; run(['--help']); assert 'rich' not in sys.modules"
    program += "; assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    listed = [line[2:].split() for line in shown.partition("Commands:")[2].splitlines() if line[2:3].strip()]
    assert {name.split(".")[0] for name in load_plugins("fae.commands")} <= {words[0] for words in listed}
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["crosp"], "unknown command of fae 'crosp'; did you mean crops?"),
        (["--versoin"], "No such option"),
        (["crops"], "Missing argument"),
        (["crops", "photographs"], "Missing option '--out'"),
        (["crops", "photographs", "--out"], "requires an argument"),
        (["crops", "photographs", "--out", "o", "--count", "x"], "--count"),
        (["crops", "photographs", "--out", "o", "--count", "0"], "--count"),
        (["crops", "photographs", "--out", "o", "--count", "9" * 30], "--count"),
        (["crops", "photographs", "--out", "o", "--size", "1000000000"], "--size"),
        (["crops", "photographs", "--out", "o", "--seed", str(2**64)], "--seed"),
        (["crops", "photographs", "--out", "o", "--seed", str(-(2**63) - 1)], "--seed"),
        (["crops", "photographs", "--out", "o", "--jitter", "nan"], "--jitter"),
        (["crops", "photographs", "--out", "o", "--center", "inf"], "--center"),
        (["crops", "photographs", "--out", "o", "more"], "unexpected extra argument"),
        (["sample", "--model", "x", "--out", "o", "--columns", "1000000000"], "--columns"),
        (["sample", "--model", "x", "--out", "o", "--count", "1000000000000"], "--count"),
        (["sample", "--model", "x", "--out", "o", "--batch-size", "2147483648"], "--batch-size"),
        (["sample", "--model", "x", "--out", "o", "--seed", str(2**64)], "--seed"),
        (["crops", "caf\udce9", "--out", "o"], "is not UTF-8 text"),
        (["crops", "a\0b", "--out", "o"], "is not UTF-8 text"),
        (["crops", "a\x1b[2Jb\u202e", "--out", "o"], "b"),
    ],
)
def test_every_mistake_on_the_command_line_is_one_line_and_status_two(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and complaint in err
    assert err.rstrip("\n").isprintable() and not list(tmp_path.iterdir())


def test_a_system_error_about_a_file_is_one_line(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    from fae_core.cli import main as command_line

    def fail(arguments: list[str]) -> None:
        raise OSError(errno.EFBIG, "File too large", "runs/x")

    monkeypatch.setattr(command_line, "invoke", fail)
    assert run_cli("crops") == 2
    assert capsys.readouterr().err == "error: runs/x: file too large\n"
