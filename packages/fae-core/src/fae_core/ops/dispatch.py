"""Which backend a call takes, and why.

A backend is named by the caller (`backend=`), pinned for a scope (`with ops.backend(...)`) or for the process
(`FAE_OPS_BACKEND`), or chosen here. One that was named and cannot run the call raises and says why; it never falls back.
"""

from __future__ import annotations

import contextvars
import functools
import os
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from fae_core.errors import FAEError, UnknownName

# Attention backends, in the order in which the automatic choice considers them. "sdpa" lets torch choose its kernel.
SDPA_KERNELS = {
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
BACKENDS = ("auto", "sdpa", *SDPA_KERNELS, "xformers", "reference")

_pinned: contextvars.ContextVar[str | None] = contextvars.ContextVar("fae_ops_backend", default=None)


@dataclass(frozen=True)
class Explanation:
    """The backend that a call takes, the reason, and why each other one was not taken."""

    op: str
    backend: str
    reason: str
    rejected: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        others = "".join(f"\n  not {name}: {reason}" for name, reason in self.rejected.items())
        return f"{self.op}: {self.backend} ({self.reason}){others}"


class backend:
    """Pin a backend from here on, or within a `with` block; "auto" unpins. Raises UnknownName for a name not in BACKENDS."""

    def __init__(self, name: str) -> None:
        self._token = _pinned.set(None if _known(name) == "auto" else name)

    def __enter__(self) -> backend:
        return self

    def __exit__(self, *_: object) -> None:
        _pinned.reset(self._token)


def explain(
    op: str, *tensors: Tensor, mask: Tensor | None = None, causal: bool = False, backend: str | None = None
) -> Explanation:
    """How `op` ("attention", "rope_attention", "rms_norm", ...) would run on these tensors; runs nothing.

    tensors: q, k, v (B, H, N, D) for attention; x for the others.
    """
    if op in ("attention", "rope_attention"):
        return choose_attention(*tensors[:3], mask=mask, causal=causal, requested=backend)
    if op in ("rms_norm", "adaln", "apply_rope", "qk_norm_rope"):
        return Explanation(op, "reference", "plain torch is the only implementation of this op")
    raise UnknownName("op", op, ["attention", "rope_attention", "rms_norm", "adaln", "apply_rope", "qk_norm_rope"])


def requested_backend(explicit: str | None) -> str | None:
    """The backend that somebody asked for, with the caller's wish first; None where the choice is free."""
    name = explicit or _pinned.get() or os.environ.get("FAE_OPS_BACKEND")
    return None if name is None or _known(name) == "auto" else name


def choose_attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, causal: bool, requested: str | None
) -> Explanation:
    """The attention backend for these tensors. Raises FAEError where a requested one cannot run them."""
    name = requested_backend(requested)
    if name is not None:
        obstacle = _obstacle(name, q, mask)
        if obstacle:
            raise FAEError(f"attention backend {name!r} was asked for but cannot run: {obstacle}")
        return Explanation("attention", name, "asked for")
    rejected = {"xformers": "taken only when asked for", "reference": "keeps the whole score matrix"}
    return Explanation("attention", "sdpa", f"torch's default on {q.device.type}", rejected)


def _known(name: str) -> str:
    if name not in BACKENDS:
        raise UnknownName("ops backend", name, BACKENDS)
    return name


def _obstacle(name: str, q: Tensor, mask: Tensor | None) -> str | None:
    """Why `name` cannot run this call, or None."""
    if name == "xformers":
        return _xformers_obstacle(q.device.type, q.dtype)
    if name in ("sdpa-efficient", "sdpa-cudnn") and q.device.type != "cuda":
        return f"torch has it on cuda only, the tensors are on {q.device.type}"
    if name == "sdpa-flash" and mask is not None:
        return "flash attention takes no mask"
    if name == "sdpa-cudnn" and q.dtype == torch.float32:
        return "cuDNN attention needs fp16 or bf16"
    if name == "sdpa-flash" and q.device.type == "cuda" and q.dtype == torch.float32:
        return "flash attention on cuda needs fp16 or bf16"
    return None


@functools.cache
def _xformers_obstacle(device: str, dtype: torch.dtype) -> str | None:
    # Its wheel imports where its operators do not load, so the probe is a call.
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.zeros(1, 8, 1, 64, device=device, dtype=dtype)
        memory_efficient_attention(probe, probe, probe)
    except ImportError:
        return "xformers is not installed"
    except Exception as error:
        return f"a probe failed on {device} with {dtype}: {str(error).strip().splitlines()[0]}"
    return None
