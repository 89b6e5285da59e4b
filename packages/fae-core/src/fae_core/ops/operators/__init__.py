"""The kernels as torch.library operators (`torch.ops.fae.*`).

They work with fake tensors, autograd, torch.compile, automatic mixed precision (AMP) and gradient checkpoints. On CUDA,
and under the interpreter, an operator launches Triton kernels; elsewhere it computes the same in plain torch, so that
graphs can be traced and checked on any machine. Models call `fae_core.ops`, which decides whether an operator is used.
"""

from fae_core.ops.operators.adaln import adaln
from fae_core.ops.operators.qk_norm_rope import apply_rope, qk_norm_rope
from fae_core.ops.operators.rms_norm import rms_norm
from fae_core.ops.operators.rope_attention import rope_attention, self_attention

__all__ = ["adaln", "apply_rope", "qk_norm_rope", "rms_norm", "rope_attention", "self_attention"]
