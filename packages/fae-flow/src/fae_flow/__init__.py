"""fae-flow: STARFlow, an autoregressive normalizing flow, on any latent space. Importing it does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fae_flow._version import __version__

if TYPE_CHECKING:
    from fae_flow.config import STARFlowConfig as STARFlowConfig
    from fae_flow.sampling.jacobi import Jacobi as Jacobi
    from fae_flow.sampling.sampler import FlowSampler as FlowSampler
    from fae_flow.starflow import FlowOutput as FlowOutput
    from fae_flow.starflow import FlowTrace as FlowTrace
    from fae_flow.starflow import STARFlow as STARFlow

_HOMES = {
    "FlowOutput": "fae_flow.starflow",
    "FlowSampler": "fae_flow.sampling.sampler",
    "FlowTrace": "fae_flow.starflow",
    "Jacobi": "fae_flow.sampling.jacobi",
    "STARFlow": "fae_flow.starflow",
    "STARFlowConfig": "fae_flow.config",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fae_flow' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
