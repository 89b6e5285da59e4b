"""Options that several commands share, as one object.

A command has a parameter whose annotation is a dataclass of options; typer sees the options one by one.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any


def spread(function: Callable[..., None], replaced: Mapping[str, Any] | None = None) -> Callable[..., None]:
    """The command that has the options of each object among a function's parameters, and its other parameters.

    Args:
        function: The command's own function.
        replaced: Annotations of options in place of those of the object's fields, by name.
    """
    own = inspect.signature(function, eval_str=True).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    options: dict[str, tuple[str, ...]] = {}  # of each object, by the parameter's name
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        kind = parameter.annotation
        if not is_dataclass(kind):
            parameters.append(parameter.replace(kind=keyword))
            continue
        hints = typing.get_type_hints(kind, include_extras=True) | dict(replaced or {})
        options[name] = tuple(field.name for field in fields(kind))
        for field in fields(kind):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            parameters.append(inspect.Parameter(field.name, keyword, default=default, annotation=hints[field.name]))
    parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)

    @functools.wraps(function)
    def command(**values: Any) -> None:
        objects = {
            name: own[name].annotation(**{field: values.pop(field) for field in names if field in values})
            for name, names in options.items()
        }
        function(**objects, **values)

    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del command.__wrapped__  # typer would read the function's own parameters there
    return command
