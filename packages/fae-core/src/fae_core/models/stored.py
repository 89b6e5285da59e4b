"""What the files of a model say without its weights: type, settings, latent space, classes. torch is not imported.

What is given to a command is compared by these files, before torch is loaded and weights are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

from fae_core.commands.running import recorded_place
from fae_core.config import Config, parse_config
from fae_core.errors import DataError, FAEError, InvalidFile, MissingPackage, UnknownName
from fae_core.files import read_json, read_yaml
from fae_core.folders import (
    BUNDLE_PARTS,
    CHECKPOINT_STATE,
    LATENT_SPEC,
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    PIXEL_DECODER,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_IDENTITY,
    RUN_MODEL,
    STORE_INDEX,
    checkpoint_step,
)
from fae_core.models.sources import found_on_hub, on_hub, resolve_model_folder
from fae_core.plugins import is_missing_own_package, is_own_package, load_plugins
from fae_core.protocols import cannot_decode
from fae_core.spec import LatentSpec

Kind = Literal["generator", "tokenizer"]


@dataclass(frozen=True)
class StoredModel:
    """A generator or tokenizer as its files describe it.

    Attributes:
        source: How it was named.
        folder: Its folder; of a checkpoint, the checkpoint's.
        point: The entry point of its class, named after its model_type.
        settings: The constructor's argument as it was stored.
        spec: Its latent space; None where no file says it.
        class_names: By label; None where none are known.
    """

    source: str
    folder: Path
    point: EntryPoint
    settings: dict[str, Any]
    spec: LatentSpec | None
    class_names: tuple[str, ...] | None

    @property
    def classes(self) -> int | None:
        """How many classes a generator was built for, 1 for none; None where its settings do not say."""
        if "classes" not in self.settings:
            return None
        count = self.settings["classes"] or 1
        return count if isinstance(count, int) else None

    @property
    def config(self) -> Config | None:
        """Its settings as its package parses them; None where only the class of the model, with torch, can.

        Raises InvalidSettings where they are none.
        """
        declared = load_plugins("fae.configs").get(self.point.name)
        where = str(self.folder / MODEL_CONFIG)
        return None if declared is None else parse_config(declared.load(), self.settings, where)

    @property
    def decodes(self) -> bool:
        """Whether a tokenizer turns latents into images, as far as its files show."""
        parts = self.settings.get("parts")
        if isinstance(parts, list):
            return PIXEL_DECODER in parts
        return self._declared("decodes")

    @property
    def has_features(self) -> bool:
        """Whether a tokenizer shows the features that it makes latents of, as far as its settings say."""
        return self._declared("has_features")

    def _declared(self, ability: str) -> bool:
        """Whether the class of its settings has an ability: all that do not deny it have."""
        declared = load_plugins("fae.configs").get(self.point.name)
        return declared is None or getattr(declared.load(), ability, True)


def stored_model(kind: Kind, source: str | Path) -> StoredModel | None:
    """What the files of a model on this machine say; None for what the hub has, of which loading tells.

    Args:
        kind: What it has to be; of a bundle this part.
        source: A model folder, run, checkpoint (RUN/checkpoints/step-..., of a generator) or bundle (folder or name).

    Raises:
        InvalidFile: There is no model, here or on the hub, a file of it is damaged, or it is of another kind.
        UnknownName: No installed package registers its type.
        MissingPackage: The package of its type is one of ours and not installed.
    """
    if found_on_hub(source):
        return None
    folder = Path(source)
    if kind == "generator" and (folder / CHECKPOINT_STATE).is_file():
        return _in_checkpoint(folder)
    return read_stored(kind, source, resolve_model_folder(source, part=kind, parts=("",), weights=False))


def read_stored(kind: Kind, source: str | Path, folder: Path) -> StoredModel:
    """What a model folder says.

    Args:
        kind: What it has to be.
        source: How it was named.
        folder: It.

    Raises:
        FAEError: As `stored_model`.
    """
    stored = read_json(folder / MODEL_CONFIG)
    point, settings = stored_point(kind, source, folder), stored.get("config", {})
    settings = settings if isinstance(settings, dict) else {}
    if not on_hub(source) and is_own_package(stored.get("package")):  # others may keep their weights otherwise
        parts = settings.get("parts")
        _require_weights([folder / str(part) for part in parts] if isinstance(parts, list) else [folder])
    return StoredModel(
        str(source),
        folder,
        point,
        settings,
        LatentSpec.load(folder) if (folder / LATENT_SPEC).is_file() else None,
        checked_names(stored.get("class_names"), f"{folder}/{MODEL_CONFIG}"),
    )


def stored_point(kind: Kind, source: str | Path, folder: Path) -> EntryPoint:
    """The entry point of the class of the model in a folder; arguments and errors as of `read_stored`."""
    stored = read_json(folder / MODEL_CONFIG)
    model_type = stored.get("model_type")
    if not isinstance(model_type, str):
        raise InvalidFile(f"{folder}/{MODEL_CONFIG} does not say its model_type")
    return _point(kind, source, model_type, stored.get("package"))


def checked_names(names: Any, where: str) -> tuple[str, ...] | None:
    """Class names as stored in the file `where`. Raises InvalidFile where they are not a list of texts."""
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InvalidFile(f"{where}: class_names must be a list of texts")
    return None if names is None else tuple(names)


def stored_spec(folder: Path) -> LatentSpec | None:
    """The latents in a latent store, by its latent_spec.json alone; None for another folder."""
    return LatentSpec.load(folder) if (folder / STORE_INDEX).is_file() and (folder / LATENT_SPEC).is_file() else None


def numbered(folder: Path) -> dict[int, Path]:
    """Step -> folder of each checkpoint in RUN/checkpoints, oldest first; they are not verified."""
    steps = {path: checkpoint_step(path.name) for path in folder.glob("*") if path.is_dir()}
    return dict(sorted((step, path) for path, step in steps.items() if step is not None))


def checkpoints_of(run: str | Path) -> dict[int, Path]:
    """Step -> folder of each checkpoint of a run, oldest first. Raises InvalidFile where it has none."""
    found = numbered(Path(run) / RUN_CHECKPOINTS)
    if not found:
        raise InvalidFile(f"{run} has no checkpoints")
    return found


def run_generator(run: Path, settings: dict[str, Any]) -> EntryPoint:
    """The entry point of the generator that a run trains. Raises InvalidFile or UnknownName where it trains none.

    Args:
        run: Its folder.
        settings: The content of its config.yaml.
    """
    model_type = settings.get("model_type")
    if not isinstance(model_type, str):
        raise InvalidFile(f"{run} is no run of a generator: its {RUN_CONFIG} names no model_type")
    return _point("generator", run, model_type, None)


def recorded_spec(run: Path, settings: dict[str, Any]) -> LatentSpec | None:
    """The latent space of a run's generator, by its model or its record.

    Args:
        run: Its folder.
        settings: The content of its config.yaml.

    Returns:
        The spec; None where the run has no model yet, and its record has only a `LatentSpec.summary` or none.
    """
    if (run / RUN_MODEL / LATENT_SPEC).is_file():
        return LatentSpec.load(run / RUN_MODEL)
    recorded = settings.get(RUN_IDENTITY)
    known = recorded.get("latent_spec") if isinstance(recorded, dict) else None
    if isinstance(known, dict) and not isinstance(known.get("mean"), str):
        return LatentSpec.from_dict(known, f"{run}/{RUN_CONFIG}")
    return None


def recorded_classes(run: Path, settings: dict[str, Any]) -> tuple[str, ...] | None:
    """Class names of a run's model, or of its latents; None where neither exists or has them.

    Args:
        run: Its folder.
        settings: The content of its config.yaml.
    """
    from fae_core.latent_store.facts import StoreFacts

    if (config := run / RUN_MODEL / MODEL_CONFIG).is_file():
        return checked_names(read_json(config).get("class_names"), str(config))
    try:
        store = StoreFacts(str(latents_of(run, settings)))
    except (InvalidFile, DataError):
        return None
    recorded = settings.get(RUN_IDENTITY)
    if isinstance(recorded, dict) and recorded.get("latents", store.identity) != store.identity:
        return None  # the store has been replaced since
    return None if store.classes is None else tuple(store.classes)


def latents_of(run: Path, settings: dict[str, Any]) -> str | None:
    """Where the latents of a run lie, or its images, as `recorded_place` finds them.

    Args:
        run: Its folder.
        settings: The content of its config.yaml.
    """
    return recorded_place(run, settings.get("data"), "--latents")


def _in_checkpoint(folder: Path) -> StoredModel:
    """The generator in a checkpoint, by its run's files."""
    run = folder.resolve().parents[1]
    settings = read_yaml(run / RUN_CONFIG)
    point, model = run_generator(run, settings), settings.get("model", {})
    model = model if isinstance(model, dict) else {}
    spec, names = recorded_spec(run, settings), recorded_classes(run, settings)
    return StoredModel(str(folder), folder, point, model, spec, names)


def _require_weights(folders: Sequence[Path]) -> None:
    """Raise InvalidFile for the first of some model folders that holds no weights, of any variant."""
    for folder in folders:
        if next(folder.glob(f"*{Path(MODEL_WEIGHTS).suffix}"), None) is None:
            raise InvalidFile(f"{folder / MODEL_WEIGHTS} does not exist")


def _point(kind: Kind, source: str | Path, model_type: str, package: object) -> EntryPoint:
    """The entry point of a class. Raises as `stored_model`."""
    known = load_plugins(f"fae.{kind}s")
    if model_type in known:
        return known[model_type]
    if is_missing_own_package(package):
        raise MissingPackage(f"the {kind} in {source} ({model_type})", str(package).replace("_", "-"))
    others = [*BUNDLE_PARTS, "model"]
    other = next((name for name in others if model_type in load_plugins(f"fae.{name}s")), None)
    if other is None:
        raise UnknownName(f"{kind} type", model_type, known)
    words = model_type if other == "model" else f"{other} ({model_type})"
    raise InvalidFile(f"{source} holds a {words}, not a {kind}")


def require_pair(generator: StoredModel | None, tokenizer: StoredModel | None, *, decodes: bool = True) -> None:
    """Check that a tokenizer is one of a generator's latents. What only loading tells is not compared.

    Args:
        generator: As `stored_model` gives it.
        tokenizer: Likewise.
        decodes: Whether the tokenizer has to turn latents into images.

    Raises:
        LatentSpecMismatch: They are for different latents.
        FAEError: The tokenizer cannot decode and has to.
    """
    if tokenizer is None:
        return
    if decodes and isinstance(tokenizer.settings.get("parts"), list) and not tokenizer.decodes:
        raise FAEError(
            f"{tokenizer.source} has no pixel decoder and cannot paint images; train one with `fae train pixel --stage "
            "noise` and `--stage finetune`"
        )
    if decodes and not tokenizer.decodes:
        raise cannot_decode(tokenizer.source)
    latents = None if generator is None else generator.spec
    if generator is not None and latents is not None and tokenizer.spec is not None:
        tokenizer.spec.require(latents, context=f"decoder {tokenizer.source} and generator {generator.source}")
