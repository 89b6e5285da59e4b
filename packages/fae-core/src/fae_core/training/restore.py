"""A generator as a checkpoint of its training run has it, without the run: for samples from the middle of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader

from fae_core.errors import CheckpointError, DataError, UnknownName
from fae_core.files import read_yaml
from fae_core.hub import CONFIG_FILE as MODEL_CONFIG_FILE
from fae_core.hub import RUN_MODEL_FOLDER, checked_names, load_state, parse_config, read_config
from fae_core.plugins import load_plugins
from fae_core.spec import FILE_NAME as SPEC_FILE
from fae_core.spec import LatentSpec
from fae_core.training.checkpoint import FOLDER, damage, numbered, quiet, read_state
from fae_core.training.journal import CONFIG_FILE, IDENTITY, read_metrics

_NAME = "model"  # what GeneratorTask calls its module


def checkpoints_of(run: str | Path) -> dict[int, Path]:
    """Step -> folder of each checkpoint that the run still has, oldest first. Raises CheckpointError where it has none."""
    found = numbered(Path(run) / FOLDER)
    if not found:
        raise CheckpointError(f"{run} has no checkpoints")
    return found


def seconds_at(run: str | Path, step: int) -> float | None:
    """Seconds of training after `step` updates, between the lines of metrics.jsonl by interpolation; None beyond them."""
    before = (0.0, 0.0)
    for row in read_metrics(Path(run)):
        if "seconds" not in row:
            continue
        after = (float(row["step"]), float(row["seconds"]))
        if after[0] >= step:
            part = (step - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 1.0
            return before[1] + part * (after[1] - before[1])
        before = after
    return None


def generator_in_checkpoint(
    path: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> Any:
    """The generator with the checkpoint's averaged weights (its plain ones where no average was kept), in eval mode.

    The run's config.yaml says what it is; its latent space is that of the run's model/, or of the store it trains on.
    Raises CheckpointError where the checkpoint is damaged or not a generator's.
    """
    path = Path(path)
    run = path.parents[1]
    problem = damage(path)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}")
    settings = read_yaml(run / CONFIG_FILE)
    known = load_plugins("fae.generators")
    model_type = settings.get("model_type")
    if model_type not in known:
        raise UnknownName("generator type", str(model_type), known)
    generator_class = known[model_type].load()
    config = parse_config(generator_class.config_class, settings.get("model", {}), f"{run}/{CONFIG_FILE}")
    model = generator_class(config, _spec_of(run, settings))
    model.class_names = _class_names_of(run, settings)
    stored = read_state(path)["tensors"]
    state = model.state_dict()
    kept = {name: f"average/{_NAME}/{name}" for name in state}
    kept = {name: average if average in stored else f"weights/{_NAME}/{name}" for name, average in kept.items()}
    absent = next((key for key in kept.values() if key not in stored), None)
    if absent is not None:
        raise CheckpointError(f"{path} is of another model: it lacks {absent}")
    loaded = {key: torch.empty_like(state[name]) for name, key in kept.items()}
    with quiet():
        dcp.load(loaded, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    load_state(model, {name: loaded[key] for name, key in kept.items()}, str(path))
    return model.to(device=device, dtype=dtype).eval()


def _class_names_of(run: Path, settings: dict[str, Any]) -> tuple[str, ...] | None:
    """Of the run's model, or of the store it trains on; None where neither is there or knows them."""
    from fae_core.latent_store import LatentStore

    exported = run / RUN_MODEL_FOLDER
    if (exported / MODEL_CONFIG_FILE).is_file():
        return checked_names(read_config(exported).get("class_names"), f"{exported}/{MODEL_CONFIG_FILE}")
    recorded = settings.get(IDENTITY)
    try:
        store = LatentStore(str(settings.get("data")))
    except (CheckpointError, DataError):
        return None
    if isinstance(recorded, dict) and recorded.get("latents", store.identity) != store.identity:
        return None  # another store lies there now
    return None if store.classes is None else tuple(store.classes)


def _spec_of(run: Path, settings: dict[str, Any]) -> LatentSpec:
    from fae_core.latent_store import LatentStore

    if (run / RUN_MODEL_FOLDER / SPEC_FILE).is_file():
        return LatentSpec.load(run / RUN_MODEL_FOLDER)
    recorded = settings.get(IDENTITY)
    if isinstance(recorded, dict) and isinstance(recorded.get("latent_spec"), dict):
        return LatentSpec.from_dict(recorded["latent_spec"], f"{run}/{CONFIG_FILE}")
    try:
        return LatentStore(str(settings.get("data"))).spec
    except (CheckpointError, DataError):
        raise CheckpointError(
            f"the latent space of {run} is not known: it has no {RUN_MODEL_FOLDER}/ yet, and its latents "
            f"({settings.get('data')}) are not there"
        ) from None
