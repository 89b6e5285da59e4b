"""Reading metrics.jsonl: a last line that a crash cut off is left out, and any other damage is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from fae_core.errors import InvalidFile
from fae_core.folders import RUN_METRICS
from fae_core.training.journal import Journal, read_metrics

WHOLE = b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n'


def test_only_a_last_line_may_be_cut_off(tmp_path: Path) -> None:
    (tmp_path / RUN_METRICS).write_bytes(WHOLE + b'{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    (tmp_path / RUN_METRICS).write_bytes(WHOLE + b"\0" * 512)  # as a power cut leaves it
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\xff\xfe" + WHOLE, "not UTF-8"),
        (WHOLE.decode().encode("utf-16"), "not UTF-8"),
        (b'{"step": 1, "lo\n' + WHOLE, "line 1"),
        (b"[]\n" + WHOLE, "line 1"),
        (b'{"loss": 1.0}\n' + WHOLE, "line 1"),
        (b'{"step": "1"}\n' + WHOLE, "line 1"),
        (b'{"step": null}\n' + WHOLE, "line 1"),
        (b'{"step": -1}\n' + WHOLE, "line 1"),
        (b'{"step": 1, "loss": "x"}\n' + WHOLE, "line 1"),
        (b'{"step": ' + b"1" * 5000 + b"}\n" + WHOLE, "line 1"),
        (b"[" * 100_000 + b"\n" + WHOLE, "line 1"),
    ],
)
def test_other_damage_is_one_line_and_the_file_stays_as_it_is(data: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / RUN_METRICS
    path.write_bytes(data)
    for read in (lambda: read_metrics(tmp_path), lambda: Journal(tmp_path, True, resumed_at=1)):
        with pytest.raises(InvalidFile, match=complaint) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == data


def test_what_came_after_the_step_that_is_resumed_goes(tmp_path: Path) -> None:
    (tmp_path / RUN_METRICS).write_bytes(WHOLE + b'{"step": 3, "lo')
    Journal(tmp_path, True, resumed_at=1)
    assert (tmp_path / RUN_METRICS).read_bytes() == WHOLE.splitlines(keepends=True)[0]
