"""Buffers whose numbers do not change with the dtype of the weights around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Fp32Buffers(nn.Module):
    """A module whose floating-point buffers, and those of the modules in it, go through `.to(bfloat16)`, `.half()` and back without
    being rounded: they move with the module and keep dtype and every bit. Inherit from it before other modules.

    `tables` gives what follows from the settings alone, so that a module that leaves the meta device (`to_empty`) has it too.
    """

    def tables(self) -> dict[str, Tensor]:
        """Own buffers by name, made anew on the current default device."""
        return {}

    def register_tables(self, persistent: bool) -> None:
        """Register what `tables` gives. persistent: saved with the weights."""
        for name, table in self.tables().items():
            self.register_buffer(name, table, persistent=persistent)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Fp32Buffers:
        before = [
            (module, name, buffer)
            for module in (self.modules() if recurse else (self,))
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point()
        ]
        super()._apply(function, recurse)
        for module, name, buffer in before:
            moved = module._buffers[name]
            if moved.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(moved.device)
        if any(
            module is self and buffer.is_meta and not self._buffers[name].is_meta for module, name, buffer in before
        ):
            with torch.device("cpu"), torch.no_grad():
                for name, table in self.tables().items():
                    self._buffers[name].copy_(table)
        return self


class RememberedBuffers(nn.Module):
    """A module around foreign networks, which want their buffers in the weights' dtype: those that no file keeps (tables of
    rotations) are cast with the weights, and are again what they were when the weights come back to that dtype."""

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> RememberedBuffers:
        exact: dict[str, Tensor] = self.__dict__.setdefault("_exact_buffers", {})
        tables = {
            f"{path}.{name}": (module, name)
            for path, module in self.named_modules()
            for name in module._non_persistent_buffers_set
            if module._buffers[name] is not None and module._buffers[name].is_floating_point()
        }
        for key, (module, name) in tables.items():
            buffer = module._buffers[name]
            if buffer.element_size() >= 4 and not buffer.is_meta:
                exact[key] = buffer
        super()._apply(function, recurse)
        for key, (module, name) in tables.items():
            known, now = exact.get(key), module._buffers[name]
            if known is not None and now.dtype == known.dtype and not now.is_meta:
                module._buffers[name] = known.to(now.device)
        return self
