"""The figures of the pages that are drawn from committed records and from the code.

python tools/site/figures.py            # writes docs/results/claims/*-means.svg and docs/pictures/conventions.svg
python tools/site/figures.py --check    # status 1 where one is not what the records and the code give
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from html import escape
from pathlib import Path
from typing import Any

import torch
import yaml

from fae_diffusion.guidance import Guidance
from fae_diffusion.transport import path, shift_time
from fae_eval.studies.comparison import Group
from fae_eval.studies.comparison_chart import comparison_chart

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLAIMS = DOCS / "results" / "claims"
_WIDTH, _LEFT, _RIGHT, _ROW = 430, 172, 340, 24  # narrow, to be read on a phone
_LETTERS = {"title": 50, "small": 70}  # in a line
_STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:12px;fill:#333}.title{font-weight:600;font-size:14px}"
    ".small{font-size:11px;fill:#666}.name{text-anchor:end}"
)
_FIRST, _OTHERS = "#2a6fdb", "#8a97a5"


def figures() -> dict[Path, str]:
    """Each figure's path and its SVG."""
    claims = yaml.safe_load((CLAIMS / "claims.yaml").read_text("utf-8"))
    drawn = {CLAIMS / f"{one['record']}-means.svg": claim_figure(one) for one in claims}
    return {**drawn, **{DOCS / "pictures" / f"conventions-{name}.svg": text for name, text in conventions().items()}}


def claim_figure(claim: dict[str, Any]) -> str:
    """Means with the deviation of their seeds, a row for each variant.

    Args:
        claim: An entry of docs/results/claims/claims.yaml.
    """
    table = json.loads((CLAIMS / f"{claim['record']}.json").read_text("utf-8"))["table"]
    at = table["columns"].index("std over runs")  # follows the mean
    rows = [(str(cells[0]), float(cells[at - 1]), float(cells[at] or 0)) for cells in table["rows"]]
    low, high = min(mean - spread for _, mean, spread in rows), max(mean + spread for _, mean, spread in rows)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    body, top = _lines(22, claim["claim"], "title")
    said, top = _lines(top, claim["measured"], "small")
    body, top = body + said, top + 6
    paper, height = _lines(top + _ROW * len(rows) + 8, f"The paper: {claim['paper']}", "small")

    def place(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low), 1)

    for number, (name, mean, spread) in enumerate(rows):
        y, color = top + _ROW * number, _OTHERS if number else _FIRST
        body.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}" stroke="#eee"/>')
        body.append(_text(_LEFT - 12, y + 4, name, "name"))
        if spread:
            a, b = place(mean - spread), place(mean + spread)
            body.append(f'<line x1="{a}" x2="{b}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>')
        body.append(f'<circle cx="{place(mean)}" cy="{y}" r="5" fill="{color}"/>')
        factor, digits, unit = (100, 1, " %") if mean < 1 else (1, 0, "")
        deviation = f" ± {factor * spread:.1f}" if spread else ""
        body.append(_text(_RIGHT + 12, y + 4, f"{factor * mean:.{digits}f}{deviation}{unit}"))
    return _svg(height - 6, body + paper)


def conventions() -> dict[str, str]:
    """Time and path, timestep shift, and the paper's guidance, as the code computes them."""
    t = torch.linspace(0, 1, 21)
    at = path("linear", t.double())

    def curve(name: str, values: torch.Tensor) -> Group:
        return Group(name, tuple(t.tolist()), (tuple(values.tolist()),))

    shifts = [curve(f"shift {s:g}", shift_time(s, t.double())) for s in (0.5, 1.0, 2.5, 4.0)]
    paper = Guidance(parts=((1.0, 0.9, 0.9), (0.9, 0.7, 1.0), (0.7, 0.0, 2.5)))
    fine = torch.linspace(0, 1, 201)
    scale = tuple(paper.scale_at(float(one)) for one in fine)
    guided = [Group("the paper's three parts", tuple(fine.tolist()), (scale,))]
    guided.append(Group("off", tuple(fine.tolist()), ((1.0,) * len(fine),)))
    return {
        "time": comparison_chart(
            [curve("share of data", at.alpha), curve("share of noise", at.sigma)],
            title="t = 0 is data, t = 1 is noise: x = (1 - t) z + t eps",
            y_label="",
            x_label="t",
        ),
        "shift": comparison_chart(
            shifts, title="A shift above 1 spends more time at high noise", y_label="", x_label="t"
        ),
        "guidance": comparison_chart(guided, title="Guidance u + w (c - u): w = 1 is off", y_label="w", x_label="t"),
    }


def _lines(y: int, text: str, kind: str) -> tuple[list[str], int]:
    """A text in lines, the first one at a height, and where the next text goes."""
    wrapped = textwrap.wrap(text, _LETTERS[kind])
    return [_text(16, y + 16 * number, line, kind) for number, line in enumerate(wrapped)], y + 16 * len(wrapped) + 2


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(text)}</text>'


def _svg(height: int, body: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">'
    )
    return f'{head}<style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'


def main() -> int:
    """Write the figures, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, status = parser.parse_args().check, 0
    for file, text in figures().items():
        if file.is_file() and file.read_text("utf-8") == text:
            continue
        status = int(check)
        if check:
            print(f"{file} is not what the records give; run python tools/site/figures.py", file=sys.stderr)
        else:
            file.write_text(text, "utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
