"""Which calls each Triton kernel can take: every check returns the reason why it cannot, or None where it can."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fae_core.ops import triton
from fae_core.ops.triton import configs

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def anywhere(*tensors: Tensor | None) -> str | None:
    """What every kernel needs: triton, one device that it runs on, and dtypes of at most 32 bits.

    No kernel takes forward-mode derivatives or torch.func's gradients.

    Args:
        *tensors: Those of the call; at least one is not None.
    """
    given = [t for t in tensors if t is not None]
    device = given[0].device
    if triton.MISSING:
        return triton.MISSING
    if device.type not in ("cuda", "cpu"):
        return f"the kernels run on cuda, the tensors are on {device.type}"
    if device.type not in triton.DEVICES:
        return (
            "the kernels run on cuda, the tensors are on cpu; "
            "TRITON_INTERPRET=1, set before Python starts, interprets them"
        )
    if device.type == "cuda" and torch.version.hip:
        return "the kernels have not been tried on AMD devices"
    if device.type == "cuda" and (triton.capability(device.index) or 80) < 80:
        return "the kernels need compute capability 8.0 (Ampere) or newer"
    if forward_mode() or _functional_gradient():
        return (
            "the kernels know autograd and vmap, not torch.func's jvp and grad; take the backend 'reference' for them"
        )
    for tensor in given:
        if tensor.device != device:
            return f"the tensors are on {device} and {tensor.device}"
        if tensor.dtype not in DTYPES:
            return f"{_name(tensor.dtype)} is not one of fp32, fp16, bf16"
        if triton.INTERPRETED and tensor.dtype == torch.bfloat16:
            return "triton's interpreter gets bfloat16 wrong"
    return None


def forward_mode() -> bool:
    """Whether forward-mode differentiation is active: an operator of ours would give a tangent of 0."""
    return forward_ad._current_level >= 0


def is_transformed() -> bool:
    """Whether forward-mode differentiation or a transform of torch.func is active."""
    return forward_mode() or torch._C._are_functorch_transforms_active()


def _functional_gradient() -> bool:
    """Whether torch.func's grad or vjp is active, which refuse operators like ours."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]  (absent from torch's stubs)
    layers = functorch.get_interpreter_stack() or ()
    return any(layer.key() == functorch.TransformType.Grad for layer in layers)


def row_norm(x: Tensor, weight: Tensor | None = None, *others: Tensor | None) -> str | None:
    """RMSNorm and adaLN: rows of at most `configs.MAX_WIDTH`, and a weight of their length.

    Args:
        x: (..., D).
        weight: (D,), or None.
        *others: Further tensors of the call, whose device and dtype count.
    """
    if x.shape[-1] > configs.MAX_WIDTH:
        return f"rows of {x.shape[-1]} are longer than {configs.MAX_WIDTH}"
    if x.shape[-1] == 0:
        return "the rows are empty"
    return _weights(x, weight) or anywhere(x, weight, *others)


def adaln(x: Tensor, update: Tensor | None, rows: tuple[Tensor | None, ...], weight: Tensor | None) -> str | None:
    """AdaLN: tokens, and one row per sample.

    Args:
        x: (B, N, D).
        update: (B, N, D), or None.
        rows: Gate, scale and shift, each (B, D) or None.
        weight: (D,), or None.
    """
    if x.ndim != 3:
        return f"the kernel takes tokens of shape (B, N, D), not {tuple(x.shape)}"
    if update is not None and update.shape != x.shape:
        return f"the update has shape {tuple(update.shape)}, x {tuple(x.shape)}"
    for row in rows:
        if row is not None and row.shape != (x.shape[0], x.shape[2]):
            return f"gate, scale and shift have the shape (B, D), not {tuple(row.shape)}"
    return row_norm(x, weight, update, *rows)


def heads(x: Tensor, tables: tuple[Tensor | None, Tensor | None], *weights: Tensor | None) -> str | None:
    """Norm and rotation of heads.

    Args:
        x: (..., D).
        tables: Cosines and sines, (N, D/2) or (B, 1, N, D/2), or None.
        *weights: (D,), or None.
    """
    if x.shape[-1] > configs.MAX_HEAD_DIM:
        return f"head dimension {x.shape[-1]} is larger than {configs.MAX_HEAD_DIM}"
    if x.shape[-1] % 2 or x.shape[-1] == 0:
        return f"head dimension {x.shape[-1]} does not consist of pairs"
    for table in tables:
        if table is None:
            continue
        if table.ndim != 2 and not (table.ndim == 4 and table.shape[1] == 1 and table.shape[0] in (1, x.shape[0])):
            return f"tables of shape {tuple(table.shape)} are neither (N, D/2) nor (B, 1, N, D/2)"
        if table.requires_grad and torch.is_grad_enabled():
            return "the tables have no gradient in the kernels"
        if table.device != x.device:
            return f"the tables are on {table.device}, the tensors on {x.device}"
    return _weights(x, *weights) or anywhere(x, *weights)


def pairs(x: Tensor, bias: Tensor | None = None) -> str | None:
    """SwiGLU.

    Args:
        x: gate and up, (..., 2 * D).
        bias: (2 * D,), or None.
    """
    return "the rows are empty" if x.shape[-1] == 0 else anywhere(x, bias)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool) -> str | None:
    """Our attention kernel: shapes, options and dtypes that it does not take. Devices are not checked.

    Args:
        q: Queries, (B, H, N, D).
        k: Keys, (B, H, M, D).
        v: Values, (B, H, M, D).
        mask: As for `attention`.
        causal: As for `attention`.
    """
    if mask is not None or causal:
        return f"our kernel takes no {'mask' if mask is not None else 'causal order'}"
    if q.shape[-1] not in configs.FUSED_HEAD_DIMS or v.shape[-1] != q.shape[-1]:
        return f"our kernel takes head dimensions 64 and 72, not {q.shape[-1]}"
    if k.shape[1] != q.shape[1]:
        return "our kernel takes no grouped queries"
    if k.shape[2] == 0:
        return "our kernel takes 1 key or more"
    if q.dtype == torch.float32 and q.device.type == "cuda":
        return "our kernel takes fp16 and bf16, because it needs tensor cores"
    if not q.dtype == k.dtype == v.dtype:
        return f"our kernel takes one dtype, not {_name(q.dtype)}, {_name(k.dtype)}, {_name(v.dtype)}"
    return None


def _weights(x: Tensor, *weights: Tensor | None) -> str | None:
    """A kernel reads as many numbers of a weight as x has channels; `launch` makes them adjacent in memory."""
    shapes = [tuple(w.shape) for w in weights if w is not None and w.shape != x.shape[-1:]]
    return f"the weight has the shape ({x.shape[-1]},), not {shapes[0]}" if shapes else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
