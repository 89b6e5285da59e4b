"""Prompts in a file, one per line."""

from __future__ import annotations

from pathlib import Path

from fae_core.errors import FAEError
from fae_core.images.captions import json_object, read_lines
from fae_core.redact import redact


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a file. Blank lines do not count.

    Args:
        path: a text file with one prompt per line, or a .jsonl with a "caption" in each line.

    Raises:
        FAEError: there are no prompts, a line of a .jsonl is something else, or a prompt holds a password or address.
    """
    prompts = tuple(
        _caption(line, f"{path}:{number}") if path.suffix == ".jsonl" else line for number, line in read_lines(path)
    )
    if not prompts:
        raise FAEError(f"{path} holds no prompts")
    for number, prompt in enumerate(prompts, 1):
        if redact(prompt) != prompt:  # samples.json says what each picture was drawn for
            raise FAEError(
                f"prompt {number} of {path} holds an address or a password, which samples.json must not; change it"
            )
    return prompts


def _caption(line: str, where: str) -> str:
    """The caption in a line of a .jsonl. Raises FAEError."""
    caption = json_object(line, where).get("caption")
    if not isinstance(caption, str):
        raise FAEError(f'{where}: every line must be a JSON object with a "caption"')
    return " ".join(caption.split())
