"""Building a model of a configuration, with initial weights that a seed fixes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from fae_core.errors import InvalidSettings, first_line

if TYPE_CHECKING:
    import torch

ModelT = TypeVar("ModelT")


def on_meta() -> bool:
    """Whether models are built without weights now, under torch.device("meta")."""
    torch = sys.modules.get("torch")  # without it no device was chosen, and settings are read without it
    return torch is not None and torch.get_default_device().type == "meta"


def built(where: str, build: Callable[[], ModelT]) -> ModelT:
    """The model that `build()` makes of a configuration.

    Args:
        where: What the error message calls the configuration.
        build: Makes the model.

    Raises:
        InvalidSettings: Where torch cannot make a model of these sizes.
    """
    import torch

    try:
        return build()
    except torch.OutOfMemoryError:  # of a GPU, which is reported elsewhere
        raise
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, TypeError) and "Overflow" not in str(error):  # torch raises one for a huge number
            raise
        raise InvalidSettings(f"{where}: no model of these sizes can be made: {first_line(error)[:200]}") from error


class _SinglePrecision:
    """Within it models are built in fp32; what else was torch's default dtype comes back when the last thread leaves.

    Torch has one default dtype for all threads: where it is another one, what they make meanwhile is fp32, too.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._other: torch.dtype | None = None

    def __enter__(self) -> None:
        import torch

        with self._lock:
            self._inside += 1
            if torch.get_default_dtype() != torch.float32:
                self._other = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)

    def __exit__(self, *_: object) -> None:
        import torch

        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._other is not None:
                torch.set_default_dtype(self._other)
                self._other = None


single_precision = _SinglePrecision()


def seeded(seed: int, build: Callable[[], ModelT]) -> ModelT:
    """The model that `build()` makes, with initial weights fixed by a seed; the global generators have no part in it.

    Args:
        seed: Of the numbers that `build` draws without a generator.
        build: Makes the model.

    Raises:
        InvalidSettings: As `built`.
    """
    from fae_core.models.own_generators import OwnGenerators

    with OwnGenerators(seed):
        return built("model settings", build)
