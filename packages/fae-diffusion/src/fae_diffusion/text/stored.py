"""Whether a latent store has text to train on, by its index alone. torch is not imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fae_core.errors import DataError
from fae_core.files import read_json
from fae_core.folders import STORE_INDEX


def require_texts(folder: Path, template: str) -> None:
    """Check that the samples of a latent store have captions, or classes whose names a template makes captions of.

    Args:
        folder: The store's; one that is none is reported elsewhere.
        template: With one {} for a class's name.

    Raises:
        DataError: There is no text, or the template has another form.
    """
    if not (folder / STORE_INDEX).is_file():
        return
    plan: Any = read_json(folder / STORE_INDEX).get("plan")
    if not isinstance(plan, dict) or plan.get("captions"):
        return
    if not plan.get("labels") or plan.get("classes") is None:
        raise no_texts(folder)
    check_template(template)


def check_template(template: str) -> None:
    """Raise DataError unless a caption template has one {}."""
    if template.count("{}") != 1:
        raise DataError(f"a caption template has one {{}} for the class name, unlike {template!r}")


def no_texts(folder: Path) -> DataError:
    """The error about a store without text."""
    return DataError(f"{folder} has neither captions nor class names: there is no text to train on")
