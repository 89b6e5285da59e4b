"""Type errors of each package, counted by pyright (standard mode), against the counts that the repository keeps.

    hatch run types             # exit status 1 where a count has risen, or a part that must be free of errors is not
    hatch run types --write     # write today's counts, where they have fallen

The counts only go down: tools/checks/type_errors.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COUNTS = Path(__file__).with_suffix(".json")
# Of fae-core: what other packages build on.
FREE = ("spec.py", "protocols.py", "models/", "latent_store/", "training/")


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
    """Package -> errors by file, relative to the package's module. One run for all, which reads torch once."""
    packages = sorted((ROOT / "packages").iterdir())
    sources = {package.name: package / "src" / package.name.replace("-", "_") for package in packages}
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    command += [str(source) for source in sources.values()]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if not result.stdout.startswith("{"):
        sys.exit(f"pyright did not run: {(result.stderr or result.stdout).strip()[-300:]}")
    report = json.loads(result.stdout)
    files = [Path(one["file"]) for one in report["generalDiagnostics"] if one["severity"] == "error"]
    return {
        name: Counter(file.relative_to(source).as_posix() for file in files if file.is_relative_to(source))
        for name, source in sources.items()
    }


if __name__ == "__main__":
    sys.exit(main())
