"""Reading the checkpoints of willisma/SiT, sihyun-yu/REPA, hustvl/LightningDiT and bytetriper/RAE.

REPA's and RAE's time and sign are ours. The time of the other two runs the other way (t' = 1 - t, v' = -v). Both
changes are exact linear maps of two layers, so that an imported model needs no flag in its forward:

    first layer of the time MLP    cos((1 - t) w) = cos w cos tw + sin w sin tw
                                   sin((1 - t) w) = sin w cos tw - cos w sin tw
    output layer                   v = -v'
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from fae_core.config import merge, parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.models.folder import load_state
from fae_core.models.no_init import no_initial_weights
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_diffusion.official.arguments import (
    ARGUMENTS,
    OUR_TIME,
    RAE,
    RELEASED,
    architecture,
    derived_spec,
    official_arguments,
    rae_fields,
    repa_fields,
)

__all__ = [
    "RELEASED",
    "architecture",
    "derived_spec",
    "layout_of",
    "load_official",
    "official_arguments",
    "reverse_time",
    "translate_state",
]

ModelT = TypeVar("ModelT", bound=PretrainedModel[Any])

# Their names -> ours, applied in order.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"^pos_embed$", "positions"),
    (r"^x_embedder\.proj\.", "patch_embedding."),
    (r"^t_embedder\.W$", "time_embedding.frequencies"),
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
# In DiT^DH, what feeds the blocks is s_embedder, and x_embedder feeds the head.
_HEAD_NAMES: tuple[tuple[str, str], ...] = (
    (r"^s_embedder\.proj\.", "patch_embedding."),
    (r"^x_embedder\.proj\.", "head.patch_embedding."),
    (r"^s_projector\.", "head.projection."),
)
_ROPES = {"feat_rope.": "rope", "enc_feat_rope.": "rope", "dec_feat_rope.": "head.rope"}
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


def load_official(
    cls: type[ModelT],
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    spec: LatentSpec | None,
    fields: Mapping[str, Any],
) -> ModelT:
    """See `SiT.from_official` and `LightningDiT.from_official`."""
    layout = layout_of(cls.model_type, state_dict)
    arguments = official_arguments(layout, config)
    known = ARGUMENTS[layout]
    translated = {field: arguments[name] for name, (_, field) in known.items() if field is not None}
    spec = spec or derived_spec(layout, arguments)
    where = f"official {cls.__name__} config"
    if layout in RAE:
        translated |= rae_fields(layout, arguments, spec, where)
    if layout == "repa":
        translated |= repa_fields(arguments, where)
    ours: Any = parse_config(cls.config_class, merge(translated, fields), where)
    if ours.transport.prediction != "velocity":
        raise FAEError("from_official reads checkpoints that predict the velocity")
    wanted = (arguments["in_channels"], *arguments["input_size"])
    if spec.shape != wanted:
        raise InvalidFile(f"{where}: its latents of shape {wanted} do not fit the spec's {spec.shape}")
    with no_initial_weights():
        model = cls(ours, spec)
    state = translate_state(state_dict, model, layout)
    load_state(model, state, f"official {cls.__name__} checkpoint")
    return model.eval()


def layout_of(model_type: str, names: Iterable[str]) -> str:
    """Whose layout a checkpoint has, told by names that only one of them has.

    Args:
        model_type: "sit" or "lightningdit", the class that reads it.
        names: of the checkpoint's tensors.

    Returns:
        "sit" or "lightningdit"; "repa" for REPA's SiT; "ditdh" or "rae" for RAE's DiT^DH and LightningDiT.
    """
    found = {WRAPPERS.sub("", name) for name in names}
    if model_type == "sit":
        return "repa" if any(name.startswith("projectors.") for name in found) else "sit"
    if model_type == "lightningdit" and "s_embedder.proj.weight" in found:
        return "ditdh"
    return "rae" if model_type == "lightningdit" and "t_embedder.W" in found else model_type


def translate_state(state_dict: Mapping[str, Tensor], model: torch.nn.Module, layout: str) -> dict[str, Tensor]:
    """An original's state dict with our names, layouts, direction of time and sign.

    Args:
        state_dict: with the original's names.
        model: with which stored tables of rotations are compared.
        layout: see `layout_of`.

    Raises:
        InvalidFile: where they differ.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        name = WRAPPERS.sub("", name)
        if name.startswith(tuple(_ROPES)):
            _check_rope(name, tensor, model)
            continue
        if layout == "repa" and name.startswith("projectors."):
            continue
        for pattern, replacement in (*(_HEAD_NAMES if layout == "ditdh" else ()), *_NAMES):
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.detach().float()
    for name in ("patch_embedding.weight", "head.patch_embedding.weight"):
        if name in state:
            state[name] = state[name].flatten(1)
    if layout in OUR_TIME:
        return state
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
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64, device=weight.device) / half)
    cos, sin = rates.cos(), rates.sin()
    of_cos, of_sin = weight.double().split(half, dim=1)
    return torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1).to(weight.dtype)


def _check_rope(name: str, table: Tensor, model: torch.nn.Module) -> None:
    """Raise InvalidFile where a stored table of rotations differs from the model's own."""
    rope: Any = model
    for part in _ROPES[name.partition(".")[0] + "."].split("."):
        rope = getattr(rope, part, None)
    if rope is None:
        raise InvalidFile(f"the checkpoint holds {name}, but its config has use_rope off")
    own = (rope.cos if name.endswith("cos") else rope.sin).repeat_interleave(2, dim=1)
    if own.shape != table.shape or not torch.allclose(own, table.float().to(own.device), atol=1e-2):
        raise InvalidFile(f"the checkpoint's {name} is not the rotation of its config's grid and heads")
