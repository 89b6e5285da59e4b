"""The table of measured wins: where the automatic choice takes a kernel on CUDA.

wins.json beside this file is written by `python tools/bench/kernels.py` and committed:

    {"format": 1,
     "wins": [{"arch": "sm_90", "op": "rms_norm", "shape": "width=1152", "dtype": "bfloat16", "against": "eager",
               "forward": 1.02, "forward_backward": 2.31, "device": "...", "torch": "...", "triton": "..."}]}

arch is the device's compute capability, and shape what `shape_class` returns. against names what was slower, "eager"
torch or "compile". forward and forward_backward say how many times faster the kernel was. A row is a win where nothing
is differentiated if forward is at least `MARGIN`, and everywhere if both are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fae_core.errors import InvalidFile
from fae_core.files import read_json
from fae_core.ops.triton import capability

MARGIN = 1.05
"""A kernel has to be this many times faster, at every batch size that was measured."""

TABLE = Path(__file__).with_name("wins.json")


def shape_class(op: str, x: Tensor) -> str:
    """The class of shapes that a measurement on x covers, such as "width=1152".

    Args:
        op: Name of the op.
        x: (..., D) of a norm, (B, H, N, D) of an attention or rotation.
    """
    if op in ("rms_norm", "adaln"):
        return f"width={x.shape[-1]}"
    if op in ("apply_rope", "qk_norm_rope"):
        return f"head_dim={x.shape[-1]}"
    return f"head_dim={x.shape[-1]},tokens={x.shape[-2]}"


def won(op: str, x: Tensor) -> bool:
    """Whether the table says that the kernel is the faster one for this call.

    Args:
        op: Name of the op.
        x: A tensor of the call, as for `shape_class`.
    """
    if not ROWS:
        return False
    against = "compile" if torch.compiler.is_compiling() else "eager"
    dtype = str(x.dtype).removeprefix("torch.")
    trains = ROWS.get((f"sm_{capability(x.device.index)}", op, shape_class(op, x), dtype, against))
    return trains is not None and (trains or not torch.is_grad_enabled())


def parse(path: Path) -> dict[tuple[str, ...], bool]:
    """The wins in a table.

    Args:
        path: Path of a file like wins.json.

    Returns:
        By arch, op, shape, dtype and against: whether it is also a win with the backward pass.

    Raises:
        InvalidFile: The file is not a table of wins of format 1.
    """
    table = read_json(path)
    if table.get("format") != 1 or not isinstance(table.get("wins"), list):
        raise InvalidFile(f"{path} is not a table of wins of format 1")
    keys = ("arch", "op", "shape", "dtype", "against")
    try:
        return {
            tuple(str(row[key]) for key in keys): row["forward_backward"] >= MARGIN
            for row in table["wins"]
            if row["forward"] >= MARGIN
        }
    except (KeyError, TypeError):
        raise InvalidFile(f"{path}: every win needs {', '.join(keys)}, forward and forward_backward") from None


# Read at import, so that torch.compile never traces the reading.
ROWS = parse(TABLE)
