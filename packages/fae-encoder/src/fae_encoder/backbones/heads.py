"""The rest of a pretrained network: from the features of one layer to its embedding and its logits.

This is how features that went through a latent space are judged by a classifier that never saw them (zero-shot probing).
"""

from __future__ import annotations

from torch import Tensor, nn

from fae_core.errors import FAEError
from fae_encoder.backbones.network import FeatureMap


def timm_logits(model: nn.Module, features: FeatureMap, layer: int, normed: bool, pool: str | None) -> Tensor:
    """Logits (B, classes) of timm's classifier."""
    if not getattr(model, "num_classes", 0):
        raise FAEError(f"{type(model).__name__} was pretrained without a classifier: it has embeddings, but no logits")
    if _is_transformer(model):
        return model.head(model.head_drop(timm_embedding(model, features, layer, normed, pool)))
    return model.forward_head(_rest_of_conv_net(model, features, layer, pool))


def timm_embedding(model: nn.Module, features: FeatureMap, layer: int, normed: bool, pool: str | None) -> Tensor:
    """The pooled vector (B, D') in front of the classifier."""
    if not _is_transformer(model):
        return model.forward_head(_rest_of_conv_net(model, features, layer, pool), pre_logits=True)
    if layer != len(model.blocks) - 1:
        raise FAEError(
            f"the blocks after layer {layer} also need the prefix tokens, which are not part of the features; "
            f"take the last layer ({len(model.blocks) - 1})"
        )
    x_BNC = features.tokens_BNC if normed else model.norm(features.tokens_BNC)
    return model.fc_norm(_pool_tokens(model, x_BNC, pool))


def _is_transformer(model: nn.Module) -> bool:
    return hasattr(model, "num_prefix_tokens") and hasattr(model, "blocks")


def _pool_tokens(model: nn.Module, x_BNC: Tensor, pool: str | None) -> Tensor:
    """Patch tokens to one vector. Pooling that is not the network's own is an approximation that the caller asks for."""
    own = "map" if getattr(model, "attn_pool", None) is not None else model.global_pool
    pool = pool or own
    if pool not in ("avg", "max", "map"):
        raise FAEError(
            f"the network reads its {'class token' if pool == 'token' else repr(pool)}, which is not part of the features; "
            f"pass pool='avg' to give its classifier the mean of the patch tokens instead"
        )
    if pool == "map":
        if own != "map":
            raise FAEError("the network has no attention pooling; pass pool='avg'")
        return model.attn_pool(x_BNC)
    return x_BNC.mean(dim=1) if pool == "avg" else x_BNC.amax(dim=1)


def _rest_of_conv_net(model: nn.Module, features: FeatureMap, layer: int, pool: str | None) -> Tensor:
    """What `forward_head` takes, from the output of one stage."""
    if pool is not None:
        raise FAEError("pool is a choice for transformers; a convolutional net pools its own last map")
    x = features.tokens_BNC.transpose(1, 2).unflatten(2, features.grid)
    if hasattr(model, "conv_head") and hasattr(model, "blocks"):  # EfficientNet and MobileNet
        for block in model.blocks[layer + 1 :]:
            x = block(x)
        if hasattr(model, "bn2"):
            return model.bn2(model.conv_head(x))
        return x  # MobileNetV3 has its convolution behind the pooling
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
    raise FAEError(f"how {type(model).__name__} goes on after layer {layer} is not known here")
