"""Feed-forward layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def swiglu_hidden(dim: int, ratio: float = 4.0, multiple_of: int = 8) -> int:
    """Hidden width that gives SwiGLU the parameters of a plain MLP of `ratio`: 2/3 * ratio * dim, rounded up.

    1536 -> 4096 and 1024 -> 2736, the widths behind the paper's parameter counts (appendix D).
    """
    hidden = int(2 / 3 * ratio * dim)
    return -(-hidden // multiple_of) * multiple_of


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020), gate and up packed in one projection, in that order."""

    def __init__(self, dim: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        # Without a backward pass nobody needs silu(gate) again: its memory takes the product.
        hidden = F.silu(gate) * up if torch.is_grad_enabled() else F.silu(gate).mul_(up)
        return self.down(hidden)


class MLP(nn.Module):
    """down(gelu(up(x))); DiT and SiT use the tanh approximation of GELU."""

    def __init__(self, dim: int, hidden: int, bias: bool = True, approximate: str = "tanh") -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))
