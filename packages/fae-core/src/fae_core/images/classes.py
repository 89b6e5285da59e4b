"""Class names and labels in files beside images: classes.json, labels.json and dataset.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.errors import DataError, FAEError, InvalidFile, UnknownName
from fae_core.files import read_json, read_json_value
from fae_core.folders import IMAGE_CLASSES, IMAGE_DATASET, IMAGE_LABELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_LABEL = -1
_MOST_CLASSES = 2**31


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set.

    Attributes:
        names: class names in the order of the labels.
        index_of: the label of each key (folder name, id, name) under which a class may be looked up.
        where: what errors call the list.
    """

    names: list[str]
    index_of: dict[str, int]
    where: str

    def label(self, key: str, asked_by: str) -> int:
        """The label of a class.

        Args:
            key: its folder name, id or name.
            asked_by: what errors call the place that names it.

        Raises:
            DataError: the list does not have it.
        """
        if key not in self.index_of:
            raise DataError(f"{asked_by} has the class {key!r}, which {self.where} does not list")
        return self.index_of[key]


def read_classes(folder: Path) -> ClassList | None:
    """The classes.json of a folder: a list of names, or of {"index", "wnid", "name"}.

    Args:
        folder: where to look.

    Returns:
        The classes, or None where there is no such file.

    Raises:
        DataError: the file holds something else.
    """
    path = folder / IMAGE_CLASSES
    if not path.is_file():
        return None
    try:
        entries = read_json_value(path)
    except InvalidFile as error:
        raise DataError(str(error)) from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path} must hold a list of class names, or of objects with index, wnid and name")
    if all(isinstance(entry, str) for entry in entries):
        return class_list(entries, str(path))
    return _from_objects(entries, path)


def class_list(names: Sequence[str], where: str) -> ClassList:
    """Classes that are known by their names alone.

    Args:
        names: in the order of the labels.
        where: what errors call the list.

    Raises:
        DataError: a name is no text, or comes twice.
    """
    for name in names:
        if not isinstance(name, str) or not _is_utf8(name):
            raise DataError(f"{where} has the class name {ascii(name)[:60]}, which is no UTF-8 text")
    if len(set(names)) != len(names):
        raise DataError(f"{where} lists a class twice: {next(n for n in names if list(names).count(n) > 1)!r}")
    return ClassList(list(names), {name: index for index, name in enumerate(names)}, where)


def _is_utf8(name: str) -> bool:
    """Whether a name is not empty and can be written as UTF-8."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _from_objects(entries: list[Any], path: Path) -> ClassList:
    """The classes of a list of {"index", "wnid", "name"}. Raises DataError."""
    if not all(
        isinstance(e, dict)
        and type(e.get("index")) is int
        and (texts := [e[key] for key in ("wnid", "name") if key in e])
        and all(isinstance(text, str) for text in texts)
        for e in entries
    ):
        raise DataError(f"{path}: every entry needs an integer index and a wnid or name, which are text")
    entries = sorted(entries, key=lambda entry: entry["index"])
    if [entry["index"] for entry in entries] != list(range(len(entries))):
        raise DataError(f"{path}: the indices must be 0..{len(entries) - 1}, each once")
    # Names may repeat (ImageNet has two cranes), ids may not.
    by_id = class_list([str(entry.get("wnid", entry.get("name"))) for entry in entries], str(path)).index_of
    by_name = {str(entry["name"]): entry["index"] for entry in reversed(entries) if "name" in entry}
    return ClassList([str(e.get("name", e.get("wnid"))) for e in entries], {**by_name, **by_id}, str(path))


@dataclass(frozen=True)
class LabelFile:
    """A file that says of which class the images of a folder are.

    Attributes:
        path: the file.
        labels: label or class name by file name; None where it says that the images have none.
    """

    path: Path
    labels: dict[str, Any] | None

    def of(self, files: Sequence[str], classes: ClassList | None) -> list[int] | None:
        """The labels of images.

        Args:
            files: all images of the folder, by their paths in it.
            classes: the classes, where they are known.

        Returns:
            A label for each image, in order, or None where the file has none or all labels are -1.

        Raises:
            DataError: files and labels do not match, or a label is outside the classes.
        """
        if self.labels is None:
            return None
        known = self.labels
        for names, complaint in (
            (sorted(set(files) - known.keys()), "has no label for"),
            (sorted(known.keys() - set(files)), "labels images that do not exist:"),
        ):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise DataError(f"{self.path} {complaint} {names[0]}{more}")
        labels = [known[name] for name in files]
        if classes is not None:
            labels = [classes.label(label, str(self.path)) if isinstance(label, str) else label for label in labels]
        return check_labels(labels, len(classes.names) if classes else None, str(self.path))


def find_labels(folder: Path) -> LabelFile | None:
    """The file of labels in a folder of images: labels.json, {"file name": label or class name}, else dataset.json.

    The latter is StyleGAN's and EDM's, {"labels": [["file name", label], ...]} or {"labels": null}; their subfolders
    hold the images by number and not by class. A file of that name with anything else in it is not about labels.

    Args:
        folder: where to look.

    Returns:
        The file, or None where there is none.

    Raises:
        DataError: it cannot be read, or names an image twice.
    """
    try:
        if (path := folder / IMAGE_LABELS).is_file():
            return LabelFile(path, read_json(path))
        path = folder / IMAGE_DATASET
        stored = read_json_value(path) if path.is_file() else None
    except InvalidFile as error:
        raise DataError(str(error)) from None
    if not isinstance(stored, dict) or "labels" not in stored:
        return None
    pairs = stored["labels"]
    if pairs is None:
        return LabelFile(path, None)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    ):
        return None
    labels = dict(pairs)
    if len(labels) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise DataError(f"{path} has several labels for {twice}")
    return LabelFile(path, labels)


def match_classes(
    labels: Sequence[int], names: Sequence[str] | None, known: Sequence[str] | None, *, where: str, known_where: str
) -> list[int]:
    """Labels in one list of classes as labels in another. Classes are matched by name, not by their place in a list.

    Only classes that have samples need a counterpart. Where neither side has names, labels stay as they are.

    Args:
        labels: indices into `names`.
        names: the classes of the labels.
        known: the classes to express them in.
        where: what errors call the first side.
        known_where: what errors call the second side.

    Returns:
        Indices into `known`.

    Raises:
        DataError: a class is not among those known, a name stands for several classes, or only one side has names.
    """
    if (names is None and known is None) or list(names or ()) == list(known or ()):
        return list(labels)
    if names is None or known is None:
        nameless, named = (where, known_where) if names is None else (known_where, where)
        raise DataError(f"{named} has class names and {nameless} has none: give both the same {IMAGE_CLASSES}")
    used = [names[label] for label in sorted(set(labels))]
    place = {name: number for number, name in enumerate(known)}
    absent = [name for name in used if name not in place]
    if absent:
        listed = ", ".join(map(repr, absent[:3])) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        shown = ", ".join(map(repr, known[:5])) + (", ..." if len(known) > 5 else "")
        raise DataError(f"{where} has classes that {known_where} has not: {listed}; there are {shown}")
    for side, listed in ((names, where), (known, known_where)):
        counts = Counter(side)
        twice = next((name for name in used if counts[name] > 1), None)
        if twice is not None:
            raise DataError(f"{listed} calls several classes {twice!r}, so that names cannot tell them apart")
    return [place[names[label]] for label in labels]


def chosen_classes(text: str, names: Sequence[str] | None, count: int) -> list[int]:
    """Labels of the classes that a user lists, by name or index: "cat,dog", "0,3,7".

    A name may hold commas: the longest part of the text that is a name is taken. "name:10" and "index:10" say which of
    the two is meant.

    Args:
        text: the list.
        names: of the classes, by label; None where they are not known.
        count: how many classes there are.

    Raises:
        UnknownName: no class has the name.
        FAEError: an entry is ambiguous, or no index of a class.
    """
    known: dict[str, list[int]] = {}
    for label, name in enumerate(names or ()):
        known.setdefault(_plain(name), []).append(label)
    longest = max((name.count(",") + 1 for name in known), default=1)
    parts, chosen = [part.strip() for part in text.split(",")], []
    while parts:
        taken = next((n for n in range(min(longest, len(parts)), 1, -1) if ",".join(parts[:n]) in known), 1)
        chosen.append(_chosen(",".join(parts[:taken]), known, count))
        del parts[:taken]
    return chosen


def _chosen(word: str, known: dict[str, list[int]], count: int) -> int:
    """The label of one entry of the list."""
    kind, colon, rest = word.partition(":")
    kind, asked = (kind, rest.strip()) if colon and kind in ("name", "index") else ("", word)
    named = known.get(asked, []) if kind != "index" else []
    try:
        index = None if kind == "name" else int(asked)
    except ValueError:
        index = None
    if len(named) > 1:
        raise FAEError(f"--labels {asked!r} names several classes: give index:{' or index:'.join(map(str, named))}")
    if named and index not in (None, named[0]):
        raise FAEError(
            f"--labels {asked!r} is an index, and the name of class {named[0]}: give index:{asked} or name:{asked}"
        )
    if named:
        return named[0]
    if index is None and (known or kind == "name"):
        raise UnknownName("class", asked, known)
    if index is None:
        raise FAEError(f"--labels is 'equal', 'random' or class indices such as 0,3,7, not {asked[:80]!r}")
    if not 0 <= index < count:
        raise FAEError(f"--labels must lie between 0 and {count - 1}, the generator's classes")
    return index


def _plain(name: str) -> str:
    """A name without spaces around its commas, as `chosen_classes` compares them."""
    return ",".join(part.strip() for part in name.split(","))


def check_labels(labels: Sequence[Any], classes: int | None, where: str) -> list[int] | None:
    """Labels as plain integers.

    Args:
        labels: what a file holds.
        classes: how many classes there are; None where that is not known.
        where: what errors call the file.

    Returns:
        The labels; None where all are -1 or null, as in public test sets.

    Raises:
        DataError: a label is no integer (bool and float are none), negative, or too large for the classes.
    """
    if all(label is None or (type(label) is int and label == NO_LABEL) for label in labels):
        return None
    for position, label in enumerate(labels):
        if type(label) is not int or label < 0:
            what = repr(label) if isinstance(label, (int, float, str)) or label is None else f"a {type(label).__name__}"
            raise DataError(f"{where}: label {what[:40]} of image {position} is not an integer >= 0")
        if classes is not None and label >= classes:
            raise DataError(f"{where}: label {str(label)[:40]} of image {position} is outside the {classes} classes")
        if label >= _MOST_CLASSES:
            raise DataError(f"{where}: label {str(label)[:40]} of image {position} is no index of a class")
    return list(labels)


def require_labels_below(labels: Sequence[int] | NDArray[Any] | None, classes: int | None, where: str) -> None:
    """Check all labels that a generator is trained on.

    Args:
        labels: of the samples, (N,); None for none.
        classes: how many the generator has, 0 .. classes - 1; None where it knows none.
        where: what errors call the data.

    Raises:
        DataError: one is no class of the generator.
    """
    import numpy as np  # not above: names are checked without it

    if classes is None or labels is None:
        return
    found = np.asarray(labels)
    wrong = np.flatnonzero((found < 0) | (found >= classes))
    if len(wrong):
        raise DataError(
            f"{where} has the label {found[wrong[0]]} (sample {wrong[0]}, {len(wrong)} in all), but this "
            f"model's classes are 0..{classes - 1}: number classes from 0, or set model.classes"
        )
