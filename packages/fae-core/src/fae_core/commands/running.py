"""The `fae` command that is running: the files that it reads, and the command that continues it."""

from __future__ import annotations

import contextvars
import glob
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fae_core.documents import read_yaml
from fae_core.errors import DataError, FAEError, InvalidFile
from fae_core.folders import RUN_ARGUMENTS, RUN_CONFIG
from fae_core.places import expand, is_pattern, is_remote, split_slice
from fae_core.redact import redact

# What follows `fae` in the command that is running in this context; `command_in_force` sets it.
arguments_in_force: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("fae_arguments", default=())
_held: contextvars.ContextVar[ExitStack | None] = contextvars.ContextVar("fae_held", default=None)
_GROUPS = ("train", "import", "eval", "presets")
_PLACES = (
    *("--latents", "--data", "--tokenizer", "--features", "--autoencoder", "--init", "--encoder", "--weights"),
    *("--config", "--text-cache", "--reference", "--survey"),
)
_NO_INPUT = (
    "--out",
    "--preset",
    "--labels",
    "--split",
    "--sampling",
    "--device",
    "--size",
    "--seed",
    "--track",
    "--steps",
    "--batch-size",
    "--count",
    "--stage",
    "--caption-template",
    "--title",
)
_OF_ONE_CALL = ("--out", "--resume", "--overwrite", "--device", "--processes", "--json", "--quiet")
OF_TRAINING = ("steps", "batch_size", "seed", "track")  # settings of the section `training` that are options, too
LAUNCHED = "FAE_LAUNCHED"  # in the environment of the processes that --processes N starts


@contextmanager
def command_in_force(words: Sequence[str]) -> Iterator[None]:
    """A block in which a command runs. It may be one within another, such as a recipe's step.

    Args:
        words: What follows `fae`.
    """
    with ExitStack() as held:
        command, own = arguments_in_force.set(tuple(words)), _held.set(held)
        try:
            yield
        finally:
            arguments_in_force.reset(command)
            _held.reset(own)


def until_command_ends(held: AbstractContextManager[Any]) -> None:
    """Enter a context that the running command leaves when it ends; without a command, nothing is entered."""
    stack = _held.get()
    if stack is not None:
        stack.enter_context(held)


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def inputs_in_force() -> list[Path]:
    """Existing files and folders that the command names, except what follows --out; of a pattern its files."""
    return [path for _, _, files in _inputs(arguments_in_force.get()) for path in files]


def with_absolute_inputs(words: Sequence[str]) -> list[str]:
    """A command with absolute paths in place of those that name existing files and folders, except what follows --out.

    Args:
        words: What follows `fae`.
    """
    found = list(words)
    for place, before, files in _inputs(words):
        if files and found[place] == words[place]:
            found[place] = before + os.path.abspath(words[place][len(before) :])  # noqa: PTH100 (of a pattern, too)
    return found


def require_separate_output() -> None:
    """Check that the command's --out is no file that it reads.

    Raises:
        FAEError: It is one.
    """
    outputs = [out for word in outputs_of(arguments_in_force.get()) for out in _existing(word)]
    for out in filter(Path.is_file, outputs):
        for given in inputs_in_force():
            if given.exists() and given.samefile(out):
                raise FAEError(f"--out {out} is a file that this command reads; give another one")


def command_line(name: str, *arguments: object, **options: object) -> str:
    """A command to run next, as one types it, without secrets.

    Args:
        name: the command, such as "train pixel".
        arguments: what follows it without the name of an option.
        options: by name, with "_" for "-"; None and False are left out, True is an option without a value, and a tuple
            gives the option once for each value.
    """
    parts = ["fae", *name.split(), *map(str, arguments)]
    for option, given in options.items():
        for value in given if isinstance(given, tuple) else (given,):
            if value is not None and value is not False:
                parts += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    return redact(shlex.join(parts))


def command_to_go_on() -> str:
    """The command that continues this one, without secrets; from Python, the argument to give."""
    words = [word for word in arguments_in_force.get() if word not in ("--overwrite", "--resume")]
    if not words:
        return "resume=True"
    if LAUNCHED in os.environ:
        words += ["--processes", os.environ["WORLD_SIZE"]]
    return redact(shlex.join(["fae", *words, "--resume"]))


def recorded_arguments() -> list[str]:
    """What a run records of its command, so that `--resume` alone can continue it; options of one call are left out."""
    words = arguments_in_force.get()
    kept = list(words[:2])
    for option, value in _lasting(words[2:]):
        if value is None:
            kept += [redact(option)]
        elif option in _PLACES and _files_named(value):
            kept += [option, str(Path(value).absolute())]
        else:
            kept += [option, redact(value)]
    return kept


def resumed_arguments(words: Sequence[str]) -> list[str]:
    """The words of a command; of `fae train ... --resume` with those that its run recorded.

    Its own options replace recorded ones, all values of one that can be repeated. Nothing is added to a command that
    names a preset or a configuration.

    Args:
        words: What follows `fae`.

    Raises:
        FAEError: The record lacks a secret that was not given again.
    """
    words, given = list(words), dict(_options(words[2:]))
    alone = words[:1] == ["train"] and "--resume" in given and not given.keys() & {"--preset", "--config"}
    if not alone or LAUNCHED in os.environ:
        return words
    before: Any = []
    with suppress(FAEError):
        before = read_yaml(Path(given.get("--out") or "") / RUN_CONFIG).get(RUN_ARGUMENTS)
    if not isinstance(before, list) or not all(isinstance(word, str) for word in before) or before[:2] != words[:2]:
        return words
    own = list(_options(words[2:]))
    replaced = {_setting(*pair) for pair in own}
    recorded = [pair for pair in _lasting(before[2:]) if _setting(*pair) not in replaced]
    hidden = next((option for option, value in recorded if value and "***" in value), None)
    if hidden is not None:
        raise FAEError(f"give {hidden} again: the run recorded it without its secrets")
    return [*words[:2], *(word for pair in [*recorded, *own] for word in pair if word is not None)]


def _setting(option: str, value: str | None) -> str:
    """The setting that an option gives, with --set or by a name of its own; other options as they are."""
    if option == "--set":
        return (value or "").partition("=")[0].strip()
    name = option.removeprefix("--").replace("-", "_")
    return f"training.{name}" if name in OF_TRAINING else option


def recorded_options(run: str | Path) -> dict[str, list[str]]:
    """The options of the command that trained a run: by name, every value that was given; [] for one without values.

    Raises:
        InvalidFile: The run does not record its command, as runs made from Python or by earlier versions do not.
    """
    words = read_yaml(Path(run) / RUN_CONFIG).get(RUN_ARGUMENTS)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidFile(f"{run} does not record the command that trained it")
    found: dict[str, list[str]] = {}
    for option, value in _options(words[2:]):
        found.setdefault(option, []).extend([] if value is None else [value])
    return found


def recorded_place(run: str | Path, typed: object, option: str) -> str | None:
    """Where a run found something that it read, whatever the working directory is now.

    Args:
        run: Its folder.
        typed: The place as its config.yaml has it, which may be relative to where the command was run.
        option: Of the command that was given the place, such as "--latents".

    Returns:
        The place as it was typed, or as the command's record has it where that alone exists; None: `typed` is no text.
    """
    if not isinstance(typed, str):
        return None
    recorded: list[str] = []
    if not Path(typed).exists():
        with suppress(InvalidFile):  # a run made from Python
            recorded = recorded_options(run).get(option, [])
    return next((place for place in recorded if Path(place).exists()), typed)


def outputs_of(words: Sequence[str]) -> list[str]:
    """The values of --out in a command's words."""
    return [value for option, value in _options(words) if option == "--out" and value is not None]


def _inputs(words: Sequence[str]) -> Iterator[tuple[int, str, list[Path]]]:
    """The parts of a command that may name what it reads: number of the word, what comes before the part, its files."""
    previous = ""
    for place in range(2 if words[:1] and words[0] in _GROUPS else 1, len(words)):
        word = words[place]
        option, equals, value = word.partition("=")
        if previous not in _NO_INPUT and not (option in _NO_INPUT and equals):
            # A list or a mapping that --set gives, such as [0.9,0.95], is no pattern.
            named = _existing if "--set" in (previous, option) else _files_named
            for part in filter(None, dict.fromkeys((word, value))):
                yield place, word.removesuffix(part), named(part)
        previous = word


def _lasting(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The options of a command, with their values, that hold for later calls, too."""
    return ((option, value) for option, value in _options(words) if option not in _OF_ONE_CALL)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each option with its value; None for one that has none."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            yield option, value
        elif word.startswith("--") and rest and not rest[0].startswith("--"):
            yield word, rest.pop(0)
        else:
            yield word, None


def _existing(word: str) -> list[Path]:
    """The existing path that a word is, alone in a list; an empty one where it is none."""
    try:
        return [Path(word)] if os.path.lexists(word) else []
    except ValueError:
        return []


def _files_named(word: str) -> list[Path]:
    """The existing path that a word is, without a slice too, or those that it means as a pattern, such as `*.json`."""
    name, _ = split_slice(word)
    if found := _existing(name):
        return found
    if is_pattern(name):
        with suppress(DataError):
            return [] if is_remote(name) else [path for part in expand(name) for path in _existing(part)]
    try:
        # Path.glob takes no absolute pattern.
        return [Path(path) for path in glob.iglob(word)] if glob.has_magic(word) else []  # noqa: PTH207
    except ValueError:
        return []
