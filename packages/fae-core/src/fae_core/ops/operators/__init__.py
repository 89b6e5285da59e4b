"""What is behind each door (see `fae_core.ops.door`), and the operators `torch.ops.fae.*` under their own names.

On CUDA, and under the interpreter, they launch Triton kernels; elsewhere they compute the same in plain torch, so that
graphs can be traced and checked on any machine. Models call `fae_core.ops`, which decides whether a door is used.
"""

from fae_core.ops.operators.adaln import ADALN
from fae_core.ops.operators.qk_norm_rope import APPLY_ROPE, QK_NORM_ROPE
from fae_core.ops.operators.rms_norm import RMS_NORM
from fae_core.ops.operators.rope_attention import ROPE_ATTENTION, SELF_ATTENTION

adaln = ADALN.operator
apply_rope = APPLY_ROPE.operator
qk_norm_rope = QK_NORM_ROPE.operator
rms_norm = RMS_NORM.operator
rope_attention = ROPE_ATTENTION.operator
self_attention = SELF_ATTENTION.operator

__all__ = [
    "ADALN",
    "APPLY_ROPE",
    "QK_NORM_ROPE",
    "RMS_NORM",
    "ROPE_ATTENTION",
    "SELF_ATTENTION",
    "adaln",
    "apply_rope",
    "qk_norm_rope",
    "rms_norm",
    "rope_attention",
    "self_attention",
]
