"""The files of a model folder: config.json, model.safetensors and the latent spec, read, written and compared.

config.json holds `model_type` (the name under which a package registers the class), `package` and `version` (that wrote
it), `config` (the constructor's argument) and `checksum` (of weights and spec, compared at loading), and for a
generator of known classes `class_names` by label. Weights are safetensors; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fae_core.errors import InvalidFile
from fae_core.files import read_json, write_json
from fae_core.folders import LATENT_SPEC, MODEL_CONFIG, MODEL_WEIGHTS
from fae_core.models.identity import model_checksum
from fae_core.spec import LatentSpec


def write_config(
    folder: Path,
    model_type: str,
    config: dict[str, Any],
    package: str,
    checksum: str,
    **more: Any,
) -> None:
    """Write config.json, without secrets.

    Args:
        folder: The model's.
        model_type: The name under which the class is registered.
        config: Fields of the configuration.
        package: The package of the class.
        checksum: The `model_checksum` of weights and spec in the folder.
        more: Further entries, such as `class_names` by label.
    """
    import importlib

    version = getattr(importlib.import_module(package), "__version__", None)
    stored = {"model_type": model_type, "package": package, "version": version, "config": config, "checksum": checksum}
    write_json(folder / MODEL_CONFIG, {**stored, **more}, verbatim=("class_names",))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; raises InvalidFile where it is missing or malformed."""
    return read_json(folder / MODEL_CONFIG)


def require_unchanged(
    folder: Path, state: Mapping[str, Tensor], spec: LatentSpec | None, variant: str | None = None
) -> None:
    """Raise InvalidFile unless a model is the one that the folder was saved with. Earlier versions stored no checksum.

    On the meta device, where models have no numbers, nothing is compared.

    Args:
        folder: The model's.
        state: Its loaded weights.
        spec: Its loaded latent space.
        variant: Of the weights: its numbers are rounded, and no checksum of them is recorded.
    """
    wanted = None if variant else read_config(folder).get("checksum")
    if any(tensor.is_meta for tensor in state.values()):
        return
    if wanted is not None and wanted != model_checksum(state, spec):
        raise InvalidFile(
            f"{folder} is damaged, or was changed by hand: {MODEL_WEIGHTS} or {LATENT_SPEC} is not what was saved"
        )


def load_weights(module: nn.Module, path: Path, *, elsewhere: str | None = None) -> None:
    """Load a safetensors file into a module; on the meta device only names and shapes are read, and compared.

    The module becomes fp64 where the file has that; halves are widened to what it is.

    Args:
        module: The model, in fp32 (see `single_precision`).
        path: The file.
        elsewhere: Start of the names of weights that are not in the file, because the module has them already.

    Raises:
        InvalidFile: Where the file is missing or damaged, lacks a weight, or has an unknown one.
    """
    if not path.is_file():
        raise InvalidFile(f"{path} does not exist")
    on_meta = any(tensor.is_meta for tensor in module.state_dict().values())
    try:
        state = _shapes(path) if on_meta else load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidFile(f"{path} is damaged: {error}") from None
    here = {name: tensor.dtype for name, tensor in module.state_dict().items() if name in state}
    if not on_meta and any(state[name].dtype == torch.float64 != dtype for name, dtype in here.items()):
        module.double()
    if elsewhere is not None:
        if any(name.startswith(elsewhere) for name in state):
            raise InvalidFile(f"{path} holds {elsewhere}* weights that its {MODEL_CONFIG} does not announce")
        state.update({name: tensor for name, tensor in module.state_dict().items() if name.startswith(elsewhere)})
    load_state(module, state, str(path))


def _shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file without their numbers, on the meta device."""
    with safe_open(path, framework="pt") as file:
        return {
            name: torch.empty(file.get_slice(name).get_shape(), device="meta")
            for name in file.keys()  # noqa: SIM118 (no mapping)
        }


def load_state(module: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """`load_state_dict` that raises InvalidFile, one line, naming the first keys that do not fit.

    Args:
        module: The model.
        state: Weights by name.
        where: What the error message calls their source.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    problems = [
        f"{label} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for label, keys in (("lacks", missing), ("has unknown", extra), ("has another shape for", sorted(shapes)))
        if keys
    ]
    if problems:
        raise InvalidFile(f"{where} is of another model: {'; '.join(problems)}")
    module.load_state_dict(state)
