"""Building a model of a configuration, with initial weights that a seed fixes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def random_state_kept() -> Iterator[list[torch.device]]:
    """After it the global generators of the CPU and of torch's default device are as they were before.

    Yields:
        The default device, in a list, if it is a GPU; else an empty list.
    """
    import torch

    device = torch.get_default_device()
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpu):
        yield gpu


def seeded(seed: int, build: Callable[[], ModelT]) -> ModelT:
    """The model that `build()` makes, with initial weights fixed by a seed; the global generators stay as they were."""
    import torch

    with random_state_kept() as gpu:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
        for each in gpu:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        return built("model settings", build)
