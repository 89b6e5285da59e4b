"""The class of a model's settings, found without the model itself, which needs torch.

Packages name it under the entry-point group "fae.configs", keyed by `model_type`. Where one does not, the model's own
class is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fae_core.errors import UnknownName
from fae_core.plugins import load_plugins

if TYPE_CHECKING:
    from fae_core.config import Config


def config_class_of(model_type: str, model: Callable[[], Any] | None = None) -> type[Config]:
    """The class of a model's settings.

    Args:
        model_type: Of the model.
        model: Imports its class, where no entry point names one; None: by "fae.models".

    Raises:
        UnknownName: No installed package has such models.
    """
    configs, models = load_plugins("fae.configs"), load_plugins("fae.models")
    if model_type in configs:
        return configs[model_type].load()
    if model is not None:
        return model().config_class
    if model_type not in models:
        raise UnknownName("model type", model_type, {*configs, *models})
    return models[model_type].load().config_class
