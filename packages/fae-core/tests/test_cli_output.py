"""--json, --quiet, `fae config` and shell completion: what programs and scripts rely on."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

import fae_core.commands.loading as loading_module
from fae_core.commands.groups import every_command, invoke
from fae_core.commands.loading import announced_imports, loading
from fae_core.commands.output import choose, command_output, document, say
from fae_core.errors import FAEError
from fae_core.models.presets import preset_files, read_preset
from fae_core.progress import hidden, progress


@pytest.mark.parametrize("command", [["presets"], ["presets", "--counts"], ["presets", "bundle"]])
def test_json_is_one_document_on_stdout(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    invoke([*command, "--json"])
    printed = capsys.readouterr()
    names = {preset["name"] for preset in json.loads(printed.out)}
    assert printed.err == ""
    if command[1:] != ["bundle"]:
        assert preset_files().keys() <= names


def test_a_command_without_a_document_gives_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage")
    command = ["crops", "photographs", "--out", str(tmp_path / "crops"), "--count", "4", "--size", "16"]
    invoke([*command, "--json"])
    lines = json.loads(capsys.readouterr().out)["output"]
    assert lines[0].startswith("wrote 4 crops")


def test_quiet_prints_nothing_and_ends_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invoke(["presets", "--quiet"])
    assert capsys.readouterr() == ("", "")
    assert not hidden.get()
    invoke(["presets"])
    assert "description" in capsys.readouterr().out


def test_quiet_hides_the_steps_and_output_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: [{name: list, run: presets}]")
    invoke(["run", str(recipe), "--out", str(tmp_path / "quiet"), "--quiet"])
    assert capsys.readouterr() == ("", "")
    invoke(["run", str(recipe), "--out", str(tmp_path / "json"), "--json"])
    printed = capsys.readouterr()
    assert "wrote" in json.loads(printed.out)["output"][-1]  # the step's own output is not mixed in
    assert "[1/1] fae presets" in printed.err


def test_an_error_prints_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FAEError, match="no-such-kind"):
        invoke(["presets", "no-such-kind", "--json"])
    assert capsys.readouterr().out == ""


def test_outside_a_command_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    document({"lost": True})
    say("wrote a file")
    assert capsys.readouterr().out == "wrote a file\n"


def test_a_document_holds_plain_json_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    from fae_core.commands.output import choose, command_output

    with command_output():
        choose(as_json=True)
        document({"path": Path("a"), "mean": float("nan"), "pair": (1, 2), "api_key": "abc123"})
    assert json.loads(capsys.readouterr().out) == {"path": "a", "mean": None, "pair": [1, 2], "api_key": "***"}


def test_progress_is_hidden_inside_a_quiet_command(capsys: pytest.CaptureFixture[str]) -> None:
    token = hidden.set(True)
    try:
        with progress(2, "work") as bar:
            bar.advance(2)
    finally:
        hidden.reset(token)
    assert capsys.readouterr().err == ""


def test_a_preset_as_a_file_is_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    name, path = next(iter(preset_files().items()), (None, None))
    if name is None or path is None:
        pytest.skip("no package with presets is installed")
    invoke(["config", name])
    settings = yaml.safe_load(capsys.readouterr().out)
    preset = read_preset(path)
    assert settings["model_type"] == preset["model_type"]
    assert "description" not in settings
    for key, value in preset["model"].items():
        if not isinstance(value, dict):
            assert settings["model"][key] == value


@pytest.mark.parametrize(
    ("words", "place", "expected"), [("fae pre", 1, "presets"), ("fae sample --gener", 2, "--generator")]
)
def test_a_shell_completes_commands_and_options(words: str, place: int, expected: str) -> None:
    environment = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(place), "_FAE_COMPLETE": "complete_bash"}
    ran = subprocess.run(
        [sys.executable, "-m", "fae_core.cli.main"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, expected in ran.stdout.split()) == (0, True), ran.stderr


def test_what_is_loaded_is_said_before_the_wait_unless_the_output_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_package.py").write_text("import sys\nprint('executed', file=sys.stderr)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(loading_module, "_HEAVY", ("heavy_package",))
    for chosen, said in (({}, ["loading heavy_package ...", "executed"]), ({"quiet": True}, ["executed"])):
        with announced_imports(), command_output():
            choose(**chosen)
            assert importlib.util.find_spec("heavy_package") is not None, "to look for it says nothing"
            importlib.import_module("heavy_package")
            importlib.import_module("heavy_package")
            del sys.modules["heavy_package"]
        assert capsys.readouterr().err.split("\n") == [*said, ""]
    importlib.import_module("heavy_package")
    assert capsys.readouterr().err == "executed\n", "outside commands nothing is said"


def test_a_model_that_takes_long_to_load_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_module, "_PATIENCE", 0.0)
    told = threading.Event()
    monkeypatch.setattr(loading_module, "_say", lambda what, say=loading_module._say: (say(what), told.set()))
    with command_output(), loading("tokenizer runs/fae"):
        assert told.wait(60)
    assert capsys.readouterr().err == "loading tokenizer runs/fae ...\n"
    monkeypatch.setattr(loading_module, "_PATIENCE", 3600.0)
    with command_output(), loading("tokenizer runs/fae"):
        pass
    with loading("tokenizer runs/fae"):  # outside commands
        pass
    assert capsys.readouterr().err == ""


def test_what_follows_the_data_is_left_out_of_a_preset_s_file_unless_the_preset_sets_it() -> None:
    from fae_core.cli.info import resolved_settings

    for name, field, set_in_preset in (
        ("sit-tiny", "classes", False),
        ("starflow-tiny", "classes", False),
        ("lightningdit-cifar10", "classes", True),
    ):
        if name in preset_files():
            assert (field in resolved_settings(name)["model"]) is set_in_preset, name


def test_no_help_promises_resuming_or_replacing_that_its_command_lacks() -> None:
    for words, command in every_command().items():
        own = {option for parameter in command.params for option in parameter.opts}
        texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
        for option in ("--resume", "--overwrite", "--files", "--processes"):
            assert option in own or not any(option in text for text in texts), (words, option)
