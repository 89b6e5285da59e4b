"""Weights of apple/ml-starflow's transformer_flow.Model, key by key.

Every trainable tensor there has exactly one counterpart here, of the same size. Buffers that it has for old checkpoints
(`var`, `attn_mask`, `feat_rope.*`) hold no information and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field
from torch import Tensor

from fae_core.config import Config, parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.models.folder import load_state
from fae_core.models.no_init import no_initial_weights
from fae_core.models.pretrained import PretrainedModel
from fae_core.spec import LatentSpec
from fae_flow.config import STARFlowConfig

Model = TypeVar("Model", bound=PretrainedModel)
_EMPTY_BUFFERS = re.compile(r"(^var$|^feat_rope|attn_mask$)")
_RENAMED = (
    (r"\.sos_embed$", ".sos"),
    (r"\.pos_embed$", ".position"),
    (r"\.proj_txt\.", ".text."),
    (r"\.attn_blocks\.(\d+)\.", r".layers.\1."),
    (r"\.attention\.norm\.", ".attention_norm."),
    (r"\.attention\.post_norm\.", ".attention_post_norm."),
    (r"\.attention\.query_norm\.", ".attention.q_norm."),
    (r"\.attention\.key_norm\.", ".attention.k_norm."),
    (r"\.mlp\.norm\.", ".mlp_norm."),
    (r"\.mlp\.post_norm\.", ".mlp_post_norm."),
    (r"\.mlp\.main\.0\.", ".mlp.up."),
    (r"\.mlp\.main\.2\.", ".mlp.down."),
    (r"\.mlp\.(gate|up|down)_proj\.", r".mlp.\1."),
)
_SOURCE = "the official checkpoint"
_NORMS = {"layer_norm": "layer", "rms_norm": "rms"}


class _Sizes(Config):
    """The arguments that the original has no default for; STARFlowConfig checks the others."""

    in_channels: int = Field(ge=1)
    img_size: int = Field(ge=1)
    patch_size: int = Field(ge=1)
    channels: int = Field(ge=1)
    num_blocks: int = Field(ge=1, le=64)
    layers_per_block: tuple[int, ...] = Field(min_length=1)


def load_official(
    cls: type[Model],
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    spec: LatentSpec | None,
    fields: dict[str, Any],
) -> Model:
    """A model from the original's weights; with `classes` in fields, one of one-hot labels becomes one of class labels.

    Args:
        cls: the model's class.
        state_dict: the original's tensors by name.
        config: its constructor's arguments.
        spec: the latent space; None = one of the right shape.
        fields: of STARFlowConfig, which take precedence; see `STARFlow.from_official`.

    Raises:
        InvalidFile: if keys or arguments do not fit.
        FAEError: for options of the video model and for `use_pretrained_lm`.
    """
    where = "official STARFlow config"
    sizes = parse_config(_Sizes, {name: config[name] for name in _Sizes.model_fields if name in config}, where)
    channels, side = sizes.in_channels, sizes.img_size
    if spec is None:
        shape = {"channels": channels, "height": side, "width": side, "image_size": 8 * side}
        spec = LatentSpec.from_dict({**shape, "backbone": "apple/ml-starflow"}, where)
    elif spec.channels != channels:
        raise InvalidFile(f"the official model has {channels} channels, the latent spec {spec.channels}")
    defaults = _config_fields(config, sizes)
    if fields.get("classes") is not None:
        if defaults["text_dim"] != fields["classes"] + 1:
            raise InvalidFile(f"{fields['classes']} classes and none do not fit txt_dim {defaults['text_dim']}")
        defaults["text_dim"] = None
    own = parse_config(STARFlowConfig, {**defaults, **fields}, where)
    with no_initial_weights():
        model = cls(own, spec)
    load_state(model, _rename(state_dict, own), _SOURCE)
    return model.eval()


def _config_fields(config: Mapping[str, Any], sizes: _Sizes) -> dict[str, Any]:
    """STARFlowConfig's fields from the original's arguments, with the original's defaults."""
    if config.get("use_pretrained_lm"):
        raise FAEError("use_pretrained_lm: the original's own constructor fails on it, so there is nothing to import")
    if config.get("learnable_self_denoiser"):
        raise FAEError("learnable_self_denoiser belongs to the video model, which fae-flow leaves out")
    blocks, layers = sizes.num_blocks, list(sizes.layers_per_block)
    layers = layers * blocks if len(layers) == 1 else [*layers[: blocks - 1], layers[-1]]
    txt_size, txt_dim = config.get("txt_size", 0), config.get("txt_dim", 0)
    return {
        "width": sizes.channels,
        "layers": layers,
        "top_width": config.get("top_block_channels"),
        "head_dim": config.get("head_dim", 64),
        "heads": config.get("num_heads"),
        "kv_heads": config.get("num_kv_heads"),
        "patch_size": sizes.patch_size,
        "mlp": "geglu" if config.get("use_swiglu") else "gelu",
        "norm": _NORMS.get(str(config.get("norm_type", "layer_norm")), "none"),
        "post_norm": bool(config.get("use_post_norm")),
        "final_norm": bool(config.get("use_final_norm")),
        "qk_norm": bool(config.get("use_qk_norm")),
        "bias": bool(config.get("use_bias", True)),
        "rope": bool(config.get("rope", False)),
        "rope_layout": "half" if config.get("hf_style_rope") else "interleaved",
        "rope_length": config.get("pt_seq_len") or sizes.img_size // sizes.patch_size,
        "sos": bool(config.get("sos", False)),
        "scale": "softplus" if config.get("use_softplus") else "exp",
        "soft_clip": config.get("soft_clip") or 0.0,
        "order": config.get("seq_order", "R2L"),
        "text_dim": txt_dim or None,
        "text_tokens": txt_size,
        "condition_top_only": bool(config.get("cond_top_only")),
        "gradient_checkpointing": bool(config.get("use_checkpoint")),
        "denoise": False,
    }


def _rename(state_dict: Mapping[str, Tensor], config: STARFlowConfig) -> dict[str, Tensor]:
    """The tensors under our names."""
    # Identity blocks have a number there and none here.
    top = len(config.layers) - 1
    numbers = [i for i, count in enumerate(config.layers) if count > 0 or i == top]
    renamed: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        if _EMPTY_BUFFERS.search(key):
            continue
        head, _, rest = key.partition(".")
        number, _, rest = rest.partition(".")
        if head == "blocks" and number.isdigit() and int(number) in numbers:
            key = f"blocks.{numbers.index(int(number))}.{rest}"
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor.reshape(-1) if key.endswith(".sos") else tensor
    return _labels_from_one_hot(renamed) if config.classes is not None else renamed


def _labels_from_one_hot(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Projections of one-hot labels, the last of which is the null label, as tables of label embeddings."""
    tables = {key: tensor for key, tensor in state.items() if key.endswith(".text.weight")}
    rest = {key: tensor for key, tensor in state.items() if ".text." not in key}
    for key, weight in tables.items():
        bias = state.get(key.replace(".weight", ".bias"))
        if bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise InvalidFile(f"{_SOURCE} is of another model: {key} is not a matrix with a bias for each of its rows")
        rest[key.replace(".text.", ".labels.")] = weight.T + bias
    return rest
