"""Quality of reconstructions: PSNR, SSIM, LPIPS. Images are (B, 3, H, W) in [0, 1]; each image has one value, (B,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core import images
from fae_core.errors import FAEError, MissingPackage
from fae_core.images.check import require_image_pair, require_range


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 100, (B,), of images (B, C, H, W) in [0, 1]; `fae_core.images.psnr`.

    Args:
        a: (B, C, H, W) in [0, 1].
        b: Of the same shape.
    """
    _require_pair(a, b)
    return images.psnr(a, b)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), (B,): 11x11 Gaussian window, sigma 1.5, K = (0.01, 0.03), data range 1.

    Averaged over channels and all pixels of images padded by reflection, as torchmetrics does. (scikit-image leaves out
    the five pixels at the border, which changes the third digit.)

    Args:
        a: images (B, C, H, W) in [0, 1].
        b: images of the same shape and range.

    Raises:
        FAEError: where a side is shorter than 11 pixels, or the images do not fit together.
    """
    _require_pair(a, b)
    if min(a.shape[-2:]) < 11:
        raise FAEError(f"SSIM needs images of at least 11 pixels a side, got {tuple(a.shape[-2:])}")
    a, b = (F.pad(x.double(), (5, 5, 5, 5), mode="reflect") for x in (a, b))
    offsets = torch.arange(11, dtype=torch.float64, device=a.device) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    line = line / line.sum()
    channels = a.shape[1]

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, line.view(1, 1, 11, 1).expand(channels, 1, 11, 1), groups=channels)
        return F.conv2d(x, line.view(1, 1, 1, 11).expand(channels, 1, 1, 11), groups=channels)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (
        (structure / ((mean_a**2 + mean_b**2 + c1) * (var_a.clamp_min(0) + var_b.clamp_min(0) + c2))).flatten(1).mean(1)
    )


class LPIPS(nn.Module):
    """Learned perceptual distance from the `lpips` package (extra `perceptual`); 0 is identical.

    Its wheel carries only the small heads; the network below them is torchvision's, fetched once or found in torch's
    cache. The package expects [-1, 1]. This wrapper takes [0, 1] and converts: [0, 1] as it is gives .027 where .121 is
    right.

    Args:
        network: "alex", "vgg" or "squeeze".

    Raises:
        MissingPackage: without the package.
        FAEError: where the network's weights cannot be found or fetched.
    """

    def __init__(self, network: str = "alex") -> None:
        super().__init__()
        try:
            import lpips
        except ImportError:
            raise MissingPackage("LPIPS", "fae-eval[perceptual]") from None
        try:
            self.model = lpips.LPIPS(net=network, verbose=False).eval().requires_grad_(False)
        except OSError as error:
            raise FAEError(
                f"LPIPS needs torchvision's {network} weights, which could not be fetched ({error}); "
                "put them into torch's hub checkpoints folder, or leave LPIPS out"
            ) from None
        self.name = f"lpips-{network}"

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (B,) of images a and b, (B, 3, H, W) in [0, 1].

        Args:
            a: (B, 3, H, W) in [0, 1].
            b: Of the same shape.
        """
        _require_pair(a, b)
        return self.model(a.float() * 2 - 1, b.float() * 2 - 1).flatten()


def _require_pair(a: Tensor, b: Tensor) -> None:
    """Raise FAEError unless both are images in [0, 1], of one shape and any number of channels."""
    for x in (a, b):
        if not x.numel():
            raise FAEError(f"there is no image to measure: {tuple(x.shape)}")
    require_image_pair(a, b)
    for x in (a, b):
        require_range(x)
