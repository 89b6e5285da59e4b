"""Inception of 2015-12-05, the network of FID, sFID, IS, precision and recall, through torch-fidelity.

Its resize (TensorFlow 1's bilinear, half-pixel centres off, no antialiasing) and its layers agree with TensorFlow's.
Outputs:

- pool (2048) for FID, precision and recall;
- spatial (2023 = 17*17*7, the first seven channels of Mixed_6d's 1x1 branch, in NHWC order) for sFID;
- logits (1008) without bias for the inception score.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError, InvalidFile, MissingPackage
from fae_core.files import sha256_file
from fae_core.models.no_init import no_initial_weights
from fae_eval.extractors.base import FeatureExtractor, ImageBatch, as_uint8_nchw, weights_fingerprint

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
WEIGHTS_VARIABLE = "FAE_INCEPTION_WEIGHTS"
_SHA256_START = "6726825d"
_SPATIAL_CHANNELS = 7


class InceptionExtractor(FeatureExtractor):
    """The network of ADM's evaluator.

    Args:
        weights: a file or its folder; None looks in $FAE_INCEPTION_WEIGHTS and torch's hub cache, then fetches it.
        device: where the network runs; the CPU by default.

    Raises:
        MissingPackage: without torch-fidelity.
        FAEError: where the weights cannot be found or fetched.
        InvalidFile: where they do not fit the network.
    """

    dim = 2048
    resize = "TensorFlow-1 bilinear to 299x299 without antialiasing, (x - 128) / 128"

    def __init__(self, weights: str | Path | None = None, device: torch.device | str | None = None) -> None:
        path = find_weights(weights)
        self.official_inception = sha256_file(path).startswith(_SHA256_START)
        self._build(_read_weights(path), device)

    @classmethod
    def from_state(cls, state: dict[str, Tensor], device: torch.device | str | None = None) -> InceptionExtractor:
        """The same network with other weights, a state dict; its distances are never called FID."""
        extractor = cls.__new__(cls)
        extractor.official_inception = False
        extractor._build(state, device)
        return extractor

    def _build(self, state: dict[str, Tensor], device: torch.device | str | None) -> None:
        network_class = _torch_fidelity_inception()
        # The library unpickles the file it is given. It gets tensors that were read safely before, repacked in memory.
        try:
            with no_initial_weights():
                self.network = network_class(
                    "fae", ["2048", "logits_unbiased"], feature_extractor_weights_path=_packed(state)
                )
        except RuntimeError as error:
            raise InvalidFile(f"these are not Inception's weights: {' '.join(str(error).split())[:160]}") from None
        self.device = torch.device(device or "cpu")
        self.network.to(self.device)
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)
        self.name = "inception-2015-12-05" if self.official_inception else "inception-other-weights"
        self.fingerprint = weights_fingerprint(self.network)

    def _keep_spatial(self, _module: Any, _inputs: Any, output: Tensor) -> None:
        self._spatial = output[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def outputs(self, images: ImageBatch) -> dict[str, Tensor]:
        pool, logits = self.network(as_uint8_nchw(images, self.device))
        return {"pool": pool.float(), "spatial": self._spatial.float(), "logits": logits.float()}


def find_weights(weights: str | Path | None = None) -> Path:
    """Path of the weights, which are fetched only where no local copy is found.

    Args:
        weights: a file or its folder; None looks in $FAE_INCEPTION_WEIGHTS and torch's hub cache.

    Raises:
        FAEError: with what to do, where they are not there and cannot be fetched.
    """
    chosen = weights or os.environ.get(WEIGHTS_VARIABLE)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
    if chosen:
        path = Path(chosen).expanduser()
        path = path / WEIGHTS_FILE if path.is_dir() else path
        if not path.is_file():
            raise FAEError(f"Inception's weights are not at {path}")
        return path
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(cached), hash_prefix=_SHA256_START, progress=False)
        except (OSError, RuntimeError) as error:
            raise FAEError(
                f"Inception's weights could not be fetched ({' '.join(str(error).split())[:80]}); "
                f"download {WEIGHTS_URL} on any machine and set {WEIGHTS_VARIABLE} to the file, "
                "or use --extractor efficientnet-lite2 for development"
            ) from None
    return cached


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file raises many types
        raise InvalidFile(f"{path} cannot be read as weights: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidFile(f"{path} does not hold a dictionary of tensors")
    return state


def _packed(state: dict[str, Tensor]) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def _torch_fidelity_inception() -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise MissingPackage("Inception", "fae-eval[inception]") from None
    return FeatureExtractorInceptionV3
