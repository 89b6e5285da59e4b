"""The checkpoints of a training run as a reader sees them: which there are, whether they are whole, and the generator in one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader

from fae_core.config import parse_config
from fae_core.errors import DataError, InvalidFile, UnknownName
from fae_core.files import (
    read_json,
    read_yaml,
    sha256_file,
    unsealed,
)
from fae_core.folders import (
    CHECKPOINT_STATE,
    LATENT_SPEC,
    MODEL_CONFIG,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_IDENTITY,
    RUN_MODEL,
    checkpoint,
    checkpoint_step,
)
from fae_core.models.folder import checked_names, load_state, read_config
from fae_core.plugins import load_plugins
from fae_core.spec import LatentSpec


def numbered(folder: Path) -> dict[int, Path]:
    """Step -> folder of each checkpoint in a folder of them, oldest first; whether they are whole is another matter."""
    steps = {path: checkpoint_step(path.name) for path in folder.glob("*") if path.is_dir()}
    return dict(sorted((step, path) for path, step in steps.items() if step is not None))


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint; raises InvalidFile, one line, where it is absent, damaged or lacks a part."""
    state = unsealed(read_json(path / CHECKPOINT_STATE), path / CHECKPOINT_STATE)
    for name, kind in (("step", int), ("files", dict), ("tensors", dict)):
        if not isinstance(state.get(name), kind) or isinstance(state[name], bool):
            raise InvalidFile(f"{path / CHECKPOINT_STATE} lacks {name}")
    if path.name != checkpoint(state["step"]):
        raise InvalidFile(f"{path / CHECKPOINT_STATE} is of step {state['step']}")
    return state


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
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


class quiet:
    """Silence torch's remarks about running without a process group and about its safetensors reader."""

    def __enter__(self) -> None:
        self._catch = warnings.catch_warnings()
        self._catch.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        self._catch.__exit__(*error)


_NAME = "model"  # what GeneratorTask calls its module


def checkpoints_of(run: str | Path) -> dict[int, Path]:
    """Step -> folder of each checkpoint that the run still has, oldest first. Raises InvalidFile where it has none."""
    found = numbered(Path(run) / RUN_CHECKPOINTS)
    if not found:
        raise InvalidFile(f"{run} has no checkpoints")
    return found


def generator_in_checkpoint(
    path: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Any:
    """The generator with the checkpoint's averaged weights (its plain ones where no average was kept), in eval mode.

    The run's config.yaml says what it is; its latent space is that of the run's model/, or of the store it trains on.
    Raises InvalidFile where the checkpoint is damaged or not a generator's.
    """
    path = Path(path)
    run = path.parents[1]
    problem = damage(path)
    if problem is not None:
        raise InvalidFile(f"{path} is damaged: {problem}")
    settings = read_yaml(run / RUN_CONFIG)
    known = load_plugins("fae.generators")
    model_type = settings.get("model_type")
    if model_type not in known:
        raise UnknownName("generator type", str(model_type), known)
    generator_class = known[model_type].load()
    config = parse_config(generator_class.config_class, settings.get("model", {}), f"{run}/{RUN_CONFIG}")
    model = generator_class(config, _spec_of(run, settings))
    model.class_names = _class_names_of(run, settings)
    stored = read_state(path)["tensors"]
    state = model.state_dict()
    kept = {name: f"average/{_NAME}/{name}" for name in state}
    kept = {name: average if average in stored else f"weights/{_NAME}/{name}" for name, average in kept.items()}
    absent = next((key for key in kept.values() if key not in stored), None)
    if absent is not None:
        raise InvalidFile(f"{path} is of another model: it lacks {absent}")
    loaded = {key: torch.empty_like(state[name]) for name, key in kept.items()}
    with quiet():
        dcp.load(loaded, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    load_state(model, {name: loaded[key] for name, key in kept.items()}, str(path))
    return model.to(device=device, dtype=dtype).eval()


def _class_names_of(run: Path, settings: dict[str, Any]) -> tuple[str, ...] | None:
    """Of the run's model, or of the store it trains on; None where neither is there or knows them."""
    from fae_core.latent_store import LatentStore

    exported = run / RUN_MODEL
    if (exported / MODEL_CONFIG).is_file():
        return checked_names(read_config(exported).get("class_names"), f"{exported}/{MODEL_CONFIG}")
    recorded = settings.get(RUN_IDENTITY)
    try:
        store = LatentStore(str(settings.get("data")))
    except (InvalidFile, DataError):
        return None
    if isinstance(recorded, dict) and recorded.get("latents", store.identity) != store.identity:
        return None  # another store lies there now
    return None if store.classes is None else tuple(store.classes)


def _spec_of(run: Path, settings: dict[str, Any]) -> LatentSpec:
    from fae_core.latent_store import LatentStore

    if (run / RUN_MODEL / LATENT_SPEC).is_file():
        return LatentSpec.load(run / RUN_MODEL)
    recorded = settings.get(RUN_IDENTITY)
    if isinstance(recorded, dict) and isinstance(recorded.get("latent_spec"), dict):
        return LatentSpec.from_dict(recorded["latent_spec"], f"{run}/{RUN_CONFIG}")
    try:
        return LatentStore(str(settings.get("data"))).spec
    except (InvalidFile, DataError):
        raise InvalidFile(
            f"the latent space of {run} is not known: it has no {RUN_MODEL}/ yet, and its latents "
            f"({settings.get('data')}) are not there"
        ) from None
