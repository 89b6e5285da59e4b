"""Attention, forward by our kernel. Its gradient is flash attention's on CUDA, and plain torch elsewhere."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fae_core.ops.door import Description, Door, Saved
from fae_core.ops.triton.plans import Results


@functools.cache
def _kernels() -> Any:
    from fae_core.ops.triton import attention

    return attention


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Results:
    out, lse = _kernels().forward(*(x.transpose(1, 2) for x in (q, k, v)), scale)
    return out.transpose(1, 2), lse


def _forward_plain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Results:
    scores = q.float() @ k.float().mT * scale
    out = (scores.softmax(-1) @ v.float()).to(q.dtype)
    return _tokens_first(out), scores.logsumexp(-1)


def _save(inputs: tuple[Any, ...], results: Results) -> Saved:
    return (*inputs[:3], *results), inputs[3:]


def _backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float) -> Results:
    if not q.is_cuda:
        return _backward_plain(dout, q, k, v, out, lse, scale)
    unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # the state of dropout
    options = (None, None, q.shape[2], k.shape[2], 0.0, False, unused, unused)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_backward
    return flash(dout, q, k, v, out, lse, *options, scale=scale)


def _backward_plain(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float) -> Results:
    wide_q, wide_k, wide_v, wide_dout = (x.float() for x in (q, k, v, dout))
    weights = torch.exp(wide_q @ wide_k.mT * scale - lse[..., None])
    along = (wide_dout * out.float()).sum(-1, keepdim=True)
    dscores = weights * (wide_dout @ wide_v.mT - along) * scale
    found = (dscores @ wide_k, dscores.mT @ wide_q, weights.mT @ wide_dout)
    return tuple(_tokens_first(d.to(x.dtype)) for d, x in zip(found, (q, k, v), strict=True))


ATTENTION = Door(
    Description(
        "attention",
        "(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor out, Tensor lse)",
        results=1,
        differentiable=(0, 1, 2),
        kernel=_forward,
        plain=_forward_plain,
        save=_save,
        gradient_schema="(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float scale)"
        " -> (Tensor dq, Tensor dk, Tensor dv)",
        gradient_kernel=_backward,
        gradient_plain=_backward_plain,
    )
)
"""Inputs: q (B, H, N, D), k and v (B, H, M, D), the factor of the scores.

out is (B, H, N, D) of memory in the order (B, N, H, D), in q's dtype. The operator also gives lse (B, H, N), fp32, the
natural log of each row's sum of exponentials.
"""


def _tokens_first(x: Tensor) -> Tensor:
    """x (B, H, N, D) in memory in the order (B, N, H, D)."""
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
