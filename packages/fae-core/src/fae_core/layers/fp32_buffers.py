"""Buffers whose numbers do not change with the dtype of the weights around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class Fp32Buffers(nn.Module):
    """A module whose floating-point buffers, and those of the modules in it, keep their dtype and every bit.

    They move with the module, but `.to(bfloat16)` and `.half()` do not round them. Inherit from it before other
    modules. `tables` gives what follows from the settings alone, so that a module that leaves the meta device
    (`to_empty`) has it.
    """

    def tables(self) -> dict[str, Tensor]:
        """Own buffers by name, newly made on the current default device."""
        return {}

    def register_tables(self, persistent: bool) -> None:
        """Register what `tables` gives as buffers.

        Args:
            persistent: whether they are saved with the weights.
        """
        for name, table in self.tables().items():
            self.register_buffer(name, table, persistent=persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """torch's hook behind `.to()`."""
        before = [
            (module, name, buffer)
            for module in (self.modules() if recurse else (self,))
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point()
        ]
        super()._apply(fn, recurse)
        left_meta = False
        for module, name, buffer in before:
            moved = module.get_buffer(name)
            if moved.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(moved.device)
            left_meta |= module is self and buffer.is_meta and not moved.is_meta
        if left_meta:
            with torch.device("cpu"), torch.no_grad():
                for name, table in self.tables().items():
                    self.get_buffer(name).copy_(table)
        return self


class RememberedBuffers(nn.Module):
    """A module around foreign networks, which need their buffers in the dtype of the weights.

    Buffers that are not saved (tables of rotations) are cast with the weights, and get their first values back when
    the weights return to that dtype.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """torch's hook behind `.to()`."""
        exact: dict[str, Tensor] = self.__dict__.setdefault("_exact_buffers", {})
        tables = {
            f"{path}.{name}": (module, name, buffer)
            for path, module in self.named_modules()
            for name in module._non_persistent_buffers_set
            if (buffer := module._buffers[name]) is not None and buffer.is_floating_point()
        }
        for key, (_, _, buffer) in tables.items():
            if buffer.element_size() >= 4 and not buffer.is_meta:
                exact[key] = buffer
        super()._apply(fn, recurse)
        for key, (module, name, _) in tables.items():
            known, now = exact.get(key), module.get_buffer(name)
            if known is not None and now.dtype == known.dtype and not now.is_meta:
                module._buffers[name] = known.to(now.device)
        return self
