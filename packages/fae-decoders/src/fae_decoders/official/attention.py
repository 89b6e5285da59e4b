"""Query, key and value of other projects, which hold them apart, in our one matrix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fae_core.errors import InvalidFile


class Packed:
    """Collects projections by the name of the attention that they belong to."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, Tensor]] = {}

    def add(self, name: str, part: str, value: Tensor) -> None:
        """Keep one projection.

        Args:
            name: Of the packed weight or bias.
            part: "q", "k" or "v".
            value: Of the projection.
        """
        self._parts.setdefault(name, {})[part] = value

    def joined(self) -> Mapping[str, Tensor]:
        """Every packed weight and bias by name. Raises InvalidFile where a projection is missing."""
        for name, parts in self._parts.items():
            if parts.keys() != {"q", "k", "v"}:
                raise InvalidFile(f"the checkpoint's {name} lacks one of query, key and value")
        return {name: torch.cat([parts[p] for p in "qkv"]) for name, parts in self._parts.items()}
