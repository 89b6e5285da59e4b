"""transformers' vision models as a Network: patch features of chosen layers without prefix tokens."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fae_core.errors import CheckpointError, FAEError, MissingPackage
from fae_encoder.backbones.backbone import FeatureMap
from fae_encoder.backbones.timm_network import select_layers
from fae_encoder.backbones.weights import read_state_dict

# Where models keep the norm behind their last block.
_NORMS = ("layernorm", "post_layernorm", "norm")


class TransformersNetwork(nn.Module):
    """A vision model of transformers that gives the outputs of `layers` (transformer blocks, or stages of a conv net).

    The outputs are taken by hooks on the blocks themselves: what a model returns as hidden states is normed for the last
    layer in some and not in others.
    """

    def __init__(self, model: nn.Module, layers: tuple[int, ...] | None, final_norm: bool) -> None:
        super().__init__()
        self.model = model
        object.__setattr__(self, "_blocks", _find_blocks(model))  # a second registration would double the state dict
        self.layers = select_layers(layers, len(self._blocks))
        patch = getattr(model.config, "patch_size", None)
        self._patch = (patch, patch) if isinstance(patch, int) else tuple(patch) if patch else None
        self.channels_last = not hasattr(model.config, "num_attention_heads") and not hasattr(model.config, "num_heads")
        norm = next(
            (getattr(model, name) for name in _NORMS if isinstance(getattr(model, name, None), nn.Module)), None
        )
        self.final_norm = final_norm and norm is not None and not self.channels_last
        object.__setattr__(self, "_norm", norm)
        self._options = inspect.signature(model.forward).parameters

    @property
    def norm(self) -> nn.Module | None:
        """The norm behind the last layer."""
        return self._norm

    def forward(self, x: Tensor) -> list[FeatureMap]:
        outputs: dict[int, Tensor] = {}
        hooks = [self._blocks[i].register_forward_hook(_keep(outputs, i)) for i in self.layers]
        try:
            self.model(pixel_values=x, **self._arguments(x))
        finally:
            for hook in hooks:
                hook.remove()
        return [self._as_map(outputs[i], x.shape[-2:]) for i in self.layers]

    def head(self, features: FeatureMap, pool: str | None) -> Tensor:
        raise FAEError("transformers' AutoModel has no classifier; take the timm model of the same weights for logits")

    def embed(self, features: FeatureMap, pool: str | None) -> Tensor:
        """SigLIP's attention pooling, or a mean over patches where pool="avg" asks for it."""
        if self.layers[0] != len(self._blocks) - 1:
            raise FAEError(f"an embedding needs the last layer's features, not layer {self.layers[0]}'s")
        x_BNC = features.tokens_BNC
        if self._norm is not None and not self.final_norm and not self.channels_last:
            x_BNC = self._norm(x_BNC)
        if pool == "avg":
            return x_BNC.mean(dim=1)
        if pool is None and type(getattr(self.model, "head", None)).__name__.endswith("AttentionPoolingHead"):
            return self.model.head(x_BNC)
        raise FAEError(
            f"{type(self.model).__name__} pools what is not part of the features; pass pool='avg' for their mean"
        )

    def class_token(self, x: Tensor) -> Tensor:
        # Only where the model itself applies its last norm to all tokens, as ViT and DINOv2 do.
        if getattr(getattr(self.model, "embeddings", None), "cls_token", None) is None or not hasattr(
            self.model, "layernorm"
        ):
            raise FAEError(f"{type(self.model).__name__} has no class token behind a final norm")
        return self.model(pixel_values=x, **self._arguments(x)).last_hidden_state[:, 0]

    def _arguments(self, x: Tensor) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if "interpolate_pos_encoding" in self._options and _trained_size(self.model.config) != tuple(x.shape[-2:]):
            arguments["interpolate_pos_encoding"] = True
        if hasattr(self.model.config, "mask_ratio"):
            # MAE shuffles its patches by noise even where it masks none; ascending noise keeps their order.
            patches = (x.shape[-2] // self._patch[0]) * (x.shape[-1] // self._patch[1])
            arguments["noise"] = torch.arange(patches, dtype=torch.float32, device=x.device).expand(x.shape[0], -1)
        return arguments

    def _as_map(self, output: Tensor, size: tuple[int, int]) -> FeatureMap:
        if output.ndim == 4:
            return FeatureMap(output.permute(0, 2, 3, 1).flatten(1, 2), tuple(output.shape[-2:]))
        if self._patch is None:
            raise FAEError(f"{type(self.model).__name__} has tokens but no patch size: their grid is unknown")
        grid = (size[0] // self._patch[0], size[1] // self._patch[1])
        prefix = output.shape[1] - grid[0] * grid[1]
        if prefix < 0:
            raise FAEError(f"{type(self.model).__name__} merges tokens between layers: their grid is unknown")
        tokens = self._norm(output) if self.final_norm else output
        return FeatureMap(tokens[:, prefix:], grid)


def create_transformers_model(
    name: str, weights: str | None, hf_config: dict[str, Any] | None
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """A vision tower with its weights, its configuration as a dict, and its image processor's settings (perhaps empty)."""
    try:
        from transformers import AutoConfig, AutoModel, ImageProcessingMixin
    except ImportError:
        raise MissingPackage(f"the backbone hf/{name}", "fae-encoder[transformers]") from None
    on_meta = torch.get_default_device().type == "meta"
    try:
        if hf_config is not None:
            configuration = AutoConfig.for_model(**hf_config)
        else:
            configuration = AutoConfig.from_pretrained(name, trust_remote_code=False)
        configuration = getattr(configuration, "vision_config", configuration)
        if weights == "pretrained" and not on_meta:
            model, report = AutoModel.from_pretrained(
                name, output_loading_info=True, trust_remote_code=False, dtype=torch.float32
            )
            if report["missing_keys"]:
                raise CheckpointError(f"{name} lacks weights, such as {sorted(report['missing_keys'])[0]}")
        else:
            model = AutoModel.from_config(configuration)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:240]
        raise CheckpointError(f"the backbone hf/{name} could not be had: {reason}") from None
    model = getattr(model, "vision_model", model)
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        raise FAEError(
            f"{name} takes packed patches of any resolution (NaFlex); use the fixed-resolution model instead"
        )
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
    if weights not in (None, "pretrained", "pip", "stored") and not on_meta:
        _load_file(model, weights)
    processor: dict[str, Any] = {}
    if hf_config is None:
        try:
            processor, _ = ImageProcessingMixin.get_image_processor_dict(name)
        except OSError:
            processor = {}  # create_backbone asks for mean and std where they are not given either
    return model, model.config.to_dict(), processor


def input_size(configuration: dict[str, Any], processor: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) that the processor crops or resizes to, else that of the configuration, else None."""
    for size in (processor.get("crop_size") if processor.get("do_center_crop") else None, processor.get("size")):
        if isinstance(size, int):
            return size, size
        if isinstance(size, dict) and {"height", "width"} <= size.keys():
            return size["height"], size["width"]
        if isinstance(size, dict) and "shortest_edge" in size:
            return size["shortest_edge"], size["shortest_edge"]
    size = configuration.get("image_size")
    return (size, size) if isinstance(size, int) else tuple(size) if size else None


def _trained_size(configuration: Any) -> tuple[int, int] | None:
    size = getattr(configuration, "image_size", None)
    return (size, size) if isinstance(size, int) else tuple(size) if size else None


def _find_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of transformer blocks or stages: the outermost one whose length the configuration names."""
    configuration = model.config
    depths = getattr(configuration, "depths", None)
    length = len(depths) if depths else getattr(configuration, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            return module
    raise FAEError(f"the blocks of {type(model).__name__} were not found, so it cannot be a backbone")


def _keep(outputs: dict[int, Tensor], index: int) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        outputs[index] = output[0] if isinstance(output, tuple) else output

    return hook


def _load_file(model: nn.Module, path: str) -> None:
    from fae_core.hub import load_state

    state = read_state_dict(Path(path))
    prefixes = (f"{model.base_model_prefix}.", "vision_model.", "model.vision_model.")
    for prefix in prefixes:
        inside = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        if inside and model.state_dict().keys() <= inside.keys():
            state = {name: inside[name] for name in model.state_dict()}
            break
    load_state(model, state, str(path))
