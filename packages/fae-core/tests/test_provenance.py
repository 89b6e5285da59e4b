"""The record of where a result comes from: its fields, what the caller adds, and no secrets."""

from __future__ import annotations

from datetime import datetime

import pytest

import fae_core
from fae_core.commands.provenance import provenance
from fae_core.commands.running import arguments_in_force


@pytest.fixture
def command():
    token = arguments_in_force.set(("sample", "--data", "https://me:password@host/images?signature=abc"))
    yield
    arguments_in_force.reset(token)


@pytest.mark.usefixtures("command")
def test_a_record_says_what_made_it_when_and_where():
    record = provenance(device="cpu", packages=["numpy", "no-such-package"], seconds=1.5, seed=None)
    assert list(record) == ["command", "date", "device", "machine", "versions", "seconds"]
    assert datetime.fromisoformat(record["date"]).tzinfo is not None
    assert record["versions"]["fae-core"] == fae_core.__version__
    assert {"python", "torch", "numpy"} <= record["versions"].keys() and "no-such-package" not in record["versions"]


@pytest.mark.usefixtures("command")
def test_the_command_is_recorded_without_its_secrets():
    command = provenance()["command"]
    assert command.startswith("fae sample --data") and "password" not in command and "abc" not in command


def test_what_the_caller_gives_replaces_what_is_made_here():
    assert provenance(date="2026-11-28")["date"] == "2026-11-28"
    assert "device" not in provenance()
