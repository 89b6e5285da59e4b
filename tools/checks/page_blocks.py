"""The command and Python blocks of the pages, and whether what they name exists.

A block is fenced and begins with ```bash or ```python. tests/test_pages.py executes every one of them, but for those
behind a comment that says why not:

    <!-- not run: needs a GPU -->

What a block that is not run names must exist all the same: programs, commands, options, presets, recipes, modules.
"""

from __future__ import annotations

import ast
import enum
import itertools
import json
import re
import shlex
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("bash", "python")
_FENCE = re.compile(r"^( *)(`{3,})([\w-]*)[^\n`]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.*?) -->\s*\Z", re.DOTALL)
_COMMAND = re.compile(r"^(?:[$%>] )?(?:[A-Z_]+=\S+ )*(?:fae|python3?|pip|uv|hatch|torchrun|pytest|sbatch)(?: |$)", re.M)
_MODULE = "fae_core.cli.main"  # what torchrun starts in place of `fae`
# Programs of others that pages may name.
_PROGRAMS = {
    "cd",
    "mkdir",
    "ls",
    "cp",
    "cat",
    "echo",
    "tar",
    "git",
    "export",
    "unzip",
    "curl",
    "sbatch",
    "scontrol",
    "srun",
}

_PROGRAMS |= {"nvidia-cuda-mps-control", "tensorboard", "wandb", ".ci/run"}
_SEEN: dict[tuple[str, ...], dict[str, Any]] = {}


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
        reasons = _python(block.text)
    else:
        reasons = [reason for words in lines(block.text) for reason in command_findings(words)]
    return [f"{block.place}: {reason}" for reason in reasons]


def command_findings(words: Sequence[str]) -> list[str]:
    """What is wrong with the names in one command.

    Args:
        words: Of the command, variables before it among them.
    """
    words = list(words)
    if words and re.match(r"[A-Za-z_]+=\$\(", words[0]):
        return []  # the output of a command
    while words and re.match(r"[A-Za-z_]+=", words[0]):
        words.pop(0)
    if not words:
        return []
    program, rest = words[0], words[1:]
    if _MODULE in words:
        return fae_findings(words[words.index(_MODULE) + 1 :])
    if program == "fae":
        return fae_findings(rest)
    if program in ("python", "python3"):
        return _script(rest)
    if program == "hatch":
        return _hatch(rest)
    if program in ("pip", "uv"):
        return [reason for word in rest for reason in _requirement(word)]
    if program == "pytest":
        return [f"there is no {word}" for word in rest if "/" in word and not (ROOT / word).exists()]
    return (
        []
        if program in _PROGRAMS
        else [f"the program {program} is not known; tools/checks/page_blocks.py has those that are"]
    )


def fae_findings(words: Sequence[str], *, whole: bool = True) -> list[str]:
    """What is wrong with the names in one `fae` command.

    Args:
        words: What follows `fae`.
        whole: The command is complete: what it requires must be there.
    """
    from fae_core.models.bundles import bundle_folders
    from fae_core.models.presets import preset_files

    if words and words[0].startswith("--"):
        return (
            []
            if words[0] in ("--help", "--version", "--install-completion", "--show-completion")
            else [f"no {words[0]}"]
        )
    depth = next((n for n in (3, 2, 1) if " ".join(words[:n]) in _commands()), 0)
    if not depth and not whole and any(f"{known} ".startswith(" ".join([*words, ""])) for known in _commands()):
        return []  # the text speaks of a group of commands
    if not depth:
        return [f"there is no command fae {' '.join(words[:2])}"]
    name, command = " ".join(words[:depth]), _commands()[" ".join(words[:depth])]
    options = {text: one for one in command.params for text in (*one.opts, *one.secondary_opts)}
    found, given, positional = [], set(), []
    rest = list(words[depth:])
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            positional.append(word)
            continue
        text, equals, value = word.partition("=")
        if text == "--help":
            return found
        if text not in options:
            found.append(f"fae {name} has no option {text}")
            continue
        option = options[text]
        given.add(option.name)
        if option.is_flag:
            continue
        value = value if equals else (rest.pop(0) if rest else "")
        found += _value(name, text, option, value)
    for option in command.params:
        argument = not option.opts[0].startswith("-")
        missing = option.required and option.name not in given and not (argument and positional)
        if whole and missing and "resume" not in given:
            found.append(f"fae {name} needs {option.opts[0]}")
    if name in ("info", "config"):
        known = preset_files().keys() | bundle_folders().keys()
        found += [f"there is no preset {word}" for word in positional if _is_name(word) and word not in known]
    if name == "run":
        found += _recipe(positional, list(words))
    return found


def _value(command: str, text: str, option: Any, value: str) -> list[str]:
    """What is wrong with the value of one option."""
    from fae_core.models.presets import preset_files

    if text == "--preset" and _is_name(value) and value not in preset_files():
        return [f"there is no preset {value}"]
    if text == "--set" and "=" not in value:
        return [f"fae {command} --set {value} is not NAME=VALUE"]
    annotation = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum) and _is_name(value):
        choices = [str(one.value) for one in annotation]
        if value not in choices:
            return [f"fae {command} {text} {value}: it takes {', '.join(choices)}"]
    return []


def _is_name(word: str) -> bool:
    """Whether a word is meant as written: no path, and not for the reader to fill in."""
    return bool(re.fullmatch(r"[a-z][\w.-]*", word))


def _recipe(positional: Sequence[str], words: list[str]) -> list[str]:
    """What is wrong with `fae run RECIPE --size S --set name=value`."""
    from fae_core.documents import parse_yaml
    from fae_core.errors import FAEError
    from fae_core.recipes.recipe import load_recipe

    for word in positional:
        if not word.startswith("recipes/") or "NAME" in word:
            continue
        after = list(itertools.pairwise(words))
        given = dict(value.split("=", 1) for option, value in after if option == "--set" and "=" in value)
        sets = {name: parse_yaml(value) for name, value in given.items()}
        size = next((value for option, value in after if option == "--size"), None)
        try:
            load_recipe(ROOT / word, sets, size)
        except FAEError as error:
            return [str(error)]
    return []


def _script(rest: Sequence[str]) -> list[str]:
    """What is wrong with `python SCRIPT --option` or `python -m MODULE --option`."""
    import importlib.util

    if rest and rest[0] == "-c":
        return _python(rest[1])
    if rest and rest[0] == "-m":
        if rest[1].startswith("fae_"):
            spec = importlib.util.find_spec(rest[1])
            return [] if spec else [f"there is no module {rest[1]}"]
        return []
    path = ROOT / rest[0]
    if not path.is_file():
        return [f"there is no {rest[0]}"]
    source = path.read_text("utf-8")
    return [
        f"{rest[0]} has no option {word}"
        for word in rest[1:]
        if word.startswith("--") and word.split("=")[0] not in source and "parse_args" in source
    ]


def _hatch(rest: Sequence[str]) -> list[str]:
    """What is wrong with `hatch run [ENVIRONMENT:]SCRIPT`."""
    if rest[:1] != ["run"]:
        return [] if rest[:1] in (["shell"], ["env"], ["build"]) else [f"hatch {rest[0]} is not known"]
    environment, _, script = rest[1].rpartition(":")
    environments = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["envs"]
    table = environments.get((environment or "default").split(".")[0], {})
    scripts = dict(table.get("scripts", {}))
    if table.get("template") == "default":
        scripts = {**environments["default"]["scripts"], **scripts}
    if script not in scripts:
        return [f"hatch run {rest[1]}: there is no such script"]
    return fae_findings(["demo", *rest[2:]]) if script == "demo" else []


def _requirement(word: str) -> list[str]:
    """What is wrong with a requirement: a folder of this repository, or an extra of one of its packages."""
    match = re.fullmatch(r"(?:\./)?((?:packages/|examples/)?[\w./-]+?)(?:\[([\w,-]+)\])?", word)
    if not match or not re.match(r"(?:packages/|examples/|fae-)", match[1]):
        return []
    folder = ROOT / match[1] if "/" in match[1] else ROOT / "packages" / match[1]
    if "..." in word:
        return []
    if not (folder / "pyproject.toml").is_file():
        return [f"there is no package {match[1]}"]
    extras = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"].get("optional-dependencies", {})
    return [
        f"{match[1]} has no extra {extra}" for extra in (match[2] or "").split(",") if extra and extra not in extras
    ]


def _python(text: str) -> list[str]:
    """What is wrong with the imports and presets of a Python block."""
    from release import importable

    from fae_core.models.bundles import bundle_folders
    from fae_core.models.presets import preset_files

    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [f"is not Python: {error.msg}"]
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fae_"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("fae_")]
        found += [f"there is no {name}" for name in names if not importable(name)]
    known = preset_files().keys() | bundle_folders().keys()
    named = re.findall(r"from_preset\(\s*\"([\w.-]+)\"", text)
    return found + [f"there is no preset {name}" for name in named if name not in known]


def _commands() -> dict[str, Any]:
    from fae_core.commands.groups import every_command
    from fae_core.plugins import load_plugins

    key = tuple(load_plugins("fae.commands"))  # an example's package may join and leave
    if key not in _SEEN:
        _SEEN[key] = every_command()
    return _SEEN[key]


def inline_commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """`fae ...` in the text of a page: (place, words). What follows three dots is left out."""
    if page.endswith(("CHANGELOG.md", ".ipynb")):  # a changelog keeps the names of its time
        return
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), (ROOT / page).read_text("utf-8"))
    for match in re.finditer(r"(?<!`)`fae ([^`]+)`", prose):
        words = shlex.split(" ".join(match[1].split("...")[0].split()), comments=True)
        words = list(words[: words.index("|")] if "|" in words else words)
        yield f"{page}:{prose.count(chr(10), 0, match.start()) + 1}", words


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
    return found
