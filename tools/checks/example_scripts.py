"""The scripts in examples/: the blocks of a how-to page, in order, as one file.

    python tools/checks/example_scripts.py            # writes them
    python tools/checks/example_scripts.py --check    # status 1 where one is not its page's

docs/blocks.yaml says which page has which script. A script in Python runs the page's commands by subprocess. Blocks
that are not run are comments.
"""

from __future__ import annotations

import argparse
import sys

import yaml
from page_blocks import LANGUAGES, ROOT, Block, blocks


def scripts() -> dict[str, str]:
    """Path of each script in the repository -> its text."""
    pages = yaml.safe_load((ROOT / "docs" / "blocks.yaml").read_text("utf-8"))["pages"]
    return {own["script"]: _script(page, own["script"]) for page, own in pages.items() if "script" in own}


def _script(page: str, path: str) -> str:
    """One script; Python where its name says so."""
    found = [block for block in blocks(page) if block.language in LANGUAGES]
    python = path.endswith(".py")
    title = (ROOT / page).read_text("utf-8").split("\n", 1)[0].removeprefix("# ")
    head = f"# {title}: the lines of {page}.\n# Names in capitals are yours to fill in.\n"
    parts = [head if python else f"#!/usr/bin/env bash\n{head}set -euo pipefail\n"]
    if python and any(block.language == "bash" and block.reason is None for block in found):
        parts.append("import shlex\nimport subprocess\n")
    for block in found:
        text = _as_python(block) if python and block.language == "bash" else block.text
        if block.reason is not None:
            text = f"# Not run by the tests: {block.reason}.\n" + "".join(
                f"# {line}".rstrip() + "\n" for line in block.text.splitlines()
            )
        parts.append(text)
    return "\n".join(parts)


def _as_python(block: Block) -> str:
    commands = block.text.replace("\\\n", " ").strip().splitlines()
    return "".join(f"subprocess.run(shlex.split({' '.join(one.split())!r}), check=True)\n" for one in commands)


def main() -> int:
    """Write the scripts, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    status = 0
    for path, text in scripts().items():
        file = ROOT / path
        if file.is_file() and file.read_text("utf-8") == text:
            continue
        if check:
            print(f"{path} is not what its page says; run python tools/checks/example_scripts.py", file=sys.stderr)
            status = 1
        else:
            file.write_text(text, "utf-8")
            file.chmod(0o755 if path.endswith(".sh") else 0o644)
    return status


if __name__ == "__main__":
    sys.exit(main())
