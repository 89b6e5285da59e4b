"""Type errors of each package and of the pages' Python, counted by pyright (standard mode), against the counts that the
repository keeps.

    hatch run types             # exit status 1 where a count has risen, or a part that must be free of errors is not
    hatch run types --write     # write today's counts, where they have fallen

The counts only go down: tools/checks/type_errors.json.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from page_blocks import blocks, pages

ROOT = Path(__file__).resolve().parents[2]
COUNTS = Path(__file__).with_suffix(".json")
# Of fae-core: what other packages build on.
FREE = ("spec.py", "protocols.py", "models/", "latent_store/", "training/")
PAGES = "pages"
NOT_OURS = {"reportUndefinedVariable", "reportMissingImports"}  # names and packages that a reader has
# Pages with lines of packages whose own types do not fit what they take.
UNTYPED = re.compile(r"^(?:from|import) (?:diffusers|peft)\b", re.MULTILINE)


def main() -> int:
    kept: dict[str, int] = json.loads(COUNTS.read_text())
    found = errors_by_package()
    counts = {name: sum(errors.values()) for name, errors in found.items()}
    findings = [
        f"{name}: {count} type errors, {kept.get(name, 0)} are kept in {COUNTS.name}; none may be added"
        for name, count in counts.items()
        if count > kept.get(name, 0)
    ]
    core = {path: count for path, count in found["fae-core"].items() if path.startswith(FREE)}
    findings += [f"fae-core: {path} must be free of type errors, it has {count}" for path, count in core.items()]
    fallen = {name: count for name, count in counts.items() if count < kept.get(name, 0)}
    if "--write" in sys.argv[1:] and not findings:
        COUNTS.write_text(json.dumps(counts, indent=1) + "\n")
    elif fallen:
        print(f"fewer type errors than are kept ({fallen}): write them with hatch run types --write")
    print(f"types: {', '.join(f'{name} {count}' for name, count in counts.items())}; {len(findings)} findings")
    for finding in findings:
        print(finding, file=sys.stderr)
    return int(bool(findings))


def errors_by_package() -> dict[str, Counter[str]]:
    """Package, or "pages" -> errors by file, relative to its folder. One run for all, which reads torch once."""
    packages = sorted((ROOT / "packages").iterdir())
    sources = {package.name: package / "src" / package.name.replace("-", "_") for package in packages}
    with tempfile.TemporaryDirectory() as folder:
        sources[PAGES] = Path(folder).resolve()
        write_pages(sources[PAGES])
        command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
        command += [str(source) for source in sources.values()]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if not result.stdout.startswith("{"):
        sys.exit(f"pyright did not run: {(result.stderr or result.stdout).strip()[-300:]}")
    errors = [one for one in json.loads(result.stdout)["generalDiagnostics"] if one["severity"] == "error"]
    of_pages = sources[PAGES]
    errors = [one for one in errors if not (Path(one["file"]).is_relative_to(of_pages) and one.get("rule") in NOT_OURS)]
    for one in errors:
        print(f"{one['file']}:{one['range']['start']['line'] + 1} {one['message']}", file=sys.stderr)
    files = [Path(one["file"]) for one in errors]
    return {
        name: Counter(file.relative_to(source).as_posix() for file in files if file.is_relative_to(source))
        for name, source in sources.items()
    }


def write_pages(folder: Path) -> None:
    """The Python blocks of each page as one file, on the lines where they stand in the page."""
    for page in pages():
        found = [block for block in blocks(page) if block.language == "python"]
        if page.endswith(".ipynb") or not found or any(UNTYPED.search(block.text) for block in found):
            continue
        text = ""
        for block in found:
            text += "\n" * (block.line - text.count("\n")) + block.text
        (folder / f"{re.sub(r'[^a-z]', '_', page.lower())}.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
