"""Constructor arguments of the originals of SiT and LightningDiT, of REPA's SiT and RAE's networks, and our fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fae_core.config import Config, parse_config
from fae_core.errors import InvalidFile, UnknownName
from fae_core.spec import LatentSpec
from fae_diffusion.transport import shift_for_size

# Constructor arguments of the originals: name, default, and our field.
ARGUMENTS: dict[str, dict[str, tuple[Any, str | None]]] = {
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
ARGUMENTS["lightningdit"] = {
    **ARGUMENTS["sit"],
    "in_channels": (32, None),
    "learn_sigma": (False, "learn_sigma"),
    "use_qknorm": (False, "qk_norm"),
    "use_swiglu": (False, "swiglu"),
    "use_rope": (False, "rope"),
    "use_rmsnorm": (False, "rms_norm"),
    "wo_shift": (False, "wo_shift"),
    "use_checkpoint": (False, "gradient_checkpointing"),
}

# REPA's SiT, whose projectors serve its training alone.
ARGUMENTS["repa"] = {
    **{name: value for name, value in ARGUMENTS["sit"].items() if name != "learn_sigma"},
    "qk_norm": (False, "qk_norm"),
    "path_type": ("edm", None),
    "decoder_hidden_size": (768, None),
    "encoder_depth": (8, None),
    "use_cfg": (False, None),
    "z_dims": ([768], None),
    "projector_dim": (2048, None),
    "fused_attn": (True, None),
}
# RAE's own LightningDiT. Its `use_gembed` changes nothing: time always has the Gaussian embedding.
ARGUMENTS["rae"] = {
    **ARGUMENTS["lightningdit"],
    "input_size": (16, None),
    "patch_size": (1, "patch_size"),
    "in_channels": (768, None),
    "use_swiglu": (True, "swiglu"),
    "use_rope": (True, "rope"),
    "use_rmsnorm": (True, "rms_norm"),
    "use_gembed": (True, None),
}
del ARGUMENTS["rae"]["use_checkpoint"]
# DiT^DH: sizes are pairs, of the blocks and of the head.
ARGUMENTS["ditdh"] = {
    **{name: value for name, value in ARGUMENTS["rae"].items() if name not in ("learn_sigma", "use_gembed")},
    "input_size": (1, None),
    "patch_size": (1, None),
    "hidden_size": ([1152, 2048], None),
    "depth": ([28, 2], None),
    "num_heads": ([16, 16], None),
    "use_pos_embed": (True, "position_table"),
}
# REPA's paths as ours. Nothing there reads its constructor's default "edm"; its loss and samplers begin with "linear".
_PATHS = {"linear": "linear", "edm": "linear", "cosine": "gvp"}
RAE = ("rae", "ditdh")
OUR_TIME = ("repa", *RAE)  # t = 1 is noise, and the velocity noise - data

# What the released checkpoints were built with, where that is not the constructor's default.
RELEASED: dict[str, dict[str, Any]] = {
    "sit": {},
    "lightningdit": {"input_size": 16, "patch_size": 1, "use_swiglu": True, "use_rope": True, "use_rmsnorm": True},
    "ditdh": {"input_size": 16},
}
_SIZES = {
    "S": {"depth": 12, "hidden_size": 384, "num_heads": 6},
    "B": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "L": {"depth": 24, "hidden_size": 1024, "num_heads": 16},
    "XL": {"depth": 28, "hidden_size": 1152, "num_heads": 16},
    "1p0B": {"depth": 24, "hidden_size": 1536, "num_heads": 24},
    "1p6B": {"depth": 28, "hidden_size": 1792, "num_heads": 28},
}

# Sizes of DiT^DH with a configuration in RAE's repository; the head is the same in both.
_HEADED = {
    "S": {"depth": [12, 2], "hidden_size": [384, 2048], "num_heads": [6, 16]},
    "XL": {"depth": [28, 2], "hidden_size": [1152, 2048], "num_heads": [16, 16]},
}


def _pair_of(size: Any) -> Any:
    """One number as two."""
    return (size, size) if isinstance(size, int) else size


class _Latents(Config):
    """What no field of ours is and no config of ours checks: (height, width) of the latents, and their channels."""

    input_size: Annotated[tuple[int, int], BeforeValidator(_pair_of)]
    in_channels: int = Field(ge=1)


def official_arguments(layout: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The original's constructor arguments, completed by its defaults; `input_size` as (height, width).

    Args:
        layout: "sit", "repa", "lightningdit", "rae" or "ditdh"; see `layout_of`.
        config: some of the arguments.

    Raises:
        UnknownName: for an argument that the original does not have.
        InvalidSettings: for wrong sizes of latents.
    """
    known = ARGUMENTS[layout]
    for name in config:
        if name not in known:
            raise UnknownName(f"constructor argument of the original {layout}", str(name), known)
    arguments = {name: config.get(name, default) for name, (default, _) in known.items()}
    latents = {name: arguments[name] for name in _Latents.model_fields}
    return {**arguments, **dict(parse_config(_Latents, latents, f"arguments of the original {layout}"))}


def architecture(layout: str, name: str) -> dict[str, Any]:
    """Constructor arguments of a size.

    Args:
        layout: "sit", "lightningdit" or "ditdh".
        name: such as "XL/2" or "SiT-XL/2", as in the original code; of DiT^DH "XL" or "DiTDH-XL", without a patch.

    Raises:
        UnknownName: for another size.
    """
    if layout == "ditdh":
        size = name.rpartition("-")[2]
        if size not in _HEADED:
            raise UnknownName(f"{layout} architecture", name, list(_HEADED))
        return dict(_HEADED[size])
    size, slash, patch = name.rpartition("-")[2].partition("/")
    if size not in _SIZES or not slash or not patch.isdecimal():
        raise UnknownName(f"{layout} architecture", name, [f"{size}/{patch}" for size in _SIZES for patch in (1, 2, 4)])
    return {**_SIZES[size], "patch_size": int(patch)}


def derived_spec(layout: str, arguments: Mapping[str, Any]) -> LatentSpec:
    """The latent space that an original was made for, derived from its arguments.

    Args:
        layout: "sit" and "repa": SD's VAE, 8 pixels per latent position; "lightningdit": VA-VAE, and RAE's: 16 pixels.
        arguments: of the original's constructor, as `official_arguments` gives them.
    """
    (height, width), factor = arguments["input_size"], 8 if layout in ("sit", "repa") else 16
    sizes = {"height": height, "width": width, "image_size": (height * factor, width * factor)}
    fields = {"channels": arguments["in_channels"], **sizes}
    spec = LatentSpec.from_dict({**fields, "backbone": f"official/{layout}"}, f"official {layout} config")
    if layout in ("sit", "repa") and spec.channels == 4:
        # SD's VAE: SiT multiplies its latents by 0.18215.
        return spec.with_statistics([0.0] * 4, [1 / 0.18215] * 4)
    return spec


def repa_fields(arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Our fields that REPA's arguments do not name one by one: the transport, of its path.

    Args:
        arguments: of the original's constructor, complete.
        where: what the arguments are called in messages.

    Raises:
        InvalidFile: for a path that REPA does not have.
    """
    name = str(arguments["path_type"])
    if name not in _PATHS:
        raise InvalidFile(f"{where}: path_type is linear or cosine in REPA's SiT, not {name!r}")
    return {"transport": {"path": _PATHS[name]}}


def rae_fields(layout: str, arguments: Mapping[str, Any], spec: LatentSpec, where: str) -> dict[str, Any]:
    """Our fields that RAE's arguments do not name one by one, with the transport and sampling of all its models.

    Args:
        layout: "rae" or "ditdh".
        arguments: of the original's constructor, complete.
        spec: of its latents, whose size decides the shift of times.
        where: what the arguments are called in messages.

    Raises:
        InvalidFile: for arguments with which the original does not run.
    """
    # Its training takes logit-normal times and shifts them by the size of a latent, its sampling goes through 50 points
    # of time, from 1 to 0.001 before the shift.
    shift = max(1.0, shift_for_size(math.prod(spec.shape)))  # it refuses less than 1
    fields: dict[str, Any] = {
        "time_embedding": "gaussian",
        "transport": {"time": "logit_normal", "shift": shift},
        "sampling": {"method": "euler", "steps": 49, "end": 1e-3},
    }
    if arguments["wo_shift"]:
        raise InvalidFile(f"{where}: wo_shift is false in RAE's networks, whose originals do not run without shifts")
    if layout == "rae":
        return fields
    patches = arguments["patch_size"]
    if patches not in (1, [1, 1], (1, 1)):
        raise InvalidFile(f"{where}: patch_size is 1 in DiT^DH, whose original runs with no other, not {patches}")
    pairs = {name: _pair(arguments[name], name, where) for name in ("hidden_size", "depth", "num_heads")}
    ours = {"hidden_size": "width", "depth": "depth", "num_heads": "heads"}
    body, head = ({field: pairs[name][i] for name, field in ours.items()} for i in (0, 1))
    return {**fields, **body, "head": head}


def _pair(value: Any, name: str, where: str) -> tuple[Any, Any]:
    """(of the blocks, of the head); one number of heads is for both."""
    if name == "num_heads" and isinstance(value, int):
        return value, value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InvalidFile(f"{where}: {name} is a pair in DiT^DH, of the blocks and of the head, not {value!r}")
    return value[0], value[1]
