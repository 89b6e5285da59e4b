"""The choice of a backend for a call, with the reason and why each other one is not taken; see `ops.dispatch`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fae_core.errors import FAEError, UnknownName
from fae_core.ops import measured
from fae_core.ops.dispatch import SDPA_KERNELS, requested_backend
from fae_core.ops.triton import contract, unknown_device
from fae_core.ops.triton.usable import unusable

ATTENTION_OPS = ("attention", "rope_attention", "self_attention")
POINTWISE_OPS = ("rms_norm", "adaln", "apply_rope", "qk_norm_rope", "swiglu")


@dataclass(frozen=True)
class Explanation:
    """The backend that a call takes, the reason, and why each other one was not taken.

    Attributes:
        op: Name of the op.
        backend: The backend that runs it.
        reason: Why this one.
        rejected: By backend, why it was not taken.
    """

    op: str
    backend: str
    reason: str
    rejected: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        others = "".join(f"\n  not {name}: {reason}" for name, reason in self.rejected.items())
        return f"{self.op}: {self.backend} ({self.reason}){others}"


def explain(
    op: str, *tensors: Tensor, mask: Tensor | None = None, causal: bool = False, backend: str | None = None
) -> Explanation:
    """How an op would run on these tensors; nothing is run.

    Args:
        op: Name of the op: "attention", "rope_attention", "rms_norm", ...
        *tensors: q, k, v (B, H, N, D) for attention and rope_attention; packed qkv (B, N, 3, H, D) for self_attention
            and qk_norm_rope; x for the others. Further tensors of the call (weights, tables) may follow.
        mask: As for `attention`.
        causal: As for `attention`.
        backend: As named on the call.

    Raises:
        FAEError: What the call itself would raise.
        UnknownName: There is no such op.
    """
    if op in ("attention", "rope_attention"):
        return choose_attention(op, *tensors[:3], mask=mask, causal=causal, requested=backend)
    if op == "self_attention":
        return choose_attention(op, *split_packed(tensors[0]), mask=mask, causal=causal, requested=backend)
    if op in POINTWISE_OPS:
        row = op in ("rms_norm", "adaln")
        obstacle = contract.row_norm(*tensors) if row else contract.heads(tensors[0], (None, None))
        obstacle = contract.pairs(*tensors) if op == "swiglu" else obstacle
        return choose_pointwise(op, tensors[0], obstacle, backend)
    raise UnknownName("op", op, [*ATTENTION_OPS, *POINTWISE_OPS])


def choose_pointwise(op: str, x: Tensor, obstacle: str | None, requested: str | None) -> Explanation:
    """Which of "reference" and "triton" runs a norm or rotation.

    Args:
        op: Name of the op, for the explanation.
        x: The tensor that is normed or rotated.
        obstacle: Why the kernel cannot take this call, or None.
        requested: The backend named on the call.

    Raises:
        FAEError: The requested backend cannot run the call.
    """
    name = requested_backend(requested)
    plain = f"plain torch on {x.device.type}"
    if name == "triton":
        if obstacle:
            raise FAEError(f"{op} backend 'triton' was asked for but cannot run: {obstacle}")
        return Explanation(op, "triton", "asked for", {"reference": "triton was asked for"})
    if name == "reference":
        return Explanation(op, "reference", "asked for", {"triton": "reference was asked for"})
    if name is not None:
        if requested is not None:
            raise FAEError(f"{op} backend {name!r} was asked for but cannot run: it computes attention only")
        return Explanation(
            op, "reference", f"{plain}; {name} was asked for and computes attention only", {"triton": "not asked for"}
        )
    taken, reason = ("torch", plain) if obstacle else _automatic(op, x, measured.shape_of(x.shape))
    if taken == "triton":
        return Explanation(op, "triton", reason, {"reference": "see there"})
    return Explanation(op, "reference", plain, {"triton": obstacle or reason})


def _automatic(op: str, x: Tensor, shape: tuple[int, ...]) -> tuple[str, str]:
    """A backend for a call that our kernel could take, or "torch", and the reason."""
    if x.device.type != "cuda":
        return "torch", f"the automatic choice on {x.device.type} is torch"
    off = measured.is_off() or unknown_device(x.device.index)
    if off:
        return "torch", off
    if not torch.compiler.is_compiling():
        measured.load()
    times = measured.times(op, shape, x.dtype)
    if times is not None:
        taken = measured.best(times)
        return taken, "measured here, ms: " + ", ".join(f"{n} {t:.3f}" for n, t in sorted(times.items()))
    if torch.compiler.is_compiling():
        return "torch", "not measured under torch.compile, which fuses it (fae_core.ops.tune measures)"
    if op not in measured.RULE_OPS:
        return "torch", "not measured (fae_core.ops.tune measures), and torch's own is taken until then"
    if x.dtype not in (torch.float16, torch.bfloat16) or x.numel() * x.element_size() < measured.RULE_BYTES:
        size = measured.RULE_BYTES // 2**20
        return "torch", f"not measured, and until then the kernel is for half precision and {size} MiB or more"
    broken = unusable(x)
    if broken:
        return "torch", broken
    return "triton", "not measured; until then the rule for large calls in half precision"


def choose_attention(
    op: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    causal: bool,
    requested: str | None,
    prologue: str | None = None,
) -> Explanation:
    """The attention backend for these tensors.

    Args:
        op: Name of the op, for the explanation.
        q: Queries, (B, H, N, D).
        k: Keys, (B, H, M, D).
        v: Values, (B, H, M, D).
        mask: As for `attention`.
        causal: As for `attention`.
        requested: The backend named on the call.
        prologue: Why our kernel cannot do the norm and rotation of this call, or None.

    Raises:
        FAEError: The requested backend cannot run the call.
    """
    name = requested_backend(requested)
    impossible = prologue or contract.anywhere(q, k, v)
    shape = contract.fused_attention(q, k, v, mask=mask, causal=causal)
    if name == "triton":
        explicit = requested is not None and op == "attention"
        if impossible or (shape and explicit):
            raise FAEError(f"{op} backend 'triton' was asked for but cannot run: {impossible or shape}")
        if shape is None:
            return Explanation(op, "triton", "asked for", {"sdpa": "triton was asked for"})
        ours = "" if op == "attention" else "norm and rotation by our kernel, then "
        return Explanation(op, "sdpa", f"triton was asked for: {ours}torch's attention", {"triton": shape})
    if name is not None:
        obstacle = _obstacle(name, q, mask)
        if obstacle:
            raise FAEError(f"attention backend {name!r} was asked for but cannot run: {obstacle}")
        return Explanation(op, name, "asked for", {"triton": f"{name} was asked for"})
    taken, reason = (
        _automatic(op, q, measured.shape_of(q.shape, k.shape)) if mask is None else ("torch", "masks are not measured")
    )
    triton = shape or impossible
    if taken == "triton" and triton is None:
        return Explanation(op, "triton", reason, {"sdpa": "see there"})
    rejected = {
        "triton": triton or reason,
        "xformers": "experimental, taken only when asked for",
        "reference": "keeps the whole score matrix",
    }
    if taken in SDPA_KERNELS and _obstacle(taken, q, mask) is None:
        return Explanation(op, taken, reason, rejected)
    return Explanation(op, "sdpa", f"torch's default on {q.device.type}", rejected)


def split_packed(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed qkv (B, N, 3, H, D) as views q, k, v of (B, H, N, D).

    Raises:
        FAEError: qkv has another shape.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise FAEError(f"packed qkv has the shape (B, N, 3, H, D), not {tuple(qkv.shape)}")
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


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
        from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]  (an extra)

        probe = torch.zeros(1, 8, 1, 64, device=device, dtype=dtype)
        memory_efficient_attention(probe, probe, probe)
    except ImportError:
        return "xformers is not installed"
    except Exception as error:
        return f"a probe failed on {device} with {dtype}: {str(error).strip().splitlines()[0]}"
    return None
