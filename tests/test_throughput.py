"""`fae info --measure` times every kind of model that has a preset."""

from __future__ import annotations

import re

import pytest

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError

KINDS = (
    "fae-tiny",
    "feature-decoder-tiny",
    "pixel-decoder-tiny",
    "conv-vae-tiny",
    "sit-tiny",
    "lightningdit-tiny",
    "mmdit-tiny",
    "starflow-tiny",
)


@pytest.mark.parametrize("preset", KINDS)
def test_every_kind_of_preset_is_timed(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    invoke(["info", preset, "--gpus", "2", "--measure", "--measure-batch", "2", "--repeats", "1", "--device", "cpu"])
    text = capsys.readouterr().out
    rates = re.search(r"measured: (\S+) samples/s .*, (\S+) GFLOP/s", text)
    assert rates and float(rates[1]) > 0 and float(rates[2]) > 0
    assert "1 steps of batch 2" in text and "the whole model" in text and "device-hours an epoch" in text


@pytest.mark.parametrize("preset", ["lightningdit-tiny", "starflow-tiny", "pixel-decoder-tiny"])
def test_a_part_of_the_blocks_is_said_to_be_one(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    invoke(["info", preset, "--measure", "--measure-blocks", "1", "--repeats", "1", "--device", "cpu"])
    assert re.search(r"measured on 1 of \d+ identical blocks, scaled by FLOPs", capsys.readouterr().out)


def test_two_sources_of_the_speed_are_one_too_many() -> None:
    with pytest.raises(FAEError, match="choose one"):
        invoke(["info", "sit-tiny", "--measure", "--samples-per-second", "3"])
