"""Names of a package whose modules are imported when a name is first used, so that importing the package is light.

A package writes its names once, as a type checker reads them:

    if TYPE_CHECKING:
        from package.module import Name as Name

    _names, __getattr__, __dir__ = lazy_names(__name__)
    __all__ = [*_names]
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """The names of a package, and its `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: Its name, `__name__` there. Its names are those that it imports `as` themselves under TYPE_CHECKING.

    Returns:
        The names, in order, and the two functions, to be assigned to their names in the package.
    """
    homes = _declared(package)

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = importlib.import_module(f"{package}.{name}" if home == package else home)
        value = module if home == package else getattr(module, name)
        setattr(sys.modules[package], name, value)  # later uses do not come here
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return sorted(homes), find, listed


def _declared(package: str) -> dict[str, str]:
    """The module of each name, out of the package's source; the package itself where the name is one of its modules."""
    spec: Any = sys.modules[package].__spec__
    homes = {}
    for block in ast.parse(spec.loader.get_source(package)).body:
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING":
            for line in block.body:
                if isinstance(line, ast.ImportFrom) and line.module is not None:
                    homes |= {one.name: line.module for one in line.names if one.asname == one.name}
    return homes
