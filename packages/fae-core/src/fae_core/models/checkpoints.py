"""Reading the checkpoints of a training run: which exist, whether they are whole, and the generator in one."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from fae_core.config import parse_config
from fae_core.errors import DataError, InvalidFile
from fae_core.files import read_json, read_yaml, sha256_file, unsealed
from fae_core.folders import CHECKPOINT_STATE, RUN_CONFIG, RUN_MODEL, checkpoint
from fae_core.models.build import single_precision
from fae_core.models.folder import load_state
from fae_core.models.no_init import no_initial_weights
from fae_core.models.stored import checkpoints_of as checkpoints_of
from fae_core.models.stored import latents_of, recorded_classes, recorded_spec, run_generator
from fae_core.models.stored import numbered as numbered
from fae_core.spec import LatentSpec

_NAME = "model"  # the name of GeneratorTask's module


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint; raises InvalidFile where it is absent, damaged or lacks a part."""
    state = unsealed(read_json(path / CHECKPOINT_STATE), path / CHECKPOINT_STATE)
    for name, kind in (("step", int), ("files", dict), ("tensors", dict)):
        if not isinstance(state.get(name), kind) or isinstance(state[name], bool):
            raise InvalidFile(f"{path / CHECKPOINT_STATE} lacks {name}")
    if path.name != checkpoint(state["step"]):
        raise InvalidFile(f"{path / CHECKPOINT_STATE} is of step {state['step']}")
    return state


def damage(path: Path) -> str | None:
    """The first fault in a checkpoint's files, in words; None where there is none."""
    try:
        files = read_state(path)["files"]
        unknown = {file.name for file in path.glob("*.safetensors")} - files.keys()
        if unknown or not files:
            return (
                f"{min(unknown, default='every file of tensors')} is not among the files that {CHECKPOINT_STATE} lists"
            )
        for name, digest in files.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if sha256_file(path / name) != digest:
                return f"{name} does not match its checksum"
    except (InvalidFile, OSError) as error:
        return f"no usable {CHECKPOINT_STATE}: {error}" if isinstance(error, InvalidFile) else str(error)
    return None


def fill(tensors: dict[str, torch.Tensor], path: Path, *, alone: bool = False) -> None:
    """Fill tensors in place from a checkpoint, which may hold more. Sharded tensors are filled by all processes.

    Of tensors on the meta device only the shapes are compared.

    Args:
        tensors: what to fill, by the names under which it was saved.
        path: the checkpoint's folder.
        alone: this process reads for itself, whatever the others do.

    Raises:
        InvalidFile: the checkpoint lacks a tensor, or has one of another shape.
    """
    stored = read_state(path)["tensors"]
    for name, tensor in tensors.items():
        there, here = stored.get(name, "absent"), list(tensor.shape)
        if there != here:
            raise InvalidFile(f"{path} is of another model: {name} is {there} there and {here} here")
    if any(tensor.is_meta for tensor in tensors.values()):
        return
    # Importing these takes as long as half of torch.
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_tensors

    with quiet():
        load_tensors(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=alone)


def read_tensors(path: Path, prefixes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The fp32 tensors of a checkpoint whose names begin with one of some prefixes, on the CPU.

    Args:
        path: the checkpoint's folder.
        prefixes: beginnings of names.

    Raises:
        InvalidFile: the checkpoint's state.json cannot be read.
    """
    names = {name: shape for name, shape in read_state(path)["tensors"].items() if name.startswith(prefixes)}
    tensors = {name: torch.empty(shape, device="cpu") for name, shape in names.items()}
    if tensors:
        fill(tensors, path, alone=True)
    return tensors


def quiet() -> AbstractContextManager[object]:
    """Suppress torch's warnings about running without a process group and about its safetensors reader."""
    return warnings.catch_warnings(action="ignore")


def generator_in_checkpoint(
    path: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Any:
    """The generator with a checkpoint's averaged weights (its plain weights where no average was kept), in eval mode.

    Its type and settings are read from the run's config.yaml, its latent space from the run's model/ or its latents.

    Args:
        path: RUN/checkpoints/step-...
        device: Of the parameters.
        dtype: Of the parameters; None: fp32.

    Raises:
        InvalidFile: Where the checkpoint is damaged or not a generator's.
        UnknownName: Where no installed package registers its type.
    """
    path = Path(path)
    run = path.parents[1]
    problem = damage(path)
    if problem is not None:
        raise InvalidFile(f"{path} is damaged: {problem}")
    settings = read_yaml(run / RUN_CONFIG)
    generator_class = run_generator(run, settings).load()
    config = parse_config(generator_class.config_class, settings.get("model", {}), f"{run}/{RUN_CONFIG}")
    with single_precision, no_initial_weights():
        model = generator_class(config, _spec_of(run, settings))
    model.class_names = recorded_classes(run, settings)
    stored = read_state(path)["tensors"]
    state = model.state_dict()
    kept = {name: f"average/{_NAME}/{name}" for name in state}
    kept = {name: average if average in stored else f"weights/{_NAME}/{name}" for name, average in kept.items()}
    absent = next((key for key in kept.values() if key not in stored), None)
    if absent is not None:
        raise InvalidFile(f"{path} is of another model: it lacks {absent}")
    loaded = {key: torch.empty_like(state[name]) for name, key in kept.items()}
    fill(loaded, path, alone=True)
    load_state(model, {name: loaded[key] for name, key in kept.items()}, str(path))
    return model.to(device=device, dtype=dtype).eval()


def _spec_of(run: Path, settings: dict[str, Any]) -> LatentSpec:
    """The latent space of the run's model, of its record, or of its latent store."""
    from fae_core.latent_store.facts import StoreFacts

    known = recorded_spec(run, settings)
    if known is not None:
        return known
    try:
        return StoreFacts(str(latents_of(run, settings))).spec
    except (InvalidFile, DataError):
        raise InvalidFile(
            f"the latent space of {run} is not known: it has no {RUN_MODEL}/ yet, and its latents "
            f"({settings.get('data')}) are not there"
        ) from None
