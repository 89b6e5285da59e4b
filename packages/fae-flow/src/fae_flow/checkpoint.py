"""The original's configuration files in the terms of its constructor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fae_core.errors import CheckpointError

# The released YAML files hold the trainer's options; these are the ones that its constructor knows by another name.
_TRAINER_NAMES = {"channel_size": "in_channels", "blocks": "num_blocks"}
_VAE_FACTOR = 8  # of the SD-VAE, which the image models were trained with


def constructor_arguments(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The original's constructor arguments from a mapping of them, or from a released YAML file (`arguments:` list).

    The latter gives image sizes in pixels and names a text encoder instead of its width, which the weights tell.
    """
    if "arguments" not in settings:
        return dict(settings)
    try:
        options = {key: value for entry in settings["arguments"] for key, value in entry.items()}
    except (AttributeError, TypeError):
        raise CheckpointError("arguments: must be a list of `- name: value`") from None
    options = {_TRAINER_NAMES.get(key, key): value for key, value in options.items()}
    layers = options.get("layers_per_block", 8)
    options["layers_per_block"] = [int(count) for count in str(layers).split()]
    if len(options["layers_per_block"]) > 1:
        options["num_blocks"] = len(options["layers_per_block"])
    if options.get("vae"):
        options["img_size"] = options["img_size"] // _VAE_FACTOR
    widths = [tensor.shape[1] for name, tensor in state.items() if name.endswith("proj_txt.weight")]
    return {**options, "txt_dim": widths[0] if widths else 0}
