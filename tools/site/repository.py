"""Files of the repository as pages of the site, so that links out of docs/ lead somewhere without a forge.

A link in a page is relative to the page's place in the repository. What it names becomes a page: Markdown as it is,
other text in a code block, a folder as a list of its files.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()([^)\s#]+)((?:#[^)\s]*)?(?:\s+\"[^\"]*\")?\))")
_FENCE = re.compile(r"^( *)```.*?^\1``` *$", re.MULTILINE | re.DOTALL)
_LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
    ".json": "json",
    ".sh": "bash",
    ".c": "c",
}
_LONGEST = 200_000  # characters of a file that is shown


def site_path(path: str) -> str:
    """Where a path of the repository is in the site's sources.

    Args:
        path: From the root of the repository, such as "docs/glossary.md" or "recipes/paper".
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in ("README.md", "."):
        return "index.md"
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def targets(path: str, text: str) -> Iterable[str]:
    """The paths in the repository that a page's links lead to.

    Args:
        path: Of the page.
        text: Its Markdown.
    """
    for match in _LINK.finditer(_FENCE.sub("", text)):
        if "://" not in match[2] and not match[2].startswith("mailto:"):
            yield _resolved(path, match[2])


def rewritten(path: str, text: str) -> str:
    """A page with its links as the site has them.

    Args:
        path: Of the page in the repository.
        text: Its Markdown.
    """
    here = posixpath.dirname(site_path(path))

    def one(match: re.Match[str]) -> str:
        if "://" in match[2] or match[2].startswith("mailto:"):
            return match[0]
        return f"{match[1]}{posixpath.relpath(site_path(_resolved(path, match[2])), here or '.')}{match[3]}"

    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(one, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(one, text[end:])])


def linked_pages(pages: Iterable[str]) -> dict[str, str]:
    """Everything outside docs/ that pages lead to, with what those lead to in turn.

    Args:
        pages: Paths in the repository to begin with.

    Returns:
        Path in the repository -> Markdown.

    Raises:
        FileNotFoundError: A link leads nowhere.
    """
    found: dict[str, str] = {}
    waiting = [(page, (ROOT / page).read_text("utf-8")) for page in pages]
    while waiting:
        page, text = waiting.pop()
        for target in targets(page, text):
            if target in found or target.startswith("docs/") or site_path(target) == "index.md":
                continue
            if not (ROOT / target).exists():
                raise FileNotFoundError(f"{page}: the link to {target} leads nowhere")
            found[target] = as_markdown(target)
            if target.endswith(".md"):
                waiting.append((target, found[target]))
    return found


def as_markdown(path: str) -> str:
    """A file or folder of the repository as Markdown.

    Args:
        path: From the root of the repository.
    """
    full = ROOT / path
    if full.is_dir():
        listed = subprocess.run(["git", "ls-files", "--", path], cwd=ROOT, capture_output=True, text=True, check=True)
        names = "\n".join(name.removeprefix(f"{path}/") for name in listed.stdout.split("\n") if name)
        readme = full / "README.md"
        if readme.is_file():
            return f"{readme.read_text('utf-8')}\n\nFiles:\n\n```text\n{names}\n```\n"
        return f"# {path}\n\n```text\n{names}\n```\n"
    text = full.read_text("utf-8", errors="replace")
    if path.endswith(".md"):
        return text
    ticks = "`" * 4
    return f"# {path}\n\n{ticks}{_LANGUAGES.get(full.suffix, 'text')}\n{text[:_LONGEST]}\n{ticks}\n"


def _resolved(page: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
