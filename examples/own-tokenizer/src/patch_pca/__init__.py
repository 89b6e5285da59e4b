"""Principal components of image patches as a latent space."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core import LatentSpec
from fae_core.config import Config
from fae_core.models.identity import model_checksum
from fae_core.models.pretrained import PretrainedModel


class PatchPCAConfig(Config):
    image_size: int
    patch: int = 4
    channels: int = 16


class PatchPCA(PretrainedModel[PatchPCAConfig]):
    model_type = "patch-pca"  # the key of the entry point
    config_class = PatchPCAConfig

    def __init__(self, config: PatchPCAConfig, spec: LatentSpec | None = None) -> None:
        side = config.image_size // config.patch
        super().__init__(config, spec or LatentSpec(config.channels, side, side, config.image_size, "patch-pca"))
        self.basis = nn.Parameter(torch.zeros(config.channels, 3 * config.patch**2), requires_grad=False)

    def encode(self, images: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(images - 0.5, self.config.patch)
        return self.spec.normalize(torch.einsum("cp,bphw->bchw", self.basis, patches))

    def decode(self, z: Tensor) -> Tensor:
        patches = torch.einsum("cp,bchw->bphw", self.basis, self.spec.denormalize(z))
        return (F.pixel_shuffle(patches, self.config.patch) + 0.5).clamp(0, 1)

    def fit(self, images: Tensor) -> "PatchPCA":
        patches = F.pixel_unshuffle(images - 0.5, self.config.patch).transpose(0, 1).flatten(1)
        self.basis.copy_(torch.linalg.svd(patches, full_matrices=False)[0].T[: self.config.channels])
        z = self.encode(images)
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
        self.spec = replace(self.spec, mean=mean, std=std, fingerprint=model_checksum(self.state_dict(), None))
        return self
