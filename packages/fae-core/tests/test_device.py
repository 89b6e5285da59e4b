"""One rule for the device that is asked for, in calls and in every command that has the option."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fae_core.cli.main import main
from fae_core.commands.groups import every_command
from fae_core.errors import FAEError
from fae_core.processes import processes, resolve_device

WRONG = [
    "mps",
    "gpu",
    "foo",
    "",
    "CUDA",
    "cuda:",
    "cuda:x",
    "cuda:-1",
    "cuda:01",
    "cuda:99",
    "cpu:0",
    "cuda:0:1",
    "meta",
    "x" * 5000,
    "cpu\n",
]


@pytest.mark.parametrize("device", WRONG)
def test_a_device_that_is_not_there_is_one_line(device: str) -> None:
    with pytest.raises(FAEError, match="device") as caught:
        resolve_device(device)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    with pytest.raises(FAEError), processes(device):
        pytest.fail("the block must not run")


def test_without_a_device_it_is_the_gpu_where_there_is_one() -> None:
    assert resolve_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == "cpu"
    if torch.cuda.is_available():
        assert resolve_device("cuda:0") == "cuda:0"
    else:
        with pytest.raises(FAEError, match="sees no GPU; pass --device cpu"):
            resolve_device("cuda")


def test_every_command_refuses_a_wrong_device_before_it_does_anything(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tried = 0
    for words, command in every_command().items():
        if not any("--device" in parameter.opts for parameter in command.params):
            continue
        needed = [
            part
            for parameter in command.params
            if parameter.required
            for part in ([parameter.opts[0], "x"] if parameter.opts[0].startswith("-") else ["x"])
        ]
        with pytest.raises(SystemExit) as stopped:
            main([*words.split(), *needed, "--device", "gpu"])
        error = capsys.readouterr().err
        assert (stopped.value.code, error) == (2, "error: unknown device 'gpu'; FAE works on cpu, cuda or cuda:N\n"), (
            words
        )
        tried += 1
    assert tried >= 2 and not list(tmp_path.iterdir())
