"""What MkDocs calls while it builds the site: adds the reference and the linked files of the repository, and sets links
that leave docs/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from reference import reference_pages
from repository import ROOT, linked_pages, rewritten, site_path

_origins: dict[str, str] = {}  # path in the site's sources -> path in the repository


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made here."""
    for uri, text in reference_pages().items():
        files.append(File.generated(config, uri, content=text))
    own = [f"docs/{file.src_uri}" for file in files.documentation_pages() if (ROOT / "docs" / file.src_uri).is_file()]
    readmes = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "packages").glob("*/README.md"))]
    found = linked_pages([*own, *readmes])
    found |= {path: (ROOT / path).read_text("utf-8") for path in readmes}
    _origins.update({site_path(path): path for path in [*own, *found]})
    for path, text in found.items():
        file = File.generated(config, site_path(path), content=text)
        file.inclusion = file.inclusion.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links as the site has them."""
    origin = _origins.get(page.file.src_uri)
    return rewritten(origin, markdown) if origin else markdown
