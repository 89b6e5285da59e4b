"""Small flows with random weights, so that no layer is the identity that it starts as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fae_core import LatentSpec
from fae_flow import STARFlow, STARFlowConfig

# Options that, between them, reach every branch of the layers, blocks and importer.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "classes": {"classes": 3},
    "classes-top": {"classes": 3, "condition_top_only": True, "order": "L2R", "final_norm": True},
    "text": {"text_dim": 5, "text_tokens": 4, "soft_clip": 2.0, "scale": "softplus"},
    "text-top": {"text_dim": 5, "text_tokens": 1, "condition_top_only": True, "top_width": 32, "sos": False},
    "gemma-like": {
        "classes": 3,
        "mlp": "geglu",
        "norm": "rms",
        "heads": 4,
        "kv_heads": 2,
        "rope_layout": "half",
        "qk_norm": True,
        "post_norm": True,
        "bias": False,
    },
    "patches": {
        "patch_size": 2,
        "mlp": "swiglu",
        "norm": "none",
        "sos": False,
        "layers": (1, 0, 2),
        "rope_length": 8,
        "soft_clip": 1.0,
    },
    "table": {"classes": 3, "rope": False, "heads": 2, "kv_heads": 1},
}


def make_flow(spec: LatentSpec, seed: int = 0, **fields: Any) -> STARFlow:
    """A two-block flow, 48 wide, every weight random."""
    config = STARFlowConfig(**{"width": 48, "layers": (1, 2), "head_dim": 16, **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = STARFlow(config, spec).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Sigmas far from 1 compound from token to token until nothing is comparable.
            scale = 0.03 if "proj_out" in name else 0.1 if parameter.ndim > 1 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=random))
    return model


def make_condition(model: STARFlow, batch: int, seed: int = 1) -> torch.Tensor | None:
    """Labels, text or None, as the model needs."""
    random = torch.Generator().manual_seed(seed)
    if model.config.classes:
        return torch.arange(batch) % model.config.classes
    if model.config.text_dim:
        return torch.randn(batch, model.config.text_tokens, model.config.text_dim, generator=random)
    return None


def make_latents(spec: LatentSpec, batch: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(batch, *spec.shape, generator=torch.Generator().manual_seed(seed))


CONDITIONAL = {name: fields for name, fields in VARIANTS.items() if {"classes", "text_dim"} & fields.keys()}


@pytest.fixture
def spec() -> LatentSpec:
    return LatentSpec(3, 4, 6, (64, 96), "toy/backbone", fingerprint="toy")


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def flow(request: pytest.FixtureRequest, spec: LatentSpec) -> STARFlow:
    return make_flow(spec, **request.param)


@pytest.fixture(params=list(CONDITIONAL.values()), ids=list(CONDITIONAL))
def conditional_flow(request: pytest.FixtureRequest, spec: LatentSpec) -> STARFlow:
    return make_flow(spec, **request.param)


@pytest.fixture
def build(spec: LatentSpec) -> Callable[..., STARFlow]:
    return lambda **fields: make_flow(spec, **fields)


@pytest.fixture
def condition_for() -> Callable[..., torch.Tensor | None]:
    return make_condition


@pytest.fixture
def latents_for() -> Callable[..., torch.Tensor]:
    return make_latents
