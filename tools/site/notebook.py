"""docs/tutorial.ipynb: docs/tutorial.md as a notebook, with the outputs of one real run.

    python tools/site/notebook.py --run FOLDER      # runs every cell in FOLDER (ten minutes) and keeps the outputs
    python tools/site/notebook.py --check           # status 1 where the notebook is not what the page says

A block that is not run by the tests is left out. tests/test_pages.py runs the notebook's cells at a small size.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE, NOTEBOOK = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ipynb"
_WIDEST = 900  # pixels of a picture
_BLOCK = re.compile(r"^(?:<!-- not run:.*?-->\n)?```(bash|python)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def cells() -> list[tuple[str, str]]:
    """(kind, source) of each cell: "markdown" or "code"."""
    text, found, end = PAGE.read_text("utf-8"), [], 0
    for match in _BLOCK.finditer(text):
        found.append(("markdown", text[end : match.start()]))
        end = match.end()
        if not match[0].startswith("<!--"):
            bash = match[1] == "bash"
            source = "".join(f"!{line}\n" for line in match[2].splitlines()) if bash else match[2]
            found.append(("code", source))
    found.append(("markdown", text[end:]))
    return [(kind, source.strip("\n")) for kind, source in found if source.strip()]


def notebook(outputs: list[list[dict[str, Any]]] | None = None) -> dict[str, Any]:
    """The notebook as JSON.

    Args:
        outputs: Of each code cell, in order; None: none.
    """
    given, number = iter(outputs or []), 0
    made = []
    for place, (kind, source) in enumerate(cells()):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{place}", "metadata": {}, "source": _lines(source)}
        if kind == "code":
            number += 1
            cell |= {"execution_count": number, "outputs": next(given, [])}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def stored() -> dict[str, Any]:
    """The committed notebook."""
    return json.loads(NOTEBOOK.read_text("utf-8"))


def sources(content: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, source) of a notebook's cells.

    Args:
        content: A notebook as JSON.
    """
    return [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]


def run(folder: Path) -> None:
    """Run every cell in a folder and write the notebook with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    folder.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        nbformat.reads(json.dumps(notebook()), as_version=4),
        timeout=3600,
        resources={"metadata": {"path": str(folder)}},
    )
    done = client.execute()
    outputs = [[_kept(out) for out in cell["outputs"]] for cell in done["cells"] if cell["cell_type"] == "code"]
    NOTEBOOK.write_text(json.dumps(notebook([_joined(one) for one in outputs]), indent=1) + "\n", "utf-8")


def _kept(output: dict[str, Any]) -> dict[str, Any]:
    """An output as it is committed: no paths of this machine, of progress bars their last state."""
    kept = json.loads(json.dumps(output))
    if kept["output_type"] == "stream":
        text = "".join(kept["text"])
        kept |= {"name": "stdout", "text": "\n".join(map(_last_state, text.split("\n")))}
    data = kept.get("data", {})
    if "image/png" in data:  # a picture of a page, not a record: a tenth of the size
        picture = Image.open(io.BytesIO(base64.b64decode("".join(data.pop("image/png"))))).convert("RGB")
        picture.thumbnail((_WIDEST, 4 * _WIDEST), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()
    return kept


def _last_state(line: str) -> str:
    """What a terminal shows of a line in the end: a progress bar's last state, without colours."""
    shown = re.split(r"\r|\x1b\[2K", line.rstrip("\r"))[-1]
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).rstrip()


def _joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Consecutive texts as one."""
    found: list[dict[str, Any]] = []
    for one in outputs:
        if found and one["output_type"] == found[-1]["output_type"] == "stream":
            found[-1]["text"] += one["text"]
        else:
            found.append(one)
    for one in found:
        if one["output_type"] == "stream":
            one["text"] = _lines(one["text"])
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> int:
    """Run, compare, or renew the sources of the notebook and keep its outputs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="run every cell there and keep the outputs")
    parser.add_argument("--check", action="store_true", help="only compare the notebook with the page")
    options = parser.parse_args()
    if options.check:
        same = sources(stored()) == cells()
        print("" if same else f"{NOTEBOOK.name} is not what {PAGE.name} says", file=sys.stderr)
        return int(not same)
    if options.run:
        run(options.run)
    else:
        kept = [cell["outputs"] for cell in stored()["cells"] if cell["cell_type"] == "code"]
        NOTEBOOK.write_text(json.dumps(notebook(kept), indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
