"""The original's configuration files as arguments of its constructor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fae_core.errors import InvalidFile, require_known

# The released YAML files hold the trainer's options; these have another name in its constructor.
_TRAINER_NAMES = {"channel_size": "in_channels", "blocks": "num_blocks"}
# The constructor's arguments that the importer reads; a list of the trainer's options may hold others.
_ARGUMENTS = [
    "in_channels",
    "img_size",
    "patch_size",
    "channels",
    "num_blocks",
    "layers_per_block",
    "top_block_channels",
    "head_dim",
    "num_heads",
    "num_kv_heads",
    "use_swiglu",
    "norm_type",
    "use_post_norm",
    "use_final_norm",
    "use_qk_norm",
    "use_bias",
    "rope",
    "hf_style_rope",
    "pt_seq_len",
    "sos",
    "use_softplus",
    "soft_clip",
    "seq_order",
    "txt_size",
    "txt_dim",
    "cond_top_only",
    "use_checkpoint",
    "use_pretrained_lm",
    "learnable_self_denoiser",
    "noise_std",
    "drop_label",
    "latent_norm_regularization",
]
_VAE_FACTOR = 8  # of the SD-VAE, which the image models were trained with


def constructor_arguments(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The original's constructor arguments, from a mapping of them or a released YAML file (`arguments:` list).

    The list gives image sizes in pixels, and the name of a text encoder instead of its width, which is read
    from the weights.

    Args:
        settings: single arguments, and perhaps a list `arguments`, over which the single ones take precedence.
        state: the checkpoint's tensors by name.

    Raises:
        UnknownName: for a single argument that the importer does not read.
        InvalidFile: for a wrong list.
    """
    given = {key: value for key, value in settings.items() if key != "arguments"}
    require_known("argument of the original", given, _ARGUMENTS)
    if "arguments" not in settings:
        return given
    try:
        listed: dict[str, Any] = {key: value for entry in settings["arguments"] for key, value in entry.items()}
    except (AttributeError, TypeError):
        raise InvalidFile("arguments: must be a list of `- name: value`") from None
    options = {_TRAINER_NAMES.get(key, key): value for key, value in listed.items()}
    layers = options.get("layers_per_block", 8)
    try:
        options["layers_per_block"] = [int(count) for count in str(layers).split()]
    except ValueError:
        raise InvalidFile(
            f"arguments: layers_per_block must be numbers with blanks between, not {str(layers)[:40]!r}"
        ) from None
    if len(options["layers_per_block"]) > 1:
        options["num_blocks"] = len(options["layers_per_block"])
    if options.get("vae"):
        if type(options.get("img_size")) is not int:
            raise InvalidFile("arguments: img_size must be a number of pixels")
        options["img_size"] = options["img_size"] // _VAE_FACTOR
    widths = [tensor.shape[1] for name, tensor in state.items() if name.endswith("proj_txt.weight")]
    return {**options, "txt_dim": widths[0] if widths else 0, **given}
