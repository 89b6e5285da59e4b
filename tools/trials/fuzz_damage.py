"""Ways to damage a file: other bytes, other values in a document, no file at all. For fuzz_commands.py."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

TYPES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -1e308, "", "x", "1", "../x", "a\nb", "é☃", "x" * 3000,
    [], [1], [[]], ["x", None], {}, {"x": 1}, [0] * 50,
)  # fmt: skip


def copied_and_damaged(chance: random.Random, source: Path, out: Path) -> Callable[[], None]:
    shutil.copytree(source, out, symlinks=True)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    texts = [path for path in files if path.suffix in (".json", ".yaml", ".jsonl", ".npy")]
    damaged(chance, chance.choice(texts if texts and chance.random() < 0.8 else files))
    return lambda: None


def damaged(chance: random.Random, file: Path) -> Callable[[], None]:
    """Damage a file in place; the result puts it back."""
    before = file.read_bytes()

    def restore() -> None:
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(before)

    kind = chance.randrange(12)
    if kind == 0:
        file.unlink()
        if chance.random() < 0.7:
            chance.choice((os.mkfifo, os.mkdir, lambda path: Path(path).symlink_to(path)))(file)
    elif kind <= 8 and file.suffix in (".json", ".yaml", ".jsonl"):
        file.write_text(_other_values(chance, before.decode(), file.suffix), encoding="utf-8")
    else:
        file.write_bytes(_other_bytes(chance, before))
    return restore


def _other_values(chance: random.Random, text: str, suffix: str) -> str:
    """A document with one to three of its values replaced, removed, added or written twice."""
    if suffix == ".jsonl":
        lines = text.splitlines()
        place = chance.randrange(len(lines))
        lines[place] = _other_values(chance, lines[place], ".json")
        return "\n".join(lines) + "\n"
    value = yaml.safe_load(text) if suffix == ".yaml" else json.loads(text)
    for _ in range(chance.randint(1, 3)):
        value = _replaced(chance, value)
    written = yaml.safe_dump(value) if suffix == ".yaml" else json.dumps(value)
    return written.replace('"x"', chance.choice(('"x"', '"\\ud800"', "1e999", "NaN", "9" * 5000)), 1)


def _replaced(chance: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, f"{key}x": value[key]}
            case _:
                return {**value, key: _replaced(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], _replaced(chance, value[place]), *value[place + 1 :]]
    return chance.choice(TYPES)


def _other_bytes(chance: random.Random, data: bytes) -> bytes:
    match chance.randrange(10):
        case 0:
            return b""
        case 1:
            return data[: chance.randrange(len(data) + 1)]
        case 2:
            return b"\xef\xbb\xbf" + data
        case 3:
            return data.decode("latin-1").encode("utf-16")
        case 4:
            return b"\0" * min(len(data), 1000)
        case 5:
            return b"[" * 100_000
        case 6:
            return b'{"a": ' + b"1" * 5000 + b"}"
        case 7:
            return data + b"\xff\xfe"
        case 8:
            return b"- []\n" * 50_000
        case _:
            place = chance.randrange(len(data) + 1)
            return data[:place] + chance.randbytes(chance.randint(1, 8)) + data[place + chance.randint(0, 8) :]
