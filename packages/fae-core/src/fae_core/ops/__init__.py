"""The norms, rotations and attention that every model uses, each as one function with several backends.

Each function states its contract once and runs on a backend that can take the call: plain torch everywhere
(`fae_core.ops.reference` is the specification), torch's scaled_dot_product_attention, our Triton kernels, or xformers.

    with ops.backend("reference"): ...      # pin a backend; also FAE_OPS_BACKEND, or backend= on one call
    print(ops.explain("attention", q, k, v))
    ops.tune(lambda: model(z, t, labels))  # measure on this device what is fastest at these shapes
"""

from fae_core.ops.attention import attention, order_backends, rope_attention, self_attention
from fae_core.ops.choosing import Explanation, explain
from fae_core.ops.dispatch import BACKENDS, backend
from fae_core.ops.gated import swiglu
from fae_core.ops.norms import adaln, rms_norm
from fae_core.ops.projections import projected
from fae_core.ops.rotary import apply_rope, qk_norm_rope
from fae_core.ops.tune import tune

__all__ = [
    "BACKENDS",
    "Explanation",
    "adaln",
    "apply_rope",
    "attention",
    "backend",
    "explain",
    "order_backends",
    "projected",
    "qk_norm_rope",
    "rms_norm",
    "rope_attention",
    "self_attention",
    "swiglu",
    "tune",
]
