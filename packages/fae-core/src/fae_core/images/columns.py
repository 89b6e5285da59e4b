"""Which columns of a parquet file hold images, labels and captions: by Hugging Face's types and by usual names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fae_core.errors import DataError
from fae_core.images.captions import CAPTION_KEYS, CAPTIONS_KEY
from fae_core.images.classes import class_list

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")  # the last one and txt: of converted WebDatasets
_CAPTION_COLUMNS = (*CAPTION_KEYS, CAPTIONS_KEY, "txt")


@dataclass(frozen=True)
class Columns:
    """What a parquet file's columns are.

    Attributes:
        image: the column of images.
        label: the column of labels, if there is one.
        caption: the column of captions, if there is one.
        classes: class names from the description of the label column.
        notes: lines for the log about other columns that could have been meant.
    """

    image: str
    label: str | None
    caption: str | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def choose_columns(schema: Any, where: str) -> Columns:
    """The columns to read. Of several of a kind, the one with a usual name is taken, and a note says so.

    Args:
        schema: the file's, from arrow.
        where: what errors call the file.

    Raises:
        DataError: no column holds images, several of unusual names hold images or labels, or labels are no integers.
    """
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{where} has two columns called {next(n for n in schema.names if schema.names.count(n) > 1)}")
    features, notes = _features(schema.metadata), list[str]()

    def choose(kind: str, feature: str, names: Sequence[str], fits: Callable[[Any], bool]) -> str | None:
        """The column of a kind, by its Hugging Face type or its name, among those whose arrow type fits."""
        meant = [c for c in schema.names if c in names or (feature and features.get(c, {}).get("_type") == feature)]
        fitting = [column for column in meant if fits(schema.field(column).type)]
        usual = [name for name in names if name in fitting]
        if len(fitting) > 1 and not usual:
            raise DataError(
                f"{where} has several columns of {kind}: {_some(fitting)}; call the one to read {names[0]}, or remove "
                "the others"
            )
        chosen = (usual or fitting or [None])[0]
        if others := [column for column in meant if column != chosen]:
            notes.append(f"{where}: {kind} are read from {chosen or 'no column'}; {_some(others)} is left out")
        return chosen

    image = choose("pictures", "Image", _IMAGE_COLUMNS, _holds_bytes)
    if image is None:
        raise DataError(f"{where} has no column of encoded images called image or img; it has {_some(schema.names)}")
    label = choose("labels", "ClassLabel", _LABEL_COLUMNS, lambda kind: not _holds_things(kind))
    if label is not None and not _holds_integers(schema.field(label).type):
        raise DataError(
            f"{where}: the column {label} holds {str(schema.field(label).type)[:40]}, not indices of classes"
        )
    names = features.get(label, {}).get("names")
    if names is not None:
        if not isinstance(names, list):
            raise DataError(f"{where}: the class names of {label} are no list")
        class_list(names, where)
    caption = choose("captions", "", _CAPTION_COLUMNS, _holds_text)
    if label is None and caption is None and (others := [column for column in schema.names if column != image]):
        notes.append(
            f"{where}: images without labels and captions are read; {_some(others)} is left out (labels are integers "
            f"called {_LABEL_COLUMNS[0]}, captions strings called {_CAPTION_COLUMNS[0]})"
        )
    return Columns(image, label, caption, None if names is None else tuple(names), tuple(notes))


def _features(metadata: dict[bytes, bytes] | None) -> dict[str | None, dict[str, Any]]:
    """Hugging Face's description of the columns, {} where there is none."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return {k: v for k, v in features.items() if isinstance(v, dict)} if isinstance(features, dict) else {}


def _some(names: Sequence[str]) -> str:
    """A few names, for messages."""
    return ", ".join(str(name)[:40] for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _value(kind: Any) -> Any:
    """An arrow type, or what a dictionary type stands for."""
    import pyarrow

    return kind.value_type if pyarrow.types.is_dictionary(kind) else kind


def _is(kind: Any, *names: str) -> bool:
    """Whether a column's type is one of these of arrow's; not every version knows every name."""
    import pyarrow

    return any(getattr(pyarrow.types, f"is_{name}", lambda _: False)(_value(kind)) for name in names)


def _holds_bytes(kind: Any) -> bool:
    """Whether a column may hold encoded images."""
    if _is(kind, "struct"):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return _is(kind, "binary", "large_binary", "binary_view", "fixed_size_binary")


def _holds_text(kind: Any) -> bool:
    """Whether a column holds strings, or lists of them."""
    if _is(kind, "list", "large_list", "fixed_size_list"):
        return _holds_text(kind.value_type)
    return _is(kind, "string", "large_string", "string_view")


def _holds_integers(kind: Any) -> bool:
    """Whether a column holds integers, or nothing."""
    return _is(kind, "integer", "null")


def _holds_things(kind: Any) -> bool:
    """Whether a column holds images, masks or lists, as labels of other tasks than classification do."""
    return _holds_bytes(kind) or _is(kind, "struct", "list", "large_list", "fixed_size_list", "map")
