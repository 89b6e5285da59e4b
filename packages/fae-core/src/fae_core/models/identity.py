"""Hashes that identify a model by its content. A model folder's config.json holds one, compared when it is loaded.

They are hashes of numbers, not of files: weights stored in a shorter type without loss are the same model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fae_core.config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from fae_core.spec import LatentSpec


def model_checksum(state: Mapping[str, Tensor], spec: LatentSpec | None) -> str:
    """Hexadecimal SHA-256 of names, shapes and values of a state dict, and of the latent space; 0.6 s a gigabyte.

    Args:
        state: Tensors by name.
        spec: The latent space, if any.
    """
    digest = hashlib.sha256(json.dumps(None if spec is None else spec.to_dict()).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()
        digest.update(f"{name}\x1f{tuple(tensor.shape)}\x1e".encode())
        flat = tensor.contiguous(memory_format=torch.contiguous_format).reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_identity(model: Any, *, sampling: bool = True) -> str | None:
    """A hash of what a loaded model's output depends on: its configuration, weights and latent space.

    None for a model that is not a torch module, whose weights are not known.

    Args:
        model: Any model.
        sampling: Whether its own defaults of `sample` (`config.sampling`) are part of it.
    """
    config = getattr(model, "config", None)
    fields = config.deciding(exclude_defaults=True) if isinstance(config, Config) else {}
    if not sampling:
        fields.pop("sampling", None)
    return _identity(model, fields)


def named_identities(generator: Any, options: Mapping[str, Any]) -> dict[str, str | None]:
    """Hashes of the models that options of `sample` name, by option: a folder may hold another one by the next call.

    How these would sample themselves is no part of it.

    Args:
        generator: One that has such options says so by a method `sample_models(options)`, which gives these models.
        options: Of its `sample`.
    """
    models = generator.sample_models(options) if hasattr(generator, "sample_models") else {}
    return {name: model_identity(model, sampling=False) for name, model in models.items()}


def earlier_identity(model: Any) -> str | None:
    """What earlier versions recorded as `model_identity`: with fields that are `speed_only`, without any `name`."""
    config = getattr(model, "config", None)
    fields = config.model_dump(mode="json", exclude_defaults=True) if isinstance(config, Config) else {}
    return _identity(model, _without_names(fields))


def _identity(model: Any, fields: dict[str, Any]) -> str | None:
    """The hash of a torch module and those of its settings that are no defaults; None for other models."""
    if not isinstance(model, nn.Module):
        return None
    settings = json.dumps(fields, sort_keys=True)
    weights = model_checksum(model.state_dict(), getattr(model, "spec", None))
    return hashlib.sha256(f"{type(model).__name__} {settings} {weights}".encode()).hexdigest()


def _without_names(settings: Any) -> Any:
    """Settings without what earlier versions took for a place, whatever it was of."""
    if not isinstance(settings, dict):
        return settings
    return {key: _without_names(value) for key, value in settings.items() if key not in ("name", "weights")}
