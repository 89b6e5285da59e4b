"""What a survey of images found, image by image, and what its report says about them."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from fae_core.images.source import ImageSource

MOST_NAMED = 1000  # images of one kind that a report names; those that are broken are all named


class Row(NamedTuple):
    """What is known of an image; `reason` says why it cannot be read."""

    digest: str
    mode: str
    width: int
    height: int
    size: int
    reason: str | None


class Findings:
    """Collects what a report says, image by image in order."""

    def __init__(self, source: ImageSource, side: int) -> None:
        self.source, self.side = source, side
        self.count, self.bytes = 0, 0
        self.broken: list[dict[str, Any]] = []
        self.modes, self.sizes = Counter[str](), Counter[tuple[int, int]]()
        self.odd, self.small = list[dict[str, Any]](), list[dict[str, Any]]()
        self.few = 0
        self.digests: list[bytes] = []
        self.readable: list[int] = []

    def add(self, row: Row) -> None:
        """The next image."""
        index, self.count, self.bytes = self.count, self.count + 1, self.bytes + row.size
        if row.reason is not None:
            self.broken.append({"index": index, "name": self.source.name(index), "reason": row.reason})
            return
        self.readable.append(index)
        self.digests.append(bytes.fromhex(row.digest))
        self.modes[row.mode] += 1
        self.sizes[row.width, row.height] += 1
        if row.mode != "RGB" and len(self.odd) < MOST_NAMED:
            self.odd.append({"name": self.source.name(index), "mode": row.mode})
        if min(row.width, row.height) < self.side:
            self.few += 1
            if len(self.small) < MOST_NAMED:
                self.small.append({"name": self.source.name(index), "size": [row.width, row.height]})

    def report(self) -> dict[str, Any]:
        """The findings as JSON holds them."""
        widths, heights = (Counter[int]() for _ in range(2))
        for (width, height), count in self.sizes.items():
            widths[width] += count
            heights[height] += count
        return {
            "images": self.count,
            "readable": len(self.readable),
            "bytes": self.bytes,
            "broken": self.broken,
            "modes": dict(self.modes.most_common()),
            "odd_modes": {"images": self.count - len(self.broken) - self.modes["RGB"], "named": self.odd},
            "small": {"side": self.side, "images": self.few, "named": self.small},
            "duplicates": self._duplicates(),
            "classes": self._classes(),
            "sizes": {
                "width": _spread(widths),
                "height": _spread(heights),
                "common": {f"{width}x{height}": count for (width, height), count in self.sizes.most_common(20)},
            },
        }

    def _classes(self) -> dict[str, int] | None:
        """How many readable images each class has."""
        labels, names = self.source.labels, self.source.classes
        if labels is None:
            return None
        counts = Counter(labels[index] for index in self.readable)
        if names is None:
            return {str(label): count for label, count in sorted(counts.items())}
        shown = names if len(set(names)) == len(names) else [f"{label} {name}" for label, name in enumerate(names)]
        return {name: counts[label] for label, name in enumerate(shown)}

    def _duplicates(self) -> dict[str, Any]:
        """Images with the same content as an earlier one."""
        counts = Counter(self.digests)
        repeated = len(self.digests) - len(counts)
        groups: dict[bytes, list[int]] = {}
        for index, digest in zip(self.readable, self.digests, strict=True):
            if counts[digest] > 1 and (digest in groups or len(groups) < MOST_NAMED):
                groups.setdefault(digest, []).append(index)
        labels = self.source.labels
        return {
            "images": repeated,
            "groups": [
                {
                    "images": len(group),
                    "several_classes": labels is not None and len({labels[index] for index in group}) > 1,
                    "named": [self.source.name(index) for index in group[:20]],
                }
                for group in groups.values()
            ],
        }


def _spread(counts: Counter[int]) -> dict[str, int]:
    """Least, median and largest of numbers that were counted."""
    ordered, seen, middle = sorted(counts), 0, sum(counts.values()) // 2
    for value in ordered:
        seen += counts[value]
        if seen > middle:
            return {"least": ordered[0], "median": value, "largest": ordered[-1]}
    return {}
