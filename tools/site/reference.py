"""The reference, made from the packages themselves: every public name, command and preset."""

from __future__ import annotations

import enum
import html
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from fae_core.commands.groups import every_command
from fae_core.models.presets import preset_files

PACKAGES = ("fae_core", "fae_encoder", "fae_decoders", "fae_diffusion", "fae_flow", "fae_eval")
_LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def reference_pages() -> dict[str, str]:
    """Path in the site's sources -> Markdown."""
    pages = {f"reference/{package}.md": package_page(package) for package in PACKAGES}
    return {**pages, "reference/index.md": index_page(), "reference/commands.md": commands_page()} | {
        "reference/presets.md": presets_page()
    }


def public_modules(package: str) -> Iterator[ModuleType]:
    """A package and the packages in it that say what is public (`__all__`), in alphabetical order.

    Args:
        package: Such as "fae_core".
    """
    root = importlib.import_module(package)
    inner = [info.name for info in pkgutil.walk_packages(root.__path__, f"{package}.") if info.ispkg]
    for name in [package, *sorted(inner)]:
        module = importlib.import_module(name)
        if hasattr(module, "__all__"):
            yield module


def public_names(package: str) -> Iterator[tuple[str, str, Any]]:
    """Every public name of a package once, where it is nearest to the root: (module, name, object)."""
    seen: set[int] = set()
    for module in public_modules(package):
        for name in module.__all__:
            found = getattr(module, name)
            home = getattr(found, "__module__", None) or module.__name__
            if name.startswith("__") or inspect.ismodule(found) or id(found) in seen or not home.startswith(package):
                continue
            seen.add(id(found))
            yield module.__name__, name, found


def package_page(package: str) -> str:
    """The public names of a package, described by their docstrings."""
    parts = [f"# {package}\n", f"{_first(importlib.import_module(package).__doc__)}\n"]
    parts.append(f"The package as a whole: [README](../repository/packages/{package.replace('_', '-')}/README.md).\n")
    before = ""
    for module, name, found in public_names(package):
        if module != before:
            parts.append(f"## {module}\n\n{_first(importlib.import_module(module).__doc__)}\n")
            before = module
        if inspect.isclass(found) or inspect.isroutine(found):
            parts += [f"::: {module}.{name}\n", *fields_table(found)]
        else:
            parts.append(f"### {name}\n\n`{module}.{name}` = `{str(found)[:200]}`\n")
    return "\n".join(parts)


def described_fields(found: Any) -> dict[str, str]:
    """What each field of a class of settings is, "" where nothing says it: its description, or its line in a docstring.

    Args:
        found: The class; others than those of settings have no fields.
    """
    if not issubclass(found, BaseModel):
        return {}
    texts = [inspect.cleandoc(vars(one).get("__doc__") or "") for one in found.__mro__ if issubclass(one, BaseModel)]

    def line(name: str) -> str:
        said = (re.search(rf"^ +{name}: (.*(?:\n {{8,}}.*)*)", text, re.MULTILINE) for text in texts)
        return next((" ".join(one[1].split()) for one in said if one), "")

    return {name: field.description or line(name) for name, field in found.model_fields.items()}


def fields_table(found: Any) -> list[str]:
    """The fields of a class of settings with their ranges; nothing for others.

    Args:
        found: A public name.
    """
    if not inspect.isclass(found) or not issubclass(found, BaseModel) or not found.model_fields:
        return []
    rows = ["| field | default | range | what |", "|---|---|---|---|"]
    for name, text in described_fields(found).items():
        field = found.model_fields[name]
        default = "required" if field.is_required() else f"`{_plain(_default(field.default))}`"
        limits = ((sign, getattr(one, key, None)) for one in field.metadata for key, sign in _LIMITS.items())
        allowed = ", ".join(f"{sign} {value:g}" for sign, value in limits if value is not None)
        choices = _choices(field.annotation)
        rows.append(f"| `{name}` | {default} | {html.escape(allowed) or choices} | {_cell(text)} |")
    return ["**Fields:**\n", "\n".join(rows) + "\n"]


def _default(value: Any) -> Any:
    """A default as it is shown; that of a group of settings is its own defaults."""
    return f"{type(value).__name__}()" if isinstance(value, BaseModel) else value


def _choices(annotation: Any) -> str:
    """What a field takes, where that is one of some words."""
    words = [*typing.get_args(annotation)] if typing.get_origin(annotation) is typing.Literal else []
    return ", ".join(f"`{word}`" for word in words)


def index_page() -> str:
    """What the reference has."""
    lines = [f"- [{package}]({package}.md): {_first(importlib.import_module(package).__doc__)}" for package in PACKAGES]
    return "\n".join(
        [
            "# Reference\n",
            "Made from the packages when the site is built: names from their docstrings, commands from their `--help`, "
            "presets from their files.\n",
            *lines,
            "- [Commands](commands.md): every `fae` command with its options",
            "- [Presets](presets.md): every preset's settings",
            "- [Parameters](../parameters.md): every preset's count beside the paper's",
            "- [Paper to code](../paper-to-code.md): where is what, for every statement of the paper",
            "- [File formats](../formats.md): what is written, field by field",
            "- [Glossary](../glossary.md): the terms\n",
        ]
    )


def commands_page() -> str:
    """Every command: what --help prints, as a page."""
    parts = [
        "# Commands\n",
        "`fae COMMAND --help` prints the same. `--json` and `--quiet` are options of every command.\n",
    ]
    for words, command in every_command().items():
        arguments = " ".join(one.opts[0].upper() for one in command.params if not one.opts[0].startswith("-"))
        parts.append(f"## fae {words}\n")
        parts.append(f"```text\nfae {words}{f' {arguments}' if arguments else ''} [OPTIONS]\n```\n")
        parts.append(_help(command.help or "") + "\n")
        parts.append("| option | takes | default | |\n|---|---|---|---|")
        parts += [_option(one) for one in command.params if one.name not in ("as_json", "quiet")]
        parts.append("")
    return "\n".join(parts)


def presets_page() -> str:
    """Every preset: the file."""
    from fae_core.documents import parse_yaml

    parts = ["# Presets\n", "`fae presets` lists them, `fae config PRESET` prints one with all defaults.\n"]
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, path in sorted(preset_files().items()):
        text = path.read_text("utf-8")
        groups.setdefault(path.parents[1].name, []).append((name, parse_yaml(text).get("description", ""), text))
    for package in sorted(groups, key=lambda one: PACKAGES.index(one) if one in PACKAGES else 99):
        parts.append(f"## {package}\n")
        for name, description, text in groups[package]:
            parts.append(f"### {name}\n\n{description}\n\n```yaml\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _option(one: Any) -> str:
    """The row of an option or argument."""
    name = ", ".join(f"`{text}`" for text in (*one.opts, *one.secondary_opts))
    annotation = getattr(getattr(one, "type_descriptor", None), "annotation", None)
    takes = _takes(annotation) if not getattr(one, "is_flag", False) else ""
    default = one.default() if callable(one.default) else one.default
    default = "required" if one.required else "" if default in (None, False, [], ()) else f"`{_plain(default)}`"
    return f"| {name} | {takes} | {default} | {_cell(one.help or '')} |"


def _takes(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{one.value}`" for one in annotation)
    text = getattr(annotation, "__name__", str(annotation))
    return {"str": "text", "int": "whole number", "float": "number", "Path": "path", "bool": ""}.get(text, _cell(text))


def _plain(value: Any) -> str:
    return str(value.value if isinstance(value, enum.Enum) else value).replace("|", "\\|")


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _help(text: str) -> str:
    """The help of a command: indented lines are examples."""
    out, code = [], []
    text = re.sub(r"^Example: (fae .*)$", r"Example:\n\n    \1", inspect.cleandoc(text), flags=re.MULTILINE)
    for line in [*inspect.cleandoc(text.replace("\b", "")).splitlines(), ""]:
        if re.match(r"\s+(fae|python|torchrun)\b|\s{4,}\S", line):
            code.append(line.strip())
            continue
        if code:
            out += ["```text", *code, "```"]
            code = []
        out.append(line.replace("<", "&lt;"))
    return "\n".join(out)


def _first(text: str | None) -> str:
    """The first paragraph of a docstring."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
