"""fae-flow: STARFlow, an autoregressive normalizing flow, on any latent space. Importing it does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names
from fae_flow._version import __version__

if TYPE_CHECKING:
    from fae_flow.config import STARFlowConfig as STARFlowConfig
    from fae_flow.sampling.jacobi import Jacobi as Jacobi
    from fae_flow.sampling.sampler import FlowSampler as FlowSampler
    from fae_flow.starflow import FlowOutput as FlowOutput
    from fae_flow.starflow import FlowTrace as FlowTrace
    from fae_flow.starflow import STARFlow as STARFlow

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names, "__version__"]
