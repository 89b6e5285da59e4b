"""The command and Python blocks of the pages.

A block is fenced and begins with ```bash or ```python. tests/test_pages.py executes every one of them, but for those
behind a comment that says why not:

    <!-- not run: needs a GPU -->

What a block that is not run names must exist all the same: programs, commands, options, presets, recipes, modules
(named_in_shell.py, named_in_fae.py, named_in_python.py).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from named_in_fae import fae_findings
from named_in_python import python_findings
from named_in_shell import command_findings

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("bash", "python")
_FENCE = re.compile(r"^( *)(`{3,})([\w-]*)[^\n`]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: ((?:(?!-->).)*) -->\s*\Z", re.DOTALL)  # the last comment alone
_COMMAND = re.compile(r"^(?:[$%>] )?(?:[A-Z_]+=\S+ )*(?:fae|python3?|pip|uv|hatch|torchrun|pytest|sbatch)(?: |$)", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Path of the page in the repository.
        line: Its first line, from 1.
        language: What stands behind the fence.
        text: What is in it, without the page's indentation.
        reason: Why it is not run; None where it is.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None = None

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every committed page and notebook; the cards of models that packages carry are written by `fae bundle`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    names = listed.stdout.decode().split("\0")
    return sorted(
        name
        for name in names
        if name.endswith((".md", ".ipynb")) and "/bundles/" not in name and (ROOT / name).is_file()
    )


def blocks(page: str) -> list[Block]:
    """The blocks of a page in order; of a notebook its code cells.

    Args:
        page: Path in the repository.
    """
    text = (ROOT / page).read_text("utf-8")
    if page.endswith(".ipynb"):
        return list(_cells(page, json.loads(text)))
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        reason = " ".join(mark[1].split()) if mark else None
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[3], textwrap.dedent(match[4]), reason))
    return found


def _cells(page: str, notebook: dict[str, Any]) -> Iterator[Block]:
    """Code cells of a notebook: lines that begin with ! are commands, all others Python."""
    for number, cell in enumerate(notebook["cells"], start=1):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        bash = source.startswith(("!", "%%bash"))
        text = re.sub(r"^(!|%%bash\n)", "", source, flags=re.MULTILINE)
        yield Block(page, number, "bash" if bash else "python", text + "\n")


def unmarked_commands(page: str) -> list[str]:
    """Findings: commands outside of blocks that are run, and marks without a reason."""
    if page.endswith(".ipynb"):
        return []
    text = (ROOT / page).read_text("utf-8")
    found = []
    for block in blocks(page):
        if block.language not in (*LANGUAGES, "text", "toml", "yaml", "json") and _COMMAND.search(block.text):
            found.append(f"{block.place}: commands in a block of ```{block.language}; write ```bash")
        if block.reason is not None and len(block.reason) < 8:
            found.append(f"{block.place}: `not run` needs a reason")
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(prose.splitlines(), start=1):
        if line.startswith("    ") and _COMMAND.match(line.strip()) and not re.match(r"\s*\S+/", line):
            found.append(f"{page}:{number}: a command in an indented block; write ```bash")
    return found


def lines(text: str) -> list[list[str]]:
    """The commands of a bash block as words: continued lines joined, comments dropped, split at && and ;."""
    found: list[list[str]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = shlex.split(re.sub(r"(?<!\S)&&(?!\S)|;(?=\s|$)", "\0", line), comments=True)
        one: list[str] = []
        for word in [*words, "\0"]:
            if word != "\0":
                one.append(word)
            elif one:
                found.append(one)
                one = []
    return found


def unknown_names(block: Block) -> list[str]:
    """Findings: what a block names and what does not exist.

    Args:
        block: Of bash or Python.
    """
    if block.language == "python":
        reasons = python_findings(block.text)
    else:
        reasons = [reason for words in lines(block.text) for reason in command_findings(words)]
    return [f"{block.place}: {reason}" for reason in reasons]


def inline_commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """`fae ...` in the text of a page: (place, words). What follows three dots is left out."""
    if page.endswith(("CHANGELOG.md", ".ipynb")):  # a changelog keeps the names of its time
        return
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), (ROOT / page).read_text("utf-8"))
    for match in re.finditer(r"(?<!`)`fae ([^`]+)`", prose):
        words = shlex.split(" ".join(match[1].split("...")[0].split()), comments=True)
        words = list(words[: words.index("|")] if "|" in words else words)
        yield f"{page}:{prose.count(chr(10), 0, match.start()) + 1}", words


def inline_installs(page: str) -> Iterator[tuple[str, list[str]]]:
    """`pip install ...` in the text of a page: (place, words)."""
    if page.endswith(("CHANGELOG.md", ".ipynb")):
        return
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), (ROOT / page).read_text("utf-8"))
    for match in re.finditer(r"`((?:uv )?pip install [^`]+)`", prose):
        yield f"{page}:{prose.count(chr(10), 0, match.start()) + 1}", shlex.split(match[1])


def page_findings(page: str) -> list[str]:
    """All findings about one page, short of running it.

    Args:
        page: Path in the repository.
    """
    found = unmarked_commands(page)
    for block in blocks(page):
        if block.language in LANGUAGES:
            found += unknown_names(block)
    for place, words in inline_commands(page):
        found += [f"{place}: {reason}" for reason in fae_findings(words, whole=False)]
    for place, words in inline_installs(page):
        found += [f"{place}: {reason}" for reason in command_findings(words)]
    return found
