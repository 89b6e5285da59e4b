"""Whether what a `fae` command names exists: the command, its options, presets, recipes."""

from __future__ import annotations

import enum
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_SEEN: dict[tuple[str, ...], dict[str, Any]] = {}


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
    from fae_core.cli.settings import parse_variables
    from fae_core.errors import FAEError
    from fae_core.recipes.recipe import declared_variables, load_recipe

    for word in positional:
        if not word.startswith("recipes/") or "NAME" in word:
            continue
        after = list(itertools.pairwise(words))
        given = [value for option, value in after if option == "--set" and "=" in value]
        size = next((value for option, value in after if option == "--size"), None)
        try:
            path = _ROOT / word
            load_recipe(path, parse_variables(given, declared_variables(path)), size)
        except FAEError as error:
            return [str(error)]
    return []


def _commands() -> dict[str, Any]:
    from fae_core.commands.groups import every_command
    from fae_core.plugins import load_plugins

    key = tuple(load_plugins("fae.commands"))  # an example's package may join and leave
    if key not in _SEEN:
        _SEEN[key] = every_command()
    return _SEEN[key]
