"""Claims about the site: every public name, command and preset is described, no link is broken, figures are those of
the records. The pages themselves are built by `hatch run docs:build`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from figures import figures
from reference import PACKAGES, commands_page, described_fields, package_page, presets_page, public_names
from repository import ROOT, linked_pages, rewritten, site_path

from fae_core.commands.groups import every_command
from fae_core.models.presets import preset_files


class _Loader(yaml.SafeLoader):
    """mkdocs.yml, whose tags of Python objects are not needed here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)  # noqa: S506 (a SafeLoader)
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def own_methods(found: type) -> list[tuple[str, Any]]:
    """Public methods and properties that a class defines itself."""
    named = [(name, value) for name, value in vars(found).items() if not name.startswith(("_", "test_"))]
    unwrapped = [(n, v.__func__ if isinstance(v, (classmethod, staticmethod)) else v) for n, v in named]
    fixture = "_pytestfixturefunction"  # by which pytest knew a fixture before 8.4; it is an object of its own since
    described = [(n, v) for n, v in unwrapped if inspect.isfunction(v) or isinstance(v, property)]
    return [(name, value) for name, value in described if not hasattr(value, fixture)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_and_method_has_a_docstring(package: str) -> None:
    bare = []
    for module, name, found in public_names(package):
        if (inspect.isclass(found) or inspect.isroutine(found)) and not inspect.getdoc(found):
            bare.append(f"{module}.{name}")
        if inspect.isclass(found):
            bare += [f"{module}.{name}.{m}" for m, _ in own_methods(found) if not inspect.getdoc(getattr(found, m))]
    assert bare == []


def undescribed(function: Any, description: str | None, first: int = 0) -> list[str]:
    """The parameters of a function, from `first` on, that have no line in its description."""
    names = [*inspect.signature(function).parameters][first:]
    return [name for name in names if not re.search(rf"^\s*\*{{0,2}}{name}:", description or "", re.MULTILINE)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_parameter_of_a_public_function_or_method_is_described(package: str) -> None:
    """An override without a docstring of its own has that of the method that it overrides."""
    missing = []
    for module, name, found in public_names(package):
        if inspect.isfunction(found):
            missing += [f"{module}.{name}({one})" for one in undescribed(found, found.__doc__)]
        for method, value in own_methods(found) if inspect.isclass(found) else ():
            if not isinstance(value, property):
                itself = 0 if isinstance(vars(found)[method], staticmethod) else 1
                lacking = undescribed(value, inspect.getdoc(getattr(found, method)), itself)
                missing += [f"{module}.{name}.{method}({one})" for one in lacking]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_field_of_public_settings_is_described_on_its_page(package: str) -> None:
    page, missing = package_page(package), []
    for _, name, found in public_names(package):
        for field, text in (described_fields(found) if inspect.isclass(found) else {}).items():
            missing += [] if text and f"| `{field}` |" in page else [f"{name}.{field}"]
    assert missing == []


def test_every_command_has_help_an_example_and_described_options() -> None:
    lacking = []
    for words, command in every_command().items():
        if not command.deprecated and "fae " not in (command.help or ""):
            lacking.append(f"fae {words} has no example")
        lacking += [f"fae {words} {one.opts[0]}" for one in command.params if not getattr(one, "help", None)]
    assert lacking == []


def test_the_reference_has_every_name_command_and_preset() -> None:
    for package in PACKAGES:
        page = package_page(package)
        for module, name, found in public_names(package):
            described = inspect.isclass(found) or inspect.isroutine(found)
            assert (f"::: {module}.{name}\n" if described else f"### {name}\n") in page
    commands, presets = commands_page(), presets_page()
    assert all(f"## fae {words}\n" in commands for words in every_command())
    assert all(f"### {name}\n" in presets for name in preset_files())


def test_no_link_of_a_page_is_broken() -> None:
    readmes = [path.relative_to(ROOT).as_posix() for path in (ROOT / "packages").glob("*/README.md")]
    outside = linked_pages([*PAGES, *readmes])
    known = {site_path(path) for path in [*PAGES, *readmes, *outside]} | {
        f"reference/{name}.md" for name in ("index", "commands", "presets", *PACKAGES)
    }
    for path in [*PAGES, *readmes]:
        here = Path(site_path(path)).parent
        text = re.sub(r"^( *)```.*?^\1```", "", rewritten(path, (ROOT / path).read_text()), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s#]+\.md)(?:#[^)]*)?\)", text):
            if "://" not in target:
                place = Path(*here.parts, target)
                parts: list[str] = []
                for part in place.parts:
                    parts = parts[:-1] if part == ".." else [*parts, part]
                assert "/".join(parts) in known, f"{path}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w./-]+\.md", str(SITE["nav"]))
    assert {path.removeprefix("docs/") for path in PAGES} <= set(listed)
    assert len(listed) == len(set(listed))


def test_figures_are_drawn_from_the_records_and_the_code() -> None:
    for path, text in figures().items():
        assert path.read_text() == text, f"{path.name}: run python tools/site/figures.py"


def test_the_animation_is_small() -> None:
    assert 10_000 < (ROOT / "docs" / "pictures" / "forming.webp").stat().st_size < 1_000_000
