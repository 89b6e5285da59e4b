"""transformers' vision models as a Network: patch features of chosen layers without prefix tokens."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError, InvalidFile, MissingPackage
from fae_core.models.transformers_models import load_model, make_config, new_model, read_config, renamed_weights
from fae_encoder.backbones.config import BackboneConfig
from fae_encoder.backbones.hf_processor import pair, processing
from fae_encoder.backbones.network import FeatureMap, Network
from fae_encoder.backbones.timm_network import select_layers
from fae_encoder.backbones.weights import cached_commit, read_state_dict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("fae")

# Where models keep the norm behind their last block.
_NORMS = ("layernorm", "post_layernorm", "norm", "rms_norm")


class TransformersNetwork(Network):
    """A transformers vision model that returns the outputs of `layers` (transformer blocks, or convolutional stages).

    The outputs are taken by hooks on the blocks themselves, because only some models apply their final norm to the last
    of the hidden states that they return.

    Args:
        model: the vision model.
        layers: layer numbers, from 0 or from the end; None = the last.
        final_norm: pass the outputs through the model's final norm, if it has one over tokens.
        as_before: find features as `BackboneConfig.reading` 1 does.

    Raises:
        FAEError: if the model's blocks are not found, or a layer does not exist.
    """

    model: PreTrainedModel
    _blocks: nn.ModuleList
    _norm: nn.Module | None

    def __init__(
        self, model: PreTrainedModel, layers: tuple[int, ...] | None, final_norm: bool, as_before: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        object.__setattr__(self, "_blocks", _find_blocks(model))  # a second registration would double the state dict
        self.layers = select_layers(layers, len(self._blocks))
        self._patch = pair(getattr(model.config, "patch_size", None))
        self.channels_last = not hasattr(model.config, "num_attention_heads") and not hasattr(model.config, "num_heads")
        parts = dict(model.named_children())
        norm = next((parts[name] for name in _NORMS if name in parts and not (as_before and name == "rms_norm")), None)
        self.final_norm = final_norm and norm is not None and not self.channels_last
        object.__setattr__(self, "_norm", norm)
        self._options = set(inspect.signature(model.forward).parameters)
        self._as_before = as_before
        # YOLOS alone has tokens behind its patches; what other models add (class, registers, masks) is in front.
        self._behind: int = getattr(model.config, "num_detection_tokens", 0)

    @property
    def norm(self) -> nn.Module | None:
        return self._norm

    def forward(self, x: Tensor) -> list[FeatureMap]:
        outputs: dict[int, Tensor] = {}
        hooks = [self._blocks[i].register_forward_hook(_keep(outputs, i)) for i in self.layers]
        try:
            self.model(pixel_values=x, **self._arguments(x))
        finally:
            for hook in hooks:
                hook.remove()
        return [self._as_map(outputs[i], (x.shape[-2], x.shape[-1])) for i in self.layers]

    def head(self, features: FeatureMap, pool: str | None) -> Tensor:
        raise FAEError("transformers' AutoModel has no classifier; take the timm model of the same weights for logits")

    def embed(self, features: FeatureMap, pool: str | None) -> Tensor:
        """The embedding of SigLIP's attention pooling, or the mean over patches for pool="avg"."""
        if self.layers[0] != len(self._blocks) - 1:
            raise FAEError(f"an embedding needs the last layer's features, not layer {self.layers[0]}'s")
        x_BNC = features.tokens_BNC
        if self._norm is not None and not self.final_norm and not self.channels_last:
            x_BNC = self._norm(x_BNC)
        if pool == "avg":
            return x_BNC.mean(dim=1)
        if pool is None and type(getattr(self.model, "head", None)).__name__.endswith("AttentionPoolingHead"):
            return self.model.get_submodule("head")(x_BNC)
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
            assert self._patch is not None
            # MAE shuffles its patches by noise even where it masks none; ascending noise keeps their order.
            patches = (x.shape[-2] // self._patch[0]) * (x.shape[-1] // self._patch[1])
            arguments["noise"] = torch.arange(patches, dtype=torch.float32, device=x.device).expand(x.shape[0], -1)
        return arguments

    def _as_map(self, output: Tensor, size: tuple[int, int]) -> FeatureMap:
        """The patches of a layer's output for images of a size."""
        if output.ndim == 4:
            found = self._of_axes(output, size)
        elif self._patch is None:
            raise FAEError(f"{type(self.model).__name__} has tokens but no patch size: their grid is unknown")
        else:
            grid = (size[0] // self._patch[0], size[1] // self._patch[1])
            first = self._first_patch(output.shape[1], grid[0] * grid[1])
            found = FeatureMap(output[:, first : first + grid[0] * grid[1]], grid)
        if self.final_norm and self._norm is not None:
            return FeatureMap(self._norm(found.tokens_BNC), found.grid)
        return found

    def _of_axes(self, output: Tensor, size: tuple[int, int]) -> FeatureMap:
        """A map whose channels come before height and width, or behind them as SAM's do: the sides are the image's."""
        before, behind = _in_proportion(output.shape[2:], size), _in_proportion(output.shape[1:3], size)
        if self._as_before or (before and (self.channels_last or not behind)):
            return FeatureMap.of(output)
        if behind and not before:
            return FeatureMap(output.flatten(1, 2), (output.shape[1], output.shape[2]))
        raise FAEError(
            f"{type(self.model).__name__} makes {tuple(output.shape[1:])} of an image of {size[0]}x{size[1]}: which of "
            "these are height and width is unknown"
        )

    def _first_patch(self, tokens: int, patches: int) -> int:
        """The place of the first patch among a layer's tokens."""
        if tokens < patches:
            raise FAEError(f"{type(self.model).__name__} merges tokens between layers: their grid is unknown")
        return tokens - patches - (0 if self._as_before else self._behind)


def _in_proportion(sides: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a map of these sides covers an image with one stride, up to rounding."""
    (height, width), (rows, columns) = sides, size
    return height <= rows and width <= columns and abs(height * columns - width * rows) <= max(size)


def create_transformers_model(name: str, config: BackboneConfig) -> tuple[PreTrainedModel, BackboneConfig]:
    """A transformers vision model with its weights, and its config with everything resolved.

    Args:
        name: the repository or folder, without "hf/".
        config: the backbone's configuration.

    Returns:
        The model, and the config with the model's own configuration, the size, mean, std and filter of its image
        processor, and the commit of its weights.

    Raises:
        FAEError: if the model takes packed patches (also MissingPackage without transformers, InvalidFile for weights).
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise MissingPackage(f"the backbone hf/{name}", "fae-encoder[transformers]") from None
    on_meta = torch.get_default_device().type == "meta"
    weights = config.weights
    found: dict[str, Any] = {}
    missing: list[str] = []
    try:
        if config.hf_config is None:
            configuration = read_config(name, revision=config.revision)
        else:
            configuration = make_config(_own_settings(config.hf_config), name)
        _require_no_wrapper(configuration, name)
        if weights == "pretrained" and not on_meta:
            options = {"dtype": torch.float32, "revision": config.revision}
            whole, missing = load_model(name, configuration, **options)
            if config.revision is None and not Path(name).is_dir():
                found["revision"] = cached_commit(name)
        else:
            whole = new_model(getattr(configuration, "vision_config", configuration), name)
        model, missing = _vision_part(whole, missing)
        unread = _unread(model)
        needed = [weight for weight in missing if weight not in unread]
        if needed:
            raise InvalidFile(f"{name} lacks weights, such as {needed[0]}")
    except InvalidFile as error:
        pickled = weights == "pretrained" and next(Path(name).glob("*.bin"), None) is not None
        hint = "; to read a .bin file, which is never unpickled, give its path as the weights" if pickled else ""
        raise InvalidFile(f"the backbone hf/{name} could not be had: {error}{hint}") from None
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        raise FAEError(
            f"{name} takes packed patches of any resolution (NaFlex); use the fixed-resolution model instead"
        )
    if hasattr(model.config, "mask_ratio"):
        model.config.update({"mask_ratio": 0.0})
    if weights not in (None, "pretrained", "stored") and not on_meta:
        missing = _load_file(model, weights, unread)
    if unread and (missing or not config.classifier):
        cast("nn.Module", model).register_module("pooler", None)
        found["classifier"] = False
    found["hf_config"] = _own_settings(model.config.to_dict())
    if config.hf_config is None:
        found.update(processing(name, config, found["hf_config"]))
    return model, config.model_copy(update=found)


# Left out of a stored configuration: where it came from, and where code for it would be.
_ELSEWHERE = re.compile(r"_*(attn|experts)_implementation(_internal)?|auto_map|_?name_or_path")


def _own_settings(settings: Any) -> Any:
    """A configuration without entries that refer to other places, at every depth."""
    if isinstance(settings, dict):
        return {key: _own_settings(value) for key, value in settings.items() if not _ELSEWHERE.fullmatch(str(key))}
    return settings


def _require_no_wrapper(configuration: Any, name: str) -> None:
    """Raise InvalidFile for a configuration with which transformers would let timm fetch another model from the hub."""
    for part in (configuration, *(getattr(configuration, sub, None) for sub in configuration.sub_configs)):
        if str(getattr(part, "model_type", "")).startswith("timm_"):
            raise InvalidFile(f"{name} wraps a model of timm; name it directly, timm/<model>")


def _trained_size(configuration: Any) -> tuple[int, int] | None:
    return pair(getattr(configuration, "image_size", None))


def _find_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The list of transformer blocks or stages: the outermost one whose length the configuration names."""
    depths = getattr(model.config, "depths", None)
    length = len(depths) if depths else getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == length:
            return module
    raise FAEError(f"the blocks of {type(model).__name__} were not found, so it cannot be a backbone")


def _keep(outputs: dict[int, Tensor], index: int) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        outputs[index] = output[0] if isinstance(output, tuple) else output

    return hook


def _vision_part(whole: nn.Module, missing: list[str]) -> tuple[PreTrainedModel, list[str]]:
    """Of a model of two towers the one for images, and those of the missing weights that are in it."""
    tower = "vision_model." if hasattr(whole, "vision_model") else ""
    model = whole.get_submodule(tower.removesuffix("."))
    return cast("PreTrainedModel", model), [name.removeprefix(tower) for name in missing if name.startswith(tower)]


def _unread(model: PreTrainedModel) -> list[str]:
    """The weights of a pooler that is optional in transformers: no feature passes it, and many files lack it."""
    if "add_pooling_layer" not in inspect.signature(type(model)).parameters:
        return []
    return [name for name in model.state_dict() if name.startswith("pooler.")]


def _load_file(model: PreTrainedModel, path: str, unread: list[str]) -> list[str]:
    """Load a checkpoint file, whose names may be of another version of transformers or have a larger model's prefix.

    Returns:
        The weights that the file lacks, which are among the `unread` ones.
    """
    state = read_state_dict(path)
    for prefix in (f"{model.base_model_prefix}.", "model.", "vision_model."):
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if not inside:
            continue
        left_out = sorted({name.split(".")[0] for name in state if not name.startswith(prefix)})
        if left_out:
            log.warning("%s: took %s* and left out %s", path, prefix, ", ".join(left_out))
        state = inside
    if getattr(model, "pooler", None) is None:
        state = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    weights = renamed_weights(model, state, path, optional=unread)
    model.load_state_dict(weights, strict=False)  # it has all but the unread ones
    return [name for name in unread if name not in weights]
