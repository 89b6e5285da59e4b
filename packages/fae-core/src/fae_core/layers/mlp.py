"""Feed-forward layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fae_core import ops


def swiglu_hidden(dim: int, ratio: float = 4.0, multiple_of: int = 8) -> int:
    """The hidden width at which SwiGLU has as many parameters as a plain MLP: 2/3 * ratio * dim, rounded up.

    1536 -> 4096 and 1024 -> 2736, the widths behind the paper's parameter counts (appendix D).

    Args:
        dim: width of the model.
        ratio: hidden width of the plain MLP as a multiple of `dim`.
        multiple_of: what the result is a multiple of.
    """
    hidden = int(2 / 3 * ratio * dim)
    return -(-hidden // multiple_of) * multiple_of


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, 2020), with gate and up packed in one projection, in that order.

    Args:
        dim: width of the model.
        hidden: width between.
        bias: whether the projections have biases.
    """

    def __init__(self, dim: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) of (..., dim).

        Args:
            x: Tokens (..., dim).
        """
        return self.down(ops.swiglu(*ops.projected(self.gate_up, x)))


class MLP(nn.Module):
    """down(gelu(up(x))).

    Args:
        dim: width of the model.
        hidden: width between.
        bias: whether the projections have biases.
        approximate: torch's approximation of GELU: "tanh", as in DiT and SiT, or "none".
    """

    def __init__(self, dim: int, hidden: int, bias: bool = True, approximate: str = "tanh") -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) of (..., dim).

        Args:
            x: Tokens (..., dim).
        """
        return self.down(F.gelu(self.up(x), approximate=self.approximate))
