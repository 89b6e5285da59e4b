"""What is behind each door (see `fae_core.ops.door`), and the operators `torch.ops.fae.*` under their own names.

On CUDA, and under the interpreter, they launch Triton kernels; elsewhere they compute the same in plain torch, so that
graphs can be traced and checked on any machine. Models call `fae_core.ops`, which decides whether a door is used.
"""

from fae_core.ops.operators.adaln import ADALN
from fae_core.ops.operators.attention import ATTENTION
from fae_core.ops.operators.qk_norm_rope import APPLY_ROPE, QK_NORM_ROPE
from fae_core.ops.operators.rms_norm import RMS_NORM
from fae_core.ops.operators.swiglu import SWIGLU

adaln = ADALN.operator
attention = ATTENTION.operator
apply_rope = APPLY_ROPE.operator
qk_norm_rope = QK_NORM_ROPE.operator
rms_norm = RMS_NORM.operator
swiglu = SWIGLU.operator

__all__ = [
    "ADALN",
    "APPLY_ROPE",
    "ATTENTION",
    "QK_NORM_ROPE",
    "RMS_NORM",
    "SWIGLU",
    "adaln",
    "apply_rope",
    "attention",
    "qk_norm_rope",
    "rms_norm",
    "swiglu",
]
