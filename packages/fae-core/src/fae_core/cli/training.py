"""What `fae train diffusion` and `fae train flow` share: any generator, any latent store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from fae_core.cli.launch import relaunched
from fae_core.cli.settings import resolve_settings
from fae_core.config import parse_config, require_fields
from fae_core.errors import DataError
from fae_core.models.build import seeded

SECTIONS = ("model", "training", "preview")  # of the settings of a generator's training


def train_generator(
    command: str,
    default_preset: str,
    generator_classes: dict[str, Any],
    *,
    latents: Path | None,
    data: str | None = None,
    tokenizer: str | None = None,
    out: Path,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    processes: int = 1,
) -> None:
    """Resolve settings, build the generator for the latent space, train it, say what to run next.

    command: "diffusion" or "flow"; generator_classes: model_type -> class. latents: a store; or data and tokenizer, for
    images that are encoded as they are needed. The number of classes follows the labels unless it is set.
    Raises FAEError's subclasses, one line each.
    """
    from fae_core.cost.counted import require_room
    from fae_core.training import GeneratorTask, PreviewConfig, TrainConfig, train

    settings = resolve_settings(preset or (None if config else default_preset), config, overrides, sections=SECTIONS)
    model_type = settings.get("model_type", next(iter(generator_classes)))
    if not isinstance(model_type, str) or model_type not in generator_classes:
        raise DataError(f"fae train {command} trains {', '.join(generator_classes)}, not {str(model_type)[:60]}")
    generator_class = generator_classes[model_type]
    training = dict(settings.get("training", {}))
    training.update({k: v for k, v in (("steps", steps), ("batch_size", batch_size), ("seed", seed)) if v is not None})
    train_config = parse_config(TrainConfig, training, "training settings")
    preview = parse_config(PreviewConfig, settings["preview"], "preview settings") if "preview" in settings else None
    require_fields(generator_class.config_class, settings.get("model", {}), "model settings")
    if relaunched(processes):
        return
    store = _open_latents(latents, data, tokenizer, train_config.verify)
    model = settings.get("model", {})
    model = model if "classes" in model else {**_class_count(store), **model}
    model_config = parse_config(generator_class.config_class, model, "model settings")
    require_room(lambda: generator_class(model_config, store.spec), "model settings")
    generator = seeded(train_config.seed, lambda: generator_class(model_config, store.spec))
    recorded = {
        "command": f"fae train {command}",
        "data": str(latents or data),
        **({"tokenizer": tokenizer} if tokenizer else {}),
        "model_type": model_type,
        "model": model_config.model_dump(mode="json"),
    }
    if preview is not None:
        recorded["preview"] = preview.model_dump(mode="json")
    task = GeneratorTask(generator, store, preview)
    train(task, train_config, out, settings=recorded, resume=resume, overwrite=overwrite, device=device)
    typer.echo(f"wrote {out}/model; next: fae sample --generator {out} --decoder TOKENIZER --out SAMPLES")


def _open_latents(latents: Path | None, data: str | None, tokenizer: str | None, verify: bool) -> Any:
    """The store, or images encoded as they are needed."""
    if latents is not None and data is None and tokenizer is None:
        from fae_core.latent_store import LatentStore

        return LatentStore(latents, verify=verify)
    if latents is None and data is not None and tokenizer is not None:
        from fae_core.images import readable_source
        from fae_core.models.load import load_tokenizer
        from fae_core.training.live_latents import LiveLatents

        return LiveLatents(readable_source(data), load_tokenizer(tokenizer))
    raise DataError("give either --latents STORE, or --data IMAGES with --tokenizer FOLDER")


def _class_count(store: Any) -> dict[str, int]:
    """The `classes` of a model for this store. Raises DataError where labels without names do not begin at 0."""
    if store.classes is not None:
        return {"classes": len(store.classes)}
    if store.labels is not None:
        if min(store.labels) > 0:
            raise DataError(
                f"the smallest label is {min(store.labels)}: number classes from 0, or say how many there are with --set model.classes=N"
            )
        return {"classes": int(max(store.labels)) + 1}
    return {"classes": 1}
