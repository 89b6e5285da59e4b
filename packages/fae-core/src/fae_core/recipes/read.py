"""Recipes: a YAML list of `fae` commands that together are one experiment.

    title: ...
    variables: {data: photographs}
    steps:
      - {name: crops, run: "crops {data} --out {out}/data"}
      - {name: diffusion, run: "train diffusion --latents {out}/latents --out {out}/diffusion", resumable: true}

`{out}` is the folder of the whole experiment. A step with `for` stands for one step per combination, the last name
changing fastest; a value may have options of its own, which `{NAME_options}` stands for:

      - name: "{rung}-{seed}"
        for: {rung: {sit: --set model.rope=false, lightningdit: ""}, seed: [0, 1, 2]}
        run: "train diffusion --latents {out}/latents --out {out}/{rung}-{seed} --seed {seed} {rung_options}"

The values may be a variable's, a list or a mapping, so that a call can give others; several texts of one value have
names, `{NAME_key}`, of which those that a value lacks are empty:

    variables: {spaces: {fae: runs/fae, features: {options: runs/direct, train: --set model.transport.shift=1.66}}}
    steps:
      - name: "{space}"
        for: {space: "{spaces}"}
        run: "train diffusion --latents {out}/{space} {space_train} --out {out}/{space}-run"

`sizes` names sets of variables, so that one recipe serves a test, a CPU and a GPU (`fae run RECIPE --size gpu`):

    sizes: {smoke: {steps: 2}, gpu: {steps: 50000, preset: lightningdit-cifar10}}

A variable whose value is a list stands for as many arguments, none for []; `{NAME}` is then a word of its own:

    variables: {small: []}
    sizes: {paper: {}, smoke: {small: [--steps, 2, --set, model.width=64]}}
    steps:
      - {name: diffusion, run: "train diffusion --preset lightningdit-xl {small} --out {out}/diffusion"}
"""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from fae_core.errors import FAEError, UnknownName, install_command, nearest, require_known
from fae_core.files import read_yaml
from fae_core.plugins import load_plugins

_KEYS = ("title", "description", "variables", "sizes", "steps")
_STEP_KEYS = ("name", "run", "for", "resumable")
_MOST_STEPS = 10_000

Value = str | list[str] | dict[str, dict[str, str]]
_OPTIONS = "options"  # the key that a text alone stands for


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: Name of the step.
        run: The command after `fae`, with variables in braces.
        resumable: A second attempt is made with --resume; of other steps with --overwrite.
    """

    name: str
    run: str
    resumable: bool = False


@dataclass(frozen=True)
class Recipe:
    """A validated recipe, whose variables are filled in by `command`.

    Attributes:
        title: Title of the experiment.
        variables: Values by name; a list stands for as many arguments, a mapping for the values of a `for`.
        steps: In the order of the recipe.
    """

    title: str
    variables: dict[str, Value]
    steps: tuple[Step, ...]

    def command(self, step: Step, out: Path) -> list[str]:
        """The arguments after `fae`; a value with blanks stays one argument, a list becomes one for each of its items.

        Args:
            step: One of the recipe's.
            out: Folder of the experiment.

        Raises:
            FAEError: The step names an unknown variable or a list inside a word, its quotes or braces do not close, or
                there is no command.
        """
        values = {**self.variables, "out": str(out)}
        command = [argument for word in _words(step) for argument in _arguments(word, values, step)]
        if not command:
            raise FAEError(f"step {step.name} has no command")
        return command

    def check_commands(self) -> None:
        """Check that every step's command is installed.

        Raises:
            FAEError: One is not; names the packages to install.
        """
        from fae_core.commands.groups import providers

        missing: dict[str, tuple[str, ...]] = {}
        for step in self.steps:
            words = _words(step)
            if not {words[0], ".".join(words[:2])} & load_plugins("fae.commands").keys():
                missing[" ".join(words[:2])] = providers(words)
        if missing:
            wanted = sorted({package for packages in missing.values() for package in packages})
            how = install_command(*wanted) if wanted else "no package of this project has them"
            raise FAEError(f"this recipe needs commands that are not installed ({', '.join(missing)}): {how}")


def declared_variables(path: Path) -> dict[str, Any]:
    """The variables of a recipe by name, as its file has them; errors as those of `load_recipe`."""
    return _mapping(read_yaml(path), "variables", path)


def load_recipe(path: Path, overrides: dict[str, Any] | None = None, size: str | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: Path of the YAML file.
        overrides: Variables to replace.
        size: One of the recipe's sets of variables.

    Raises:
        InvalidFile: The file cannot be read.
        UnknownName: A key, variable or size that the recipe does not have.
        FAEError: The recipe is not valid; one line.
    """
    content = read_yaml(path)
    require_known("key in a recipe", content, _KEYS)
    variables = {str(name): _value(name, value) for name, value in _mapping(content, "variables", path).items()}
    sizes = _mapping(content, "sizes", path)
    if size is not None and size not in sizes:
        raise UnknownName("size of the recipe", size, map(str, sizes))
    for changes in (_mapping(sizes, size, path) if size is not None else {}, overrides or {}):
        for name, value in changes.items():
            if name not in variables:
                raise UnknownName("variable of the recipe", str(name), variables)
            variables[name] = _with_keys_of(variables[name], _value(name, value))
    entries = content.get("steps") or []
    if not isinstance(entries, list):
        raise FAEError(f"{path}: steps must be a list")
    steps = tuple(step for entry in entries for step in _steps(entry, variables, path))
    if not steps:
        raise FAEError(f"{path} has no steps")
    names = [step.name for step in steps]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FAEError(
            f"{path} has two steps named {twice!r}, which --resume could not tell apart; a step with `for` needs each "
            "of its names in {} in its own"
        )
    return Recipe(str(content.get("title", path.stem)), variables, steps)


def _words(step: Step) -> list[str]:
    """A step's command, split as a shell does; raises FAEError where quotes do not close or it is empty."""
    try:
        words = shlex.split(step.run)
    except ValueError as error:
        raise FAEError(f"step {step.name}: {str(error).lower()} in {step.run[:60]!r}") from None
    if not words:
        raise FAEError(f"step {step.name} has no command")
    return words


def _value(name: Any, value: Any) -> Value:
    """A variable's value as text, a list of texts, or texts by name; raises FAEError for lists of anything else."""
    if isinstance(value, dict):
        return _named_texts(f"variable {name}", value)
    if not isinstance(value, list):
        return _text(value)
    if not all(isinstance(item, str | int | float | None) for item in value):
        raise FAEError(f"variable {name}: a list holds the arguments that it stands for, not lists or mappings")
    return [_text(item) for item in value]


def _named_texts(what: str, values: dict[Any, Any]) -> dict[str, dict[str, str]]:
    """A mapping as texts by name, the same names for each value; raises FAEError for deeper ones."""
    named = {str(key): one if isinstance(one, dict) else {_OPTIONS: one} for key, one in values.items()}
    keys = dict.fromkeys([_OPTIONS, *(str(key) for one in named.values() for key in one)])
    if any(isinstance(text, dict | list) for one in named.values() for text in one.values()):
        raise FAEError(f"{what}: a value is a text, or a mapping from names to texts")
    texts = {
        value: {str(key): "" if text is None else _text(text) for key, text in one.items()}
        for value, one in named.items()
    }
    return {value: {key: one.get(key, "") for key in keys} for value, one in texts.items()}


def _with_keys_of(before: Value, after: Value) -> Value:
    """A mapping that replaces another, with all names of texts that the recipe's commands may use."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    keys = dict.fromkeys(key for one in before.values() for key in one)
    return {value: {**dict.fromkeys(keys, ""), **one} for value, one in after.items()}


def _text(value: Any) -> str:
    """A value as --set reads it back: null, true and false are words of YAML, not of Python."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _arguments(word: str, values: dict[str, Value], step: Step) -> list[str]:
    """What a word of a command stands for: the items of a list, or one argument."""
    named = values.get(word[1:-1]) if word.startswith("{") and word.endswith("}") else None
    return named if isinstance(named, list) else [_filled(word, values, step)]


def _filled(part: str, values: dict[str, Value], step: Step) -> str:
    """A word with `{name}` replaced.

    Raises FAEError for unknown names, for lists, and for formats, whose width has no limit.
    """
    try:
        fields = list(Formatter().parse(part))
    except ValueError as error:
        raise FAEError(f"step {step.name}: {error} in {part[:60]!r}; {{{{ and }}}} stand for braces") from None
    filled = []
    for text, name, form, conversion in fields:
        filled.append(text)
        if name is None:
            continue
        if name not in values or form or conversion:
            raise FAEError(f"step {step.name}: {name!r} is not a variable of the recipe")
        value = values[name]
        if isinstance(value, dict):
            raise FAEError(f"step {step.name}: {{{name}}} has several values; take it in `for`")
        if isinstance(value, list):
            raise FAEError(f"step {step.name}: {{{name}}} stands for several arguments; make it a word of its own")
        filled.append(value)
    return "".join(filled)


def _steps(entry: Any, variables: dict[str, Value], path: Path) -> list[Step]:
    """The steps that an entry of a recipe stands for."""
    unknown = [key for key in entry if key not in _STEP_KEYS] if isinstance(entry, dict) else []
    if not isinstance(entry, dict) or unknown or not {"name", "run"} <= entry.keys():
        wrong = f", not {unknown[0]!r}; {nearest(unknown[0], _STEP_KEYS)}" if unknown else ""
        raise FAEError(
            f"{path}: a step is a mapping with name, run and, where it applies, for: {{NAME: values}} and resumable: "
            f"true (it can go on after an interruption){wrong}"
        )
    axes = [_axis(str(name), values, variables, path) for name, values in _mapping(entry, "for", path).items()]
    if sum(1 for _ in itertools.islice(itertools.product(*axes), _MOST_STEPS + 1)) > _MOST_STEPS:
        raise FAEError(f"{path}: {entry['name']} stands for more than {_MOST_STEPS} steps")
    resumable = entry.get("resumable", False)
    if not isinstance(resumable, bool):
        raise FAEError(f"{path}: resumable is true or false, not {str(resumable)[:40]!r}")
    found = []
    for combination in itertools.product(*axes):
        values = {name: text for part in combination for name, text in part.items()}
        found.append(Step(_expanded(str(entry["name"]), values), _expanded(str(entry["run"]), values), resumable))
    return found


def _axis(name: str, values: Any, variables: dict[str, Value], path: Path) -> list[dict[str, str]]:
    """One name of a `for`: for each value, what {name}, {name_options} and its other texts stand for."""
    named = re.fullmatch(r"\{(\w+)\}", values) if isinstance(values, str) else None
    values = variables.get(named[1]) if named else values
    if isinstance(values, list):
        values = dict.fromkeys(values, "") if all(isinstance(v, (str, int, float)) for v in values) else None
    if not isinstance(values, dict) or not values:
        what = f"the variable {named[1]} of for: {name}" if named else f"for: {name}"
        raise FAEError(f"{path}: {what} is a list of values, or a mapping from values to options")
    texts = _named_texts(f"{path}: for: {name}", values)
    return [{name: value, **{f"{name}_{key}": text for key, text in one.items()}} for value, one in texts.items()]


def _expanded(text: str, values: dict[str, str]) -> str:
    """The text with {name} replaced where `values` has it; other braces stay for the recipe's variables."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def _mapping(content: dict, key: Any, path: Path) -> dict:
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise FAEError(f"{path}: {key} must be a mapping")
    return found
