"""Is a loaded model the one that was saved? Its folder's config.json holds a hash of the weights' values and of the latent spec.

It is a hash of numbers and not of files: weights stored in a shorter type that loses nothing are the same model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from fae_core.spec import LatentSpec


def model_checksum(state: Mapping[str, Tensor], spec: LatentSpec | None) -> str:
    """Hexadecimal SHA-256 of a state dict's names, shapes and values, and of the latent space; about 0.6 s a gigabyte."""
    digest = hashlib.sha256(json.dumps(None if spec is None else spec.to_dict()).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()
        digest.update(f"{name}\x1f{tuple(tensor.shape)}\x1e".encode())
        flat = tensor.contiguous(memory_format=torch.contiguous_format).reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def model_identity(model: Any) -> str | None:
    """A hash of all that a loaded model's output depends on: its configuration, weights and latent space.

    None for a model that is no torch module, of which that cannot be told.
    """
    if not isinstance(model, nn.Module):
        return None
    config = getattr(model, "config", None)
    # What a later version adds with a default changes nothing; where weights were found is no part of what they are.
    dumped = config.model_dump(mode="json", exclude_defaults=True) if isinstance(config, BaseModel) else {}
    settings = json.dumps(_without_places(dumped), sort_keys=True)
    weights = model_checksum(model.state_dict(), getattr(model, "spec", None))
    return hashlib.sha256(f"{type(model).__name__} {settings} {weights}".encode()).hexdigest()


def _without_places(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {key: _without_places(value) for key, value in settings.items() if key not in ("name", "weights")}
