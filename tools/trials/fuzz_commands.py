"""Drive every command with wrong options, settings and files, and count what comes back: success, one line, or a
defect.

    python tools/trials/fuzz.py --commands --cases 3000 --out runs/fuzz

Commands and options are found in the command line itself, so that a new one is covered without a word here; BASES says
how a command is called where everything is right. A case is such a call with one or two options changed, or with one of
the files that it reads damaged: cut off, of another type, encoding or size, a pipe, a folder, with single values
replaced. A defect is whatever is neither success nor one line with status 2: a traceback, a warning instead of an
error, more memory than the limit, more time than the limit, or an output left behind by a command that was refused.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fuzz_calls import BASES, MADE, NUMBERS, RESUMED, VALUES, filled, make_inputs
from fuzz_damage import TYPES, copied_and_damaged, damaged

from fae_core.cli.main import main
from fae_core.commands.groups import every_command

MEMORY = 12 * 2**30  # address space of this process
SECONDS = 30.0  # that one command may take
ENDLESS = {"explore"}  # commands that end when they are interrupted; tests/test_startup.py has their mistakes


@dataclass
class Outcome:
    """How a case ended: "succeeded", "refused" or "defect", and why that."""

    kind: str
    why: str = ""
    seconds: float = 0.0


@dataclass
class Tally:
    """What all cases came to, and those that are defects."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    slowest: float = 0.0


class _Late(BaseException):
    """The command took longer than it may."""


def run(arguments: list[str]) -> Outcome:
    """One command in this process."""
    printed, complained = io.StringIO(), io.StringIO()

    over: list[str] = []

    def late(_: int, frame: Any) -> None:
        places = traceback.extract_stack(frame)[-12:]
        over.append(" < ".join(f"{Path(place.filename).name}:{place.lineno}" for place in reversed(places)))
        raise _Late

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    started = time.monotonic()
    status: Any = None
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
            main(arguments)
    except SystemExit as stop:
        status = stop.code
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    status = f"later than it may be, in {over[0]}" if over else status
    return Outcome(*_judged(status, printed.getvalue(), complained.getvalue()), time.monotonic() - started)


def _judged(status: Any, printed: str, complained: str) -> tuple[str, str]:
    lines = complained.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if "secret@" in printed + complained or "sig=secret" in printed + complained:
        return "defect", "a secret was printed"
    if status == 0 and "Traceback" not in complained:
        return "succeeded", ""
    if status == 2 and len(errors) == 1 and lines[-1] == errors[0] and "Traceback" not in complained:
        if "out of memory" in errors[0]:
            return "defect", errors[0]
        return "refused", errors[0]
    said = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Warning)\b", line)] or lines[-1:]
    return "defect", f"status {status}: {' | '.join([*lines[-5:-1], *said[-2:]])[-1500:]}"


def cases(
    chance: random.Random, world: Path, out: Path
) -> Iterator[tuple[str, list[str], Callable[[], Callable[[], None]]]]:
    """Without end: a name, arguments, and what to do before, which returns what to do afterwards."""
    known = {words: command for words, command in every_command().items() if words not in ENDLESS}
    # Every option of every command once, then whatever comes.
    queue = [(words, parameter) for words, command in known.items() for parameter in command.params]
    chance.shuffle(queue)
    files = sorted(path for path in world.rglob("*") if path.is_file() and not path.is_symlink())
    while True:
        kind = chance.random()
        if kind < 0.55:
            words, parameter = queue.pop() if queue else _any_option(chance, known)
            yield (
                f"option {parameter.opts[0]} of {words}",
                _with_option(chance, words, known, parameter, world, out),
                _nothing,
            )
        elif kind < 0.7:
            words = chance.choice([name for name in BASES if name.startswith("train ")])
            setting = f"{chance.choice(_settings(world, words))}={json.dumps(chance.choice(TYPES), ensure_ascii=False)}"
            yield f"setting of {words}", [*words.split(), *filled(BASES[words], world, out), "--set", setting], _nothing
        elif kind < 0.85:
            words = chance.choice(list(RESUMED))
            source, call = RESUMED[words]
            arguments = [*words.split(), *filled(call, world, out)]
            yield (
                f"file in the output of {words}",
                arguments,
                lambda s=source: copied_and_damaged(chance, world / s, out),
            )
        else:
            file = chance.choice(files)
            top = f"{{w}}/{file.relative_to(world).parts[0]}"
            readers = [
                name
                for name, base in BASES.items()
                if top in base.replace("=", " ").split() or f"{top}/a" in base.split()
            ]
            if readers:
                words = chance.choice(readers)
                arguments = [*words.split(), *filled(BASES[words], world, out)]
                yield f"file read by {words}", arguments, lambda f=file: damaged(chance, f)


def _any_option(chance: random.Random, known: dict[str, Any]) -> tuple[str, Any]:
    words = chance.choice(list(known))
    return words, chance.choice(known[words].params)


def _with_option(
    chance: random.Random, words: str, known: dict[str, Any], parameter: Any, world: Path, out: Path
) -> list[str]:
    """The command's own call with an option, or a positional argument, of some value; at times with a second one."""
    arguments = filled(BASES[words], world, out) if words in BASES else []
    if words not in BASES:
        for needed in known[words].params:
            if needed.required and needed is not parameter:
                value = str(out) if needed.name == "out" else _value(chance, world)
                arguments += [value] if not needed.opts[0].startswith("-") else [f"{needed.opts[0]}={value}"]
    chosen = [parameter] + ([chance.choice(known[words].params)] if chance.random() < 0.2 else [])
    for one in chosen:
        name = chance.choice([*one.opts, *one.secondary_opts])
        if not name.startswith("-"):
            places = [place for place, word in enumerate(arguments) if str(world) in word and not word.startswith("-")]
            arguments[places[0] if places else 0 : places[0] + 1 if places else 0] = [_value(chance, world)]
        elif one.is_flag:
            arguments.append(name)
        elif name == "--processes":  # the processes of torchrun are another test's
            arguments.append(f"{name}={chance.choice(('0', '-1', 'x', '1', '9' * 20))}")
        else:
            number = isinstance(one.default, int | float) or getattr(one, "min", None) is not None
            value = chance.choice(NUMBERS) if number and chance.random() < 0.7 else _value(chance, world)
            value = value.replace("2147483648", "2") if name == "--steps" else value  # which takes long, rightly
            arguments.append(f"{name}={value}")
    return [*words.split(), *arguments]


def _value(chance: random.Random, world: Path) -> str:
    return chance.choice(VALUES).replace("{w}", str(world))


def _settings(world: Path, words: str) -> list[str]:
    """Dotted names of what the run of a command has recorded, and some that do not exist."""
    stored = yaml.safe_load((world / words.split()[1] / "config.yaml").read_text()) if words != "train flow" else {}
    found = [
        "trainig.steps",
        "training.stesp",
        "model.x.y",
        "model",
        "training",
        "preview",
        "preview.decoder",
        "model_type",
    ]

    def walk(value: Any, prefix: str) -> None:
        for key, item in value.items() if isinstance(value, dict) else ():
            if key not in ("compile", "steps"):  # take long, rightly
                found.append(f"{prefix}{key}")
            walk(item, f"{prefix}{key}.")

    walk({key: value for key, value in stored.items() if isinstance(value, dict)}, "")
    return found


def _nothing() -> Callable[[], None]:
    return lambda: None


def fuzz(folder: Path, seed: int, most_cases: int, most_seconds: float) -> Tally:
    """Try cases until there are enough or the time is over, whichever comes first."""
    # `fae` is run from here; what a relative name makes must not lie about.
    folder = folder.resolve()
    shutil.rmtree(folder / "world", ignore_errors=True)
    world, here, tally = folder / "world", Path.cwd(), Tally()
    world.mkdir(parents=True)
    make_inputs(world)
    for words, name in MADE:
        found = run([*words.split(), *filled(BASES[words], world, world / name)])
        if found.kind != "succeeded":
            raise SystemExit(f"the inputs cannot be made: fae {words}: {found.why}")
    pristine, listed = folder / "pristine", _listing(world)
    shutil.rmtree(pristine, ignore_errors=True)
    _copied(world, pristine)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    scratch = folder / "scratch"
    started, chance = time.monotonic(), random.Random(seed)
    try:
        for number, (name, arguments, prepare) in enumerate(cases(chance, world, scratch / "out")):
            if number >= most_cases or time.monotonic() - started > most_seconds:
                break
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            os.chdir(scratch)
            restore = prepare()
            present = {path.name for path in scratch.iterdir()}
            found = run(arguments)
            restore()
            if _listing(world) != listed:  # a command was told to write there
                shutil.rmtree(world)
                _copied(pristine, world)
            left = {path.name for path in scratch.iterdir()} - present
            if found.kind == "refused" and any(_is_left(scratch / name) for name in left):
                found = Outcome("defect", f"left {sorted(left)[:3]} behind after {found.why}", found.seconds)
            tally.counts[name.split(" ")[0], found.kind] += 1
            tally.slowest = max(tally.slowest, found.seconds)
            if found.kind == "defect":
                tally.defects.append(
                    f"case {number}, {name}: fae {shlex.join(a[:200] for a in arguments)}\n    {found.why}"
                )
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        os.chdir(here)
    return tally


def _listing(world: Path) -> dict[Path, int]:
    """Every file of the inputs, and its size."""
    return {path: path.lstat().st_size for path in world.rglob("*") if not path.is_dir()}


def _copied(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    os.mkfifo(target / "pipe")


def _is_left(out: Path) -> bool:
    """Whether an output holds something, and is not one that has begun and that --resume would go on with."""
    inside = list(out.rglob("*"))
    begun = any(path.name in ("config.yaml", "steps.json", "samples.json", ".progress") for path in inside)
    return not begun and (not out.is_dir() or any(path.is_file() for path in inside))


def report(tally: Tally) -> str:
    """The counts as a table, and every defect."""
    lines = ["| what was wrong | cases | succeeded | refused in one line | defects |", "|---|---|---|---|---|"]
    for what in sorted({what for what, _ in tally.counts}):
        row = [tally.counts[what, kind] for kind in ("succeeded", "refused", "defect")]
        lines.append(f"| {what} | {sum(row):,} | {row[0]:,} | {row[1]:,} | {row[2]} |")
    return "\n".join([*lines, f"slowest: {tally.slowest:.1f} s", *tally.defects])
