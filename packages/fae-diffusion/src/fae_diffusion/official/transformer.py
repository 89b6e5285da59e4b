"""Reading the checkpoints of willisma/SiT and hustvl/LightningDiT.

Their time runs the other way (t' = 1 - t, v' = -v). Both changes are exact linear maps of two layers, so that an
imported model needs no flag in its forward:

    first layer of the time MLP    cos((1 - t) w) = cos w cos tw + sin w sin tw
                                   sin((1 - t) w) = sin w cos tw - cos w sin tw
    output layer                   v = -v'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.models.folder import load_state
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec

ModelT = TypeVar("ModelT", bound=PretrainedModel[Any])

# Constructor arguments of the originals: name, default, and our field.
_ARGUMENTS: dict[str, dict[str, tuple[Any, str | None]]] = {
    "sit": {
        "input_size": (32, None),
        "patch_size": (2, "patch_size"),
        "in_channels": (4, None),
        "hidden_size": (1152, "width"),
        "depth": (28, "depth"),
        "num_heads": (16, "heads"),
        "mlp_ratio": (4.0, "mlp_ratio"),
        "class_dropout_prob": (0.1, "class_dropout"),
        "num_classes": (1000, "classes"),
        "learn_sigma": (True, "learn_sigma"),
    }
}
_ARGUMENTS["lightningdit"] = {
    **_ARGUMENTS["sit"],
    "in_channels": (32, None),
    "learn_sigma": (False, "learn_sigma"),
    "use_qknorm": (False, "qk_norm"),
    "use_swiglu": (False, "swiglu"),
    "use_rope": (False, "rope"),
    "use_rmsnorm": (False, "rms_norm"),
    "wo_shift": (False, "wo_shift"),
    "use_checkpoint": (False, "gradient_checkpointing"),
}

# What the released checkpoints were built with, where that is not the constructor's default.
RELEASED: dict[str, dict[str, Any]] = {
    "sit": {},
    "lightningdit": {"input_size": 16, "patch_size": 1, "use_swiglu": True, "use_rope": True, "use_rmsnorm": True},
}
_SIZES = {
    "S": {"depth": 12, "hidden_size": 384, "num_heads": 6},
    "B": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "L": {"depth": 24, "hidden_size": 1024, "num_heads": 16},
    "XL": {"depth": 28, "hidden_size": 1152, "num_heads": 16},
    "1p0B": {"depth": 24, "hidden_size": 1536, "num_heads": 24},
    "1p6B": {"depth": 28, "hidden_size": 1792, "num_heads": 28},
}

# Their names -> ours, applied in order.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"^pos_embed$", "positions"),
    (r"^x_embedder\.proj\.", "patch_embedding."),
    (r"^t_embedder\.", "time_embedding."),
    (r"^y_embedder\.embedding_table\.", "label_embedding.table."),
    (r"\.attn\.", ".attention."),
    (r"adaLN_modulation\.1\.", "modulation."),
    (r"^final_layer\.norm_final\.", "final.norm."),
    (r"^final_layer\.", "final."),
    (r"\.mlp\.(fc1)\.", ".mlp.up."),
    (r"\.mlp\.(fc2)\.", ".mlp.down."),
    (r"\.mlp\.w12\.", ".mlp.gate_up."),
    (r"\.mlp\.w3\.", ".mlp.down."),
)
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


def load_official(
    cls: type[ModelT],
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    spec: LatentSpec | None,
    fields: Mapping[str, Any],
) -> ModelT:
    """See `SiT.from_official` and `LightningDiT.from_official`."""
    arguments = official_arguments(cls.model_type, config)
    known = _ARGUMENTS[cls.model_type]
    translated = {field: arguments[name] for name, (_, field) in known.items() if field is not None}
    where = f"official {cls.__name__} config"
    ours: Any = parse_config(cls.config_class, {**translated, **fields}, where)
    if ours.transport.prediction != "velocity":
        raise FAEError("from_official reads checkpoints that predict the velocity")
    spec = spec or derived_spec(cls.model_type, arguments)
    wanted = (arguments["in_channels"], *_sides(arguments["input_size"]))
    if spec.shape != wanted:
        raise InvalidFile(f"{where}: its latents of shape {wanted} do not fit the spec's {spec.shape}")
    model = cls(ours, spec)
    load_state(model, translate_state(state_dict, model), f"official {cls.__name__} checkpoint")
    return model.eval()


def official_arguments(model_type: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The original's constructor arguments, completed by its defaults.

    Args:
        model_type: "sit" or "lightningdit".
        config: some of the arguments.

    Raises:
        UnknownName: for an argument that the original does not have.
    """
    known = _ARGUMENTS[model_type]
    for name in config:
        if name not in known:
            raise UnknownName(f"constructor argument of the original {model_type}", str(name), known)
    return {name: config.get(name, default) for name, (default, _) in known.items()}


def architecture(model_type: str, name: str) -> dict[str, Any]:
    """Constructor arguments of a size.

    Args:
        model_type: "sit" or "lightningdit", for messages.
        name: such as "XL/2" or "SiT-XL/2", as in the original code.

    Raises:
        UnknownName: for another size.
    """
    size, slash, patch = name.rpartition("-")[2].partition("/")
    if size not in _SIZES or not slash or not patch.isdecimal():
        raise UnknownName(
            f"{model_type} architecture", name, [f"{size}/{patch}" for size in _SIZES for patch in (1, 2, 4)]
        )
    return {**_SIZES[size], "patch_size": int(patch)}


def derived_spec(model_type: str, arguments: Mapping[str, Any]) -> LatentSpec:
    """The latent space that an original was made for, derived from its arguments.

    Args:
        model_type: "sit": SD's VAE, 8 pixels per latent position; "lightningdit": VA-VAE, 16 pixels.
        arguments: of the original's constructor, complete.
    """
    (height, width), factor = _sides(arguments["input_size"]), 8 if model_type == "sit" else 16
    sizes = {"height": height, "width": width, "image_size": (height * factor, width * factor)}
    fields = {"channels": arguments["in_channels"], **sizes}
    spec = LatentSpec.from_dict({**fields, "backbone": f"official/{model_type}"}, f"official {model_type} config")
    if model_type == "sit" and spec.channels == 4:
        # SD's VAE: SiT multiplies its latents by 0.18215.
        return spec.with_statistics([0.0] * 4, [1 / 0.18215] * 4)
    return spec


def _sides(input_size: Any) -> tuple[int, int]:
    """(height, width) of one number or two."""
    height, width = input_size if isinstance(input_size, list | tuple) else (input_size, input_size)
    return height, width


def translate_state(state_dict: Mapping[str, Tensor], model: torch.nn.Module) -> dict[str, Tensor]:
    """An original's state dict with our names, layouts, direction of time and sign.

    Args:
        state_dict: with the original's names.
        model: with which stored tables of rotations are compared.

    Raises:
        InvalidFile: where they differ.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        name = WRAPPERS.sub("", name)
        if name.startswith("feat_rope."):
            _check_rope(name, tensor, model)
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.detach().float()
    patches = state.get("patch_embedding.weight")
    if patches is not None:
        state["patch_embedding.weight"] = patches.flatten(1)
    time = state.get("time_embedding.mlp.0.weight")
    if time is not None:
        state["time_embedding.mlp.0.weight"] = reverse_time(time)
    for name in ("final.linear.weight", "final.linear.bias"):
        if name in state:
            state[name] = -state[name]
    return state


def reverse_time(weight: Tensor) -> Tensor:
    """The first layer of the time MLP for the other direction of time; its own inverse.

    Args:
        weight: (D, 2 F), applied to the features [cos, sin] of 1 - t.

    Returns:
        The weight (D, 2 F) that gives the same result on the features of t.
    """
    half = weight.shape[1] // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    cos, sin = rates.cos(), rates.sin()
    of_cos, of_sin = weight.double().split(half, dim=1)
    return torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1).to(weight.dtype)


def _check_rope(name: str, table: Tensor, model: torch.nn.Module) -> None:
    """Raise InvalidFile where a stored table of rotations differs from the model's own."""
    rope = getattr(model, "rope", None)
    if rope is None:
        raise InvalidFile(f"the checkpoint holds {name}, but its config has use_rope off")
    own = (rope.cos if name.endswith("cos") else rope.sin).repeat_interleave(2, dim=1)
    if own.shape != table.shape or not torch.allclose(own, table.float().to(own.device), atol=1e-2):
        raise InvalidFile(f"the checkpoint's {name} is not the rotation of its config's grid and heads")
