"""Progress of a study: what it is given to show it, and how it advances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from fae_core.progress import Bar

Progress = Callable[..., AbstractContextManager[Bar]]  # called as `fae_core.progress.progress` is


@contextmanager
def advancing(
    progress: Progress | None, total: int, description: str, *, enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of images that are done.

    Args:
        progress: shows it; None for no display.
        total: images in all.
        description: what is being done, in a few words.
        enabled: whether this process shows it.
    """
    if progress is None:
        yield lambda count: None
        return
    with progress(total, description, enabled=enabled) as bar:
        yield bar.advance
