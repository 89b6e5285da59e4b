"""Backbone: a frozen network, its preprocessing, and its features on one grid.

Shape suffixes: B batch, N tokens (row-major over the grid), D feature width, C channels of one map.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fae_core.errors import FAEError, first_line
from fae_core.layers import RememberedBuffers
from fae_encoder.backbones.config import BackboneConfig
from fae_encoder.backbones.coverage import every_pixel_used
from fae_encoder.backbones.network import FeatureMap, Grid, Network
from fae_encoder.backbones.preprocess import Preprocess, usual_colours
from fae_encoder.fingerprint import fingerprint_state

# Settings in transformers' configurations that change features but not the shape of any weight.
_ARITHMETIC = ("hidden_act", "layer_norm_eps", "num_attention_heads", "num_heads", "rope_theta", "window_size")


class Backbone(RememberedBuffers):
    """A frozen encoder: images (B, 3, H, W) in [0, 1] to features (B, N, D).

    N = grid[0] * grid[1], D = the sum of the selected layers' widths, or the width that they share where their mean or
    sum is taken (`BackboneConfig.combine`). Prefix tokens (class, registers) are not
    part of the features. The parameters never require gradients and the network stays in eval mode; gradients do
    flow to the images.

    Args:
        config: the configuration, with image_size as a pair.
        network: the library's model.

    Raises:
        FAEError: if image_size, mean or std is missing, the network cannot take or fully see images of this size, or
            layers of several widths are to be added.
    """

    def __init__(self, config: BackboneConfig, network: Network) -> None:
        super().__init__()
        if not isinstance(config.image_size, tuple) or config.mean is None or config.std is None:
            raise FAEError(f"{config.name} does not say what images it expects; pass image_size, mean and std")
        self.config = config
        self.network = network.requires_grad_(False).eval()
        self.preprocess = Preprocess(config.image_size, config.mean, config.std, config.interpolation or "bicubic")
        # torch gives this layout to all weights or to none, and knows it for four axes, not for lambda layers' five.
        self._channels_last = network.channels_last and all(p.ndim < 5 for p in network.parameters())
        if self._channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.layer_grids, self.layer_dims = self._probe()
        self.grid: Grid = config.grid or self.layer_grids[-1]
        if config.combine != "concatenate":
            if len(set(self.layer_dims)) > 1:
                raise FAEError(
                    f"the {config.combine} of layers {self.layers} of {config.name} does not exist: their widths are "
                    f"{', '.join(map(str, self.layer_dims))}; concatenate them"
                )
            self.layer_dims = self.layer_dims[:1]
        self.dim = sum(self.layer_dims)
        self.eval()

    @property
    def name(self) -> str:
        """The library and model: "timm/<model>" or "hf/<repository or folder>"."""
        return self.config.name

    @property
    def weights(self) -> str | None:
        """Where the weights come from; see `BackboneConfig.weights`."""
        return self.config.weights

    @property
    def layers(self) -> tuple[int, ...]:
        """The selected layers, counted from 0."""
        return self.network.layers

    @property
    def final_norm(self) -> bool:
        """Whether the features pass through a final norm; see `BackboneConfig.final_norm`."""
        return self.network.final_norm

    @property
    def image_size(self) -> Grid:
        """(height, width) that the network sees. Images of another size are resized."""
        return self.preprocess.size

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def mean(self) -> Tensor:
        """Per colour, (3, 1, 1), subtracted from images in [0, 1]."""
        return self.preprocess.mean

    @property
    def std(self) -> Tensor:
        """Per colour, (3, 1, 1), by which images are divided."""
        return self.preprocess.std

    def forward(self, images: Tensor, *, check: bool = True) -> Tensor:
        """Features (B, N, D) of images (B, 3, H, W) in [0, 1]; for `check` see `Preprocess.forward`.

        Args:
            images: (B, 3, H, W) in [0, 1], of any size with the network's aspect ratio.
            check: Whether to check their range.
        """
        maps = self.feature_maps(images, check=check)
        on_grid = [regrid(m, self.grid) for m in maps]
        if len(on_grid) == 1:
            return on_grid[0]
        if self.config.combine == "concatenate":
            return torch.cat(on_grid, dim=-1)
        stacked = torch.stack(on_grid)
        return stacked.mean(0) if self.config.combine == "mean" else stacked.sum(0)

    def feature_maps(self, images: Tensor, *, check: bool = True) -> list[FeatureMap]:
        """The selected layers' outputs, each on its own grid; arguments as of `forward`.

        Args:
            images: (B, 3, H, W) in [0, 1], of any size with the network's aspect ratio.
            check: Whether to check their range.
        """
        x = self.preprocess(images, check=check).to(self._dtype)
        return self.network(x.contiguous(memory_format=torch.channels_last) if self._channels_last else x)

    def head(self, features_BND: Tensor, pool: str | None = None) -> Tensor:
        """Logits of the rest of the pretrained network, run on (perhaps reconstructed) features.

        Prefix tokens (class, registers) are not part of the features, so a network whose own pooling reads them needs
        pool="avg".

        Args:
            features_BND: (B, N, D), in the backbone's own scale.
            pool: how a transformer's tokens are pooled; None = as the network itself does.

        Returns:
            (B, classes).

        Raises:
            FAEError: if the features are not exactly one layer on its own grid, or the network has no classifier.
        """
        return self.network.head(self._single_layer(features_BND, "a head"), pool)

    def embed(self, features_BND: Tensor, pool: str | None = None) -> Tensor:
        """The image embedding (B, D') before the classifier (SigLIP's attention pooling, a mean, ...); see `head`.

        Args:
            features_BND: (B, N, D), in the backbone's own scale.
            pool: How a transformer's tokens are pooled; None = as the network itself does.
        """
        return self.network.embed(self._single_layer(features_BND, "an embedding"), pool)

    def class_token(self, images: Tensor) -> Tensor:
        """The network's own class token behind its final norm, which is not part of the features.

        Classifiers that read it beside the patches (DINOv2's) need it.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, D).

        Raises:
            FAEError: if the network has none.
        """
        return self.network.class_token(self.preprocess(images).to(self._dtype))

    def fingerprint(self) -> str:
        """SHA-256 of the network's weights: names, types, shapes and bytes."""
        return fingerprint_state(self.network.state_dict())

    @property
    def unseen_in_weights(self) -> str:
        """Choices that affect the features and that no weight shows; "" for none.

        These are the preprocessing, where it is not a bicubic resize with timm's own mean and std, those settings of a
        transformers model that change its arithmetic, a number of heads that is not the network's own, and that
        several layers are averaged or summed.
        """
        config, (library, _, model) = self.config, self.name.partition("/")
        network = [] if config.heads is None else [f"heads={config.heads}"]
        if config.combine != "concatenate" and len(self.layers) > 1:
            network.append(f"combine={config.combine}")
        if config.interpolation is None:  # saved before it was recorded, when fingerprints did not include it
            return ""
        is_usual = library == "timm" and config.interpolation == "bicubic"
        if is_usual and (config.mean, config.std) == usual_colours(model):
            return " ".join(network)
        own = config.hf_config or {}
        settings = (*network, *(f"{key}={own[key]}" for key in _ARITHMETIC if key in own))
        return " ".join([config.interpolation, str(config.mean), str(config.std), *settings])

    def train(self, mode: bool = True) -> Backbone:
        """Keeps eval mode, whatever `mode` is: a frozen encoder must not update statistics or apply dropout.

        Args:
            mode: Ignored.
        """
        return super().train(False)

    def __repr__(self) -> str:
        height, width = self.image_size
        combined = "" if self.config.combine == "concatenate" else f" ({self.config.combine})"
        return (
            f"Backbone({self.name}, {height}x{width} -> {self.grid[0]}x{self.grid[1]}x{self.dim}, "
            f"layers={self.layers}{combined}, final_norm={self.final_norm}, weights={self.weights!r})"
        )

    def _single_layer(self, features_BND: Tensor, what: str) -> FeatureMap:
        if not self.config.norm_affine:
            raise FAEError(f"{what} needs the final norm's own scale and shift; this backbone has norm_affine: false")
        if len(self.layers) != 1:
            raise FAEError(
                f"{what} needs exactly one layer's features; this backbone's are of layers {self.layers} "
                f"({self.config.combine})"
            )
        if self.grid != self.layer_grids[0]:
            raise FAEError(f"{what} needs features on the layer's own grid {self.layer_grids[0]}, not {self.grid}")
        if features_BND.ndim != 3 or features_BND.shape[1:] != (self.grid[0] * self.grid[1], self.dim):
            raise FAEError(
                f"expected features (B, {self.grid[0] * self.grid[1]}, {self.dim}), got {tuple(features_BND.shape)}"
            )
        return FeatureMap(features_BND, self.grid)

    def _probe(self) -> tuple[list[Grid], list[int]]:
        """Grids and widths of the selected layers, from a pass on the meta device, which computes shapes only."""
        height, width = self.image_size
        # Each place of a tensor once, though several may share it, and modules that are in several places once:
        # functional_call does not put back what it exchanged twice.
        state = {
            f"{path}.{name}".removeprefix("."): value.to("meta")
            for path, module in self.network.named_modules()
            for name, value in (
                *module.named_parameters(recurse=False, remove_duplicate=False),
                *module.named_buffers(recurse=False, remove_duplicate=False),
            )
        }
        try:
            with torch.no_grad(), torch.device("meta"), self._size_checked((height, width)):
                maps = functional_call(self.network, state, (torch.empty(1, 3, height, width),), tie_weights=False)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:  # libraries differ
            raise FAEError(f"{self.name} cannot take images of {height}x{width}: {first_line(error)[:200]}") from None
        return [m.grid for m in maps], [m.tokens_BNC.shape[-1] for m in maps]

    def _size_checked(self, size: Grid) -> AbstractContextManager[None]:
        """Refuses sizes at which the network does not see every pixel, except for saved encoders: latents exist."""
        return nullcontext() if self.config.fingerprint else every_pixel_used(self.network, size)


def regrid(features: FeatureMap, grid: Grid) -> Tensor:
    """Features on another grid: average-pooled if it is coarser, bilinear if it is finer in either direction.

    Args:
        features: the output of one layer.
        grid: (height, width) of the result.

    Returns:
        Tokens (B, height * width, C).
    """
    if features.grid == grid:
        return features.tokens_BNC
    x_BCHW = features.tokens_BNC.transpose(1, 2).unflatten(2, features.grid)
    if grid[0] <= features.grid[0] and grid[1] <= features.grid[1]:
        x_BCHW = F.adaptive_avg_pool2d(x_BCHW, grid)
    else:
        x_BCHW = F.interpolate(x_BCHW, grid, mode="bilinear", antialias=True, align_corners=False)
    return x_BCHW.flatten(2).transpose(1, 2)
