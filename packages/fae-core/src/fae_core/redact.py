"""Removing secrets from text that is stored or printed: records, logs, error messages, provenance.

Records are written by `fae_core.files.write_json`, the output of commands through `RedactedStream`; both use this.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

_HIDDEN = "***"
_ENDS = ":,;.)"  # behind an address they belong to the sentence
# Where a word may start; a search that starts at every letter of a long word would take quadratic time.
_START = r"(?<![\w.+%~-])"
# After a colon without a port, all text up to the last @ is a password, slashes included.
_ADDRESS = re.compile(
    _START + r"(?P<scheme>[a-zA-Z][\w+.-]*://)"
    r"(?P<user>[^\s/@:'\"]*:(?!\d{1,5}(?:[/?#\s]|$))[^\s'\"]*@|[^\s/?#'\"]*@)?"
    r"(?P<path>[^\s?#'\"]*)(?P<query>(?!#subdirectory=)[?#][^\s'\"]*)?"  # which pip needs
)
# user:password@host without a scheme; name@128 is a size, not a host.
_USER = re.compile(_START + r"(?P<user>[\w.%+~-]+:)(?!//)[^\s/'\"]+@(?=[\w\[])(?!\d+(?![\w.:-]))")
_SETTING = re.compile(r"(?<![\w.-])(?P<name>[\w.-]{1,80})(?P<sign>=)(?P<value>[^\s&'\"]+|'[^']*'|\"[^\"]*\")")
_NAMED = re.compile(
    r"(?i)(?<![a-z0-9])(?P<name>(?:proxy-)?authorization|x-[a-z-]*(?:token|key)|passw(?:or)?d|passphrase|secret[\w-]*|"
    r"api[_-]?key|access[_-]?key(?:[_-]?id)?)"
    r"(?P<sign>['\"]?\s*:\s*['\"]?)(?:(?P<kind>bearer|basic|token|digest)\s+)?[^\s'\"]+"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=*")
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:(?P<prefix>hf_|api_org_|gh[oprsu]_|github_pat_|glpat-|sk-|AIza|xox[abprs]-|AKIA|ASIA)[\w-]{16,}"
    r"|(?P<web>eyJ)[\w-]{8,}\.[\w-]+\.[\w-]*)"
)
# Names of a transformer's tokens, such as class_token, are no secrets.
_SECRET_NAME = re.compile(
    r"(?i)(?:(?<!class[._-])(?<!cls[._-])(?<!(?:pad|eos|bos|unk|sep)[._-])(?<!(?:text|mask|null)[._-])(?<!image[._-])"
    r"token|secret|passw(?:or)?d|passphrase|pwd|signature|credentials?|cookie|(?:^|[._-])(?:sig|auth|sas)|"
    r"(?:api|access|secret|session|account|private|encryption)[._-]?key(?:[._-]?id)?|authorization)$"
)


def redact(text: str) -> str:
    """The text with passwords, tokens, keys and signatures replaced by ***.

    These are the user part and the query of every address, `user:password@host` without a scheme, the value after a
    name such as token= or Authorization:, and words that look like tokens of known services.
    """
    if "://" in text:
        text = _ADDRESS.sub(_bare, text)
    if "@" in text:
        text = _USER.sub(rf"{_HIDDEN}@", text)
    if "=" in text:
        text = _SETTING.sub(_without_value, text)
    if ":" in text:
        text = _NAMED.sub(lambda found: f"{found['name']}{found['sign']}{_HIDDEN}", text)
    text = _BEARER.sub(rf"\1\2{_HIDDEN}", text)
    return _TOKENS.sub(lambda found: f"{found['prefix'] or found['web']}{_HIDDEN}", text)


def bare_address(address: str) -> tuple[str, str]:
    """An address without its user and its query, and the query with its "?" or "#".

    Args:
        address: the whole of it, such as "https://user:password@host/x.tar?signature=...".
    """
    found = _ADDRESS.search(address)
    start, end = (found.end("scheme"), found.end("user" if found["user"] else "scheme")) if found else (0, 0)
    path, *query = re.split(r"(?=[?#])", address[end:], maxsplit=1)
    return address[:start] + path, "".join(query)


def redact_values(value: Any) -> Any:
    """`redact` for every string inside mappings and lists; strings under the name of a secret are replaced whole."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {_redacted_key(key): _redacted_item(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    return value


class RedactedStream:
    """A text stream that redacts what it writes, with characters that its encoding lacks as \\u escapes.

    What is written to a terminal that was closed is dropped, so that the command that writes can save its work.

    Args:
        stream: The stream that it writes to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with self._unless_closed():
            self._stream.write(redact(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._unless_closed():
            self._stream.flush()

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(self._stream.fileno()).st_mode):
                raise
            with Path(os.devnull).open("wb") as nothing:  # what the stream still holds goes there at the end
                os.dup2(nothing.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _redacted_key(key: Any) -> Any:
    return redact(key) if isinstance(key, str) else key


def _redacted_item(key: Any, item: Any) -> Any:
    hide = isinstance(key, str) and isinstance(item, str) and item and _SECRET_NAME.search(key)
    if hide and re.search(r"(?i)[a-z][._-]token$", key) and item.isalpha() and len(item) < 16:
        hide = False  # a word, such as the kind of token that a network pools
    return _HIDDEN if hide else redact_values(item)


def _bare(found: re.Match[str]) -> str:
    user = f"{_HIDDEN}@" if found["user"] else ""
    query = found["query"] or ""
    if query:
        query = f"{query[0]}{_HIDDEN}{query[len(query.rstrip(_ENDS)) :]}"
    return f"{found['scheme']}{user}{found['path']}{query}"


def _without_value(found: re.Match[str]) -> str:
    return f"{found['name']}={_HIDDEN}" if _SECRET_NAME.search(found["name"]) else found[0]
