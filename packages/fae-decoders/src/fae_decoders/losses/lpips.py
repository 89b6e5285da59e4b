"""LPIPS (Zhang et al., 2018) from the `lpips` package, with a clear word where its trunk's weights cannot be had.

The package carries the calibration layers; the ImageNet trunk (VGG16, AlexNet or SqueezeNet) is torchvision's and is
downloaded on first use, or read from a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fae_core.errors import FAEError, InvalidFile, MissingPackage
from fae_core.images.check import require_range
from fae_core.layers import Fp32Buffers
from fae_decoders.losses.perceptual import require_pair

Trunk = Literal["vgg", "alex", "squeeze"]

# torchvision's file of each trunk, so that the error can name it.
_FILES = {
    "vgg": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


class LPIPS(nn.Module):
    """forward(painted, target), both (B, 3, H, W), the target in [0, 1] -> mean over the batch. Frozen; gradients reach
    `painted`, which may leave the range.

    weights: torchvision's state dict of the trunk on disk; None downloads it.
    forward raises FAEError for targets out of range. Raises MissingPackage without the `perceptual` extra, FAEError where the trunk's weights cannot be fetched.
    """

    def __init__(self, trunk: Trunk = "vgg", weights: str | Path | None = None) -> None:
        super().__init__()
        try:
            import lpips
        except ImportError:
            raise MissingPackage("the LPIPS loss", "'fae-decoders[perceptual]'") from None
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's deprecated `pretrained` argument, used inside lpips
            if weights is None:
                self.net = _with_downloaded_trunk(lpips, trunk)
            else:
                self.net = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
                load_trunk(self.net, Path(weights))
        self.net.scaling_layer = _Scaling(self.net.scaling_layer)
        self.requires_grad_(False).eval()

    def forward(self, painted: Tensor, target: Tensor) -> Tensor:
        require_pair(painted, target)
        require_range(target, what="target images")
        return self.net(2 * painted - 1, 2 * target - 1).mean()

    def train(self, mode: bool = True) -> LPIPS:
        return super().train(False)


class _Scaling(Fp32Buffers):
    """lpips' normalisation of colours, whose constants have no exact half-precision value."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).to(images.dtype)


def load_trunk(net: nn.Module, path: Path) -> None:
    """Fill lpips' sliced trunk from torchvision's state dict: `slice2.5.weight` there is `features.5.weight` here."""
    if not path.is_file():
        raise InvalidFile(f"{path} does not exist")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        wanted = net.net.state_dict()
        state = {key: stored[f"features.{key.split('.', 1)[1]}"] for key in wanted}
        net.net.load_state_dict(state)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise InvalidFile(f"{path} does not hold torchvision's weights of the LPIPS trunk: {reason}") from None


def _with_downloaded_trunk(lpips, trunk: Trunk) -> nn.Module:
    try:
        return lpips.LPIPS(net=trunk, verbose=False)
    except Exception as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FAEError(
            f"the LPIPS trunk {_FILES[trunk]} could not be fetched ({reason}); copy it from another machine into {folder}, or "
            "set lpips_weights to its path, or choose perceptual: backbone or none"
        ) from None
