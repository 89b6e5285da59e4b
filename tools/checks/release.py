"""Is the tree ready to be released? Every finding is one line; the exit status is 1 where there is any.

    hatch run release-check

Per package: the version is the newest one of its changelog, the ranges between packages have both bounds and contain
the tree's versions, licence, README and type marker are there, entry points load, presets build with the parameters
they claim, the bundles that it carries are whole, small and nothing but safetensors. For the tree: every package is in
the environments, nothing is unpickled, no path of somebody's machine, no token, and every path that a page names
exists.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted((ROOT / "packages").glob("*/pyproject.toml"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
MACHINE_PATHS = re.compile(r"(?<![\w.~:/-])/(?:home|Users|root|work|mnt|scratch)/[\w.-]+")
_PLACEHOLDER = re.compile(r"NAME|fae[-_]x\b")  # what the reader is to fill in
TOKENS = re.compile(r"\b(?:hf_|ghp_|github_pat_|pypi-|sk-)[A-Za-z0-9_]{30,}")


def main() -> int:
    findings = [finding for check in CHECKS for finding in check()]
    for finding in findings:
        print(finding, file=sys.stderr)
    print(f"release check: {len(PACKAGES)} packages, {len(findings)} findings")
    return int(bool(findings))


def versions() -> Iterator[str]:
    """The version in _version.py is the newest heading of CHANGELOG.md."""
    for package in packages():
        changelog = package.folder / "CHANGELOG.md"
        headings = re.findall(r"^## v?(\d\S*)", changelog.read_text("utf-8"), re.M) if changelog.is_file() else []
        if headings[:1] != [package.version]:
            newest = headings[0] if headings else "nothing"
            yield f"{package.name}: version {package.version}, but the newest heading of CHANGELOG.md is {newest}"
        elif sorted(map(Version, headings), reverse=True) != list(map(Version, headings)):
            yield f"{package.name}: the headings of CHANGELOG.md are not in falling order"


def ranges() -> Iterator[str]:
    """`fae-core>=a,<b` with both bounds, and the tree's own version inside."""
    tree = {package.name: package.version for package in packages()}
    for package in packages():
        extras = [line for lines in package.project.get("optional-dependencies", {}).values() for line in lines]
        for line in (*package.project["dependencies"], *extras):
            need = Requirement(line)
            if need.name not in tree:
                if not need.specifier:
                    yield f"{package.name}: {line} has no lower bound"
                continue
            kinds = {specifier.operator for specifier in need.specifier}
            if not {">=", "<"} <= kinds:
                yield f"{package.name}: {line} needs both bounds, >= and <"
            if not need.specifier.contains(tree[need.name], prereleases=True):
                yield f"{package.name}: {line} excludes the tree's {need.name} {tree[need.name]}"


def files() -> Iterator[str]:
    """py.typed, LICENSE (the tree's own), a README that says something, tests."""
    licence = (ROOT / "LICENSE").read_bytes()
    for package in packages():
        if not (package.folder / "src" / package.module / "py.typed").is_file():
            yield f"{package.name}: py.typed is missing"
        own = package.folder / "LICENSE"
        if not own.is_file() or own.read_bytes() != licence:
            yield f"{package.name}: LICENSE is missing or not the tree's"
        readme = package.folder / "README.md"
        if not readme.is_file() or len(readme.read_text("utf-8")) < 500:
            yield f"{package.name}: README.md is missing or too short to help"
        if not list((package.folder / "tests").glob("test_*.py")):
            yield f"{package.name}: there are no tests"


def environments() -> Iterator[str]:
    """Every package is in the default environment, in the `alone` matrix and under the import contracts."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    environments = settings["hatch"]["envs"]
    members = {
        Path(member["path"] if isinstance(member, dict) else member).name
        for member in environments["default"]["workspace"]["members"]
    }
    alone = {f"fae-{name}" for row in environments["alone"]["matrix"] for name in row["package"]}
    contracts = {name.replace("_", "-") for name in settings["importlinter"]["root_packages"]}
    for package in packages():
        for where, listed in (("default members", members), ("alone matrix", alone), ("import contracts", contracts)):
            if package.name not in listed:
                yield f"pyproject.toml: {package.name} is missing from the {where}"


def entry_points() -> Iterator[str]:
    """Everything that a package registers can be imported."""
    for package in packages():
        groups = {"scripts": package.project.get("scripts", {}), **package.project.get("entry-points", {})}
        for group, points in groups.items():
            for name, value in points.items():
                try:
                    EntryPoint(name, value, group).load()
                except Exception as error:
                    yield f"{package.name}: {group} {name} = {value}: {type(error).__name__}: {error}"


def public_names() -> Iterator[str]:
    """Everything in a package's __all__ exists."""
    for package in packages():
        module = importlib.import_module(package.module)
        for name in getattr(module, "__all__", ()):
            try:
                getattr(module, name)
            except Exception as error:
                yield f"{package.name}: {package.module}.{name}: {type(error).__name__}: {error}"


def presets() -> Iterator[str]:
    """Every preset is known to its model's class and builds on the meta device with as many parameters as it claims.

    Frozen backbones are not counted: they are another project's weights.
    """
    from fae_core.files import read_yaml
    from fae_core.models.presets import preset_files
    from fae_core.plugins import load_plugins

    classes = load_plugins("fae.models")
    for name, path in preset_files().items():
        preset = read_yaml(path)
        kind = preset.get("model_type")
        if not preset.get("description"):
            yield f"preset {name}: no description"
        if kind not in classes:
            yield f"preset {name}: no package registers a model of type {kind!r} under fae.models"
            continue
        try:
            count = count_parameters(name)
        except Exception as error:
            yield f"preset {name} does not build: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        if preset.get("parameters") != count:
            yield f"preset {name}: claims {preset.get('parameters')} parameters, has {count}"


def count_parameters(preset: str) -> int:
    """Parameters of a preset's model, built on the meta device; a frozen backbone is not counted."""
    import torch

    from fae_core.models.presets import load_preset
    from fae_core.plugins import load_plugins

    with torch.device("meta"):
        model = _build(load_plugins("fae.models")[load_preset(preset)["model_type"]].load(), preset)
    return sum(p.numel() for key, p in model.named_parameters() if not key.startswith("backbone."))


def _build(model_class: Any, preset: str) -> Any:
    """A preset that leaves the latent space to the user is built for a small one."""
    from fae_core.errors import FAEError
    from fae_core.spec import LatentSpec

    try:
        return model_class.from_preset(preset)
    except FAEError as error:
        if "spec" not in str(error):
            raise
        return model_class.from_preset(preset, spec=LatentSpec(16, 8, 8, 128, "release-check"))


def bundles() -> Iterator[str]:
    """Folders src/MODULE/bundles/NAME: registered, committed, of allowed kinds and size, undamaged, of one latent
    space."""
    from fae_core.bundle.check import check_bundle
    from fae_core.models.bundles import bundle_folders

    tracked = set(_tracked_files())
    for package in packages():
        registered = package.module in package.project.get("entry-points", {}).get("fae.bundles", {}).values()
        for folder in sorted((package.folder / "src" / package.module / "bundles").glob("*/")):
            if not registered or bundle_folders().get(folder.name) != folder:
                yield f"{package.name}: the bundle {folder.name} is not found by its name through the group fae.bundles"
            yield from check_bundle(folder)
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(ROOT).as_posix()
                if path.is_file() and name not in tracked:  # what git ignores is left out of wheels, too
                    yield f"{name}: is not committed"


def unpickling() -> Iterator[str]:
    """Sources and tools import no unpickler, and every loader that could unpickle is told not to."""
    for path in [*(ROOT / "packages").glob("*/src/**/*.py"), *(ROOT / "tools").glob("**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
            reason = unpickles(node)
            if reason:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {reason}"


def unpickles(node: ast.AST) -> str | None:
    """Why this piece of syntax could unpickle something, or None."""
    if isinstance(node, ast.Import):
        names = {alias.name.split(".")[0] for alias in node.names} & UNPICKLERS
        return f"imports {', '.join(sorted(names))}" if names else None
    if isinstance(node, ast.ImportFrom):
        hidden = node.module in ("torch", "numpy", "yaml") and {alias.name for alias in node.names} & {
            "load",
            "unsafe_load",
        }
        if hidden:
            return f"imports {node.module}.load by name, which hides it from this check"
        harmless = {alias.name for alias in node.names} == {"UnpicklingError"}  # what torch.load raises
        return f"imports {node.module}" if (node.module or "").split(".")[0] in UNPICKLERS and not harmless else None
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called == "torch.load" and settings.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if settings.get("allow_pickle", "False") != "False":
        return f"{called} with allow_pickle"
    if settings.get("weights_only", "True") != "True":
        return f"{called} with weights_only={settings['weights_only']}"
    if called in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
        return f"{called}; use yaml.safe_load"
    if settings.get("trust_remote_code") == "True":
        return f"{called} trusts remote code by default"
    return None


def private_text() -> Iterator[str]:
    """No path of somebody's machine and no access token in any committed text."""
    for name in _tracked_files():
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > 2**22:
            continue
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            found = MACHINE_PATHS.search(line) or TOKENS.search(line)
            if found:
                yield f"{name}:{number}: {found[0][:24]} is private to a machine or a person"


def _tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


class Package:
    """One folder of packages/: its name, module, version and [project] table."""

    def __init__(self, pyproject: Path) -> None:
        self.folder = pyproject.parent
        self.project: dict[str, Any] = tomllib.loads(pyproject.read_text("utf-8"))["project"]
        self.name: str = self.project["name"]
        self.module = self.name.replace("-", "_")
        source = (self.folder / "src" / self.module / "_version.py").read_text("utf-8")
        self.version = re.findall(r'__version__ = "(.+)"', source)[0]


def packages() -> list[Package]:
    return [Package(path) for path in PACKAGES]


def documented_paths() -> Iterator[str]:
    """Every file, module and name of ours that a page mentions exists: links, paths, `fae_core.module.name`."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    tails = {"/".join(Path(name).parts[i:]) for name in listed for i in range(len(Path(name).parts))}
    tails |= {
        "/".join(parent.parts[i:]) for name in listed for parent in Path(name).parents for i in range(len(parent.parts))
    }
    for page in (name for name in listed if name.endswith(".md") and "/bundles/" not in name):
        text = (ROOT / page).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (ROOT / page).parent.joinpath(target).exists():
                yield f"{page}: the link to {target} leads nowhere"
        for path in re.findall(
            r"(?<![\w./-])((?:[\w.-]+/)*[\w-]+\.py|(?:packages|tools|tests|docs|recipes)/[\w./-]+)", text
        ):
            if not _PLACEHOLDER.search(path) and re.sub(r"^(\.\./)+", "", path).rstrip("/.") not in tails:
                yield f"{page}: there is no {path}"
        for name in sorted(set(re.findall(r"(?<![\w./-])(fae_[a-z]+(?:\.[A-Za-z_]\w*)+)(?!\.py)", text))):
            if not name.endswith(".py") and not importable(name):
                yield f"{page}: there is no {name}"


def importable(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[i:])
    return False


CHECKS: tuple[Callable[[], Iterator[str]], ...] = (
    versions,
    ranges,
    files,
    environments,
    entry_points,
    public_names,
    presets,
    bundles,
    unpickling,
    private_text,
    documented_paths,
)

if __name__ == "__main__":
    sys.exit(main())
