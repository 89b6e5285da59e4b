"""The rest of a pretrained network: from the features of one layer to its embedding and its logits.

A classifier can then judge features that went through a latent space without training on them (zero-shot probing).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_encoder.backbones.network import FeatureMap

if TYPE_CHECKING:
    from timm.layers.patch_embed import PatchEmbed

# What the head of a transformer is made of here; other heads (CaiT, ConViT, XCiT, TNT) go on differently.
_TRANSFORMER_HEAD = ("norm", "fc_norm", "head_drop", "head", "global_pool")
# Networks whose layers are `blocks`, each the input of the next; GhostNet's are others, MobileNetV5 joins several.
_BLOCKS = ("EfficientNet", "MobileNetV3")


class TimmModel(Protocol):
    """What is used of timm's models. All have the methods and `feature_info`, and the named kinds have the rest."""

    feature_info: Any
    blocks: nn.Sequential  # transformers, EfficientNet, MobileNet
    patch_embed: PatchEmbed  # transformers, from here on
    num_prefix_tokens: int
    norm: nn.Module
    fc_norm: nn.Module
    head_drop: nn.Module
    head: nn.Module
    attn_pool: nn.Module
    global_pool: str
    conv_head: nn.Module  # EfficientNet and its norm
    bn2: nn.Module
    stages: nn.Sequential  # ConvNeXt and its norm
    norm_pre: nn.Module
    maxpool: nn.Module  # ResNet

    def forward_intermediates(self, x: Tensor, **options: Any) -> list[Tensor]: ...

    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...


def timm_logits(model: TimmModel, features: FeatureMap, layer: int, normed: bool, pool: str | None) -> Tensor:
    """Logits of timm's classifier.

    Args:
        model: the timm model.
        features: the output of `layer`.
        layer: its number, from 0.
        normed: whether the features have passed the final norm.
        pool: how a transformer's tokens are pooled; None = as the network itself does.

    Returns:
        (B, classes).

    Raises:
        FAEError: if the model has no classifier, or its classifier needs more than these features.
    """
    if not getattr(model, "num_classes", 0):
        raise FAEError(f"{type(model).__name__} was pretrained without a classifier: it has embeddings, but no logits")
    if is_transformer(model):
        return model.head(model.head_drop(timm_embedding(model, features, layer, normed, pool)))
    return model.forward_head(_rest_of_conv_net(model, features, layer, pool))


def timm_embedding(model: TimmModel, features: FeatureMap, layer: int, normed: bool, pool: str | None) -> Tensor:
    """The pooled vector (B, D') in front of the classifier; arguments and errors as of `timm_logits`."""
    if not is_transformer(model):
        return model.forward_head(_rest_of_conv_net(model, features, layer, pool), pre_logits=True)
    if not all(hasattr(model, part) for part in _TRANSFORMER_HEAD):
        raise _unknown(model, layer)
    if layer != len(model.blocks) - 1:
        raise FAEError(
            f"the blocks after layer {layer} also need the prefix tokens, which are not part of the features; "
            f"take the last layer ({len(model.blocks) - 1})"
        )
    x_BNC = features.tokens_BNC if normed else model.norm(features.tokens_BNC)
    return model.fc_norm(_pool_tokens(model, x_BNC, pool))


def is_transformer(model: TimmModel) -> bool:
    """Whether a timm model is a transformer over patch tokens."""
    return hasattr(model, "num_prefix_tokens") and hasattr(model, "blocks")


def _pool_tokens(model: TimmModel, x_BNC: Tensor, pool: str | None) -> Tensor:
    """Patch tokens to one vector. Any pooling but the network's own is an approximation, at the caller's request."""
    own = "map" if getattr(model, "attn_pool", None) is not None else model.global_pool
    chosen = pool or own
    if chosen == "map" and own != "map":
        raise FAEError("the network has no attention pooling; pass pool='avg'")
    # Models without this setting attend to prefix tokens (Eva), and leave them out of means.
    with_prefix = model.num_prefix_tokens > 0 and getattr(model, "pool_include_prefix", own == "map")
    lacking = None if chosen in ("avg", "max", "map") else "class token" if chosen == "token" else repr(chosen)
    if with_prefix and (pool is None or chosen == "map"):
        lacking = "prefix tokens"
    if lacking is not None:
        raise FAEError(
            f"the network reads its {lacking}, not part of the features; "
            "pass pool='avg' to give its classifier the mean of the patch tokens instead"
        )
    if chosen == "map":
        return model.attn_pool(x_BNC)
    return x_BNC.mean(dim=1) if chosen == "avg" else x_BNC.amax(dim=1)


def _rest_of_conv_net(model: TimmModel, features: FeatureMap, layer: int, pool: str | None) -> Tensor:
    """The input of `forward_head`, from the output of one stage."""
    if pool is not None:
        raise FAEError("pool is a choice for transformers; a convolutional net pools its own last map")
    x = features.tokens_BNC.transpose(1, 2).unflatten(2, features.grid)
    if type(model).__name__ in _BLOCKS:
        for block in model.blocks[layer + 1 :]:
            x = block(x)
        if hasattr(model, "bn2"):
            return model.bn2(model.conv_head(x))
        return x  # MobileNetV3 has its last convolution behind the pooling
    if hasattr(model, "stages") and hasattr(model, "norm_pre"):  # ConvNeXt
        for stage in model.stages[layer + 1 :]:
            x = stage(x)
        return model.norm_pre(x)
    if all(hasattr(model, f"layer{i}") for i in (1, 2, 3, 4)):  # ResNet: layer 0 is the stem before its pooling
        if layer == 0:
            x = model.maxpool(x)
        for stage in range(layer + 1, 5):
            x = getattr(model, f"layer{stage}")(x)
        return x
    raise _unknown(model, layer)


def _unknown(model: TimmModel, layer: int) -> FAEError:
    return FAEError(f"how {type(model).__name__} goes on after layer {layer} is not known here")
