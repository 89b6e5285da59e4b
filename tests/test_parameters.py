"""docs/parameters.md says what the presets state; that they state the truth is a test of each package."""

from __future__ import annotations

import re
from pathlib import Path

from fae_core.files import read_yaml
from fae_core.models.presets import preset_files

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parameters.md"


def test_the_page_has_every_presets_count_and_the_papers() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \| ([\d,]+) \| (.*?) \|", PAGE.read_text("utf-8"), re.M)
    found = {name: (kind, int(count.replace(",", "")), printed) for name, kind, count, printed in rows}
    presets = {name: read_yaml(path) for name, path in preset_files().items()}
    stated = {n: (p["model_type"], p["parameters"], p.get("paper", {}).get("printed", "")) for n, p in presets.items()}
    assert found == stated


def test_counts_round_to_what_the_paper_prints() -> None:
    for name, path in preset_files().items():
        preset = read_yaml(path)
        if "paper" in preset:
            printed, unit = preset["paper"]["printed"].split()
            places = len(printed.partition(".")[2])
            assert round(preset["parameters"] / {"M": 1e6, "B": 1e9}[unit], places) == float(printed), name
