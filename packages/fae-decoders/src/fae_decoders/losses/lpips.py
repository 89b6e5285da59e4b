"""LPIPS (Zhang et al., 2018) from the `lpips` package, with a clear error where its trunk's weights cannot be loaded.

The package carries the calibration layers; the ImageNet trunk (VGG16, AlexNet or SqueezeNet) is torchvision's and is
downloaded on first use, or read from a file.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError, InvalidFile, MissingPackage, first_line
from fae_core.images.check import require_range
from fae_core.layers import Fp32Buffers
from fae_core.models.build import on_meta
from fae_core.models.no_init import no_initial_weights
from fae_decoders.losses.config import Trunk
from fae_decoders.losses.perceptual import require_pair

# torchvision's file of each trunk, so that the error can name it.
_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


class LPIPS(nn.Module):
    """forward(decoded, target) -> mean distance over the batch. Frozen; gradients reach `decoded`.

    Both are (B, 3, H, W); the target is in [0, 1], `decoded` may leave the range. Under torch.device("meta") no weights
    are read.

    Args:
        trunk: The network whose features are compared.
        weights: torchvision's state dict of the trunk on disk; None downloads it.

    Raises:
        MissingPackage: The `perceptual` extra is not installed.
        FAEError: The trunk's weights cannot be downloaded; from forward: targets out of range, or different shapes.
        InvalidFile: `weights` does not hold the trunk's weights.
    """

    def __init__(self, trunk: Trunk = "vgg", weights: str | Path | None = None) -> None:
        super().__init__()
        try:
            import lpips
        except ImportError:
            raise MissingPackage("the LPIPS loss", "fae-decoders[perceptual]") from None
        import warnings

        with warnings.catch_warnings(), no_initial_weights():
            warnings.simplefilter("ignore")  # torchvision's deprecated `pretrained` argument, used inside lpips
            if weights is None and not on_meta():
                self.net = _with_downloaded_trunk(lpips, trunk)
            else:
                self.net = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
            if weights is not None and not on_meta():
                load_trunk(self.net, Path(weights))
        self.net.register_module("scaling_layer", _Scaling(self.net.get_submodule("scaling_layer")))
        self.requires_grad_(False).eval()

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """A scalar."""
        require_pair(decoded, target)
        require_range(target, what="target images")
        return self.net(2 * decoded - 1, 2 * target - 1).mean()

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in eval mode."""
        return super().train(False)


class _Scaling(Fp32Buffers):
    """lpips' normalisation of colours, whose constants have no exact half-precision value."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).to(images.dtype)


def load_trunk(net: nn.Module, path: Path) -> None:
    """Load torchvision's state dict into lpips' sliced trunk: its `features.5.weight` is `slice2.5.weight` there.

    Args:
        net: lpips' network, whose trunk is called `net`.
        path: The state dict.

    Raises:
        InvalidFile: There is no file, or it does not hold the trunk's weights.
    """
    if not path.is_file():
        raise InvalidFile(f"{path} does not exist")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        trunk = net.get_submodule("net")
        state = {key: stored[f"features.{key.split('.', 1)[1]}"] for key in trunk.state_dict()}
        trunk.load_state_dict(state)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise InvalidFile(f"{path} does not hold torchvision's weights of the LPIPS trunk: {reason}") from None


def _with_downloaded_trunk(lpips: ModuleType, trunk: Trunk) -> nn.Module:
    """lpips' network with ImageNet's trunk; FAEError where it cannot be downloaded."""
    try:
        return lpips.LPIPS(net=trunk, verbose=False)
    except Exception as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FAEError(
            f"the LPIPS trunk {_FILES[trunk]} could not be fetched ({first_line(error)}); copy it from another machine "
            f"into {folder}, or set lpips_weights to its path, or choose perceptual: backbone or none"
        ) from None
