"""What `fae train diffusion` and `fae train flow` share: any generator, any latents, classes or text."""

from __future__ import annotations

import pkgutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.cli.initial import initial_generator, initial_settings, same_labels, stated_settings
from fae_core.cli.options import check_places
from fae_core.cli.settings import resolve_settings
from fae_core.cli.training_options import TrainingOptions
from fae_core.commands.running import command_line
from fae_core.config import Config, parse_config, require_fields
from fae_core.errors import DataError, InvalidSettings
from fae_core.folders import RUN_IDENTITY
from fae_core.models.build import on_meta, seeded
from fae_core.models.configs import config_class_of
from fae_core.models.sample_options import check_early
from fae_core.models.stored import stored_model

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_core.latent_store.facts import StoreFacts
    from fae_core.spec import LatentSpec
    from fae_core.training import GeneratorTask, PreviewConfig, TrainConfig

    # (class, model settings, latents, training settings, preview, device) -> the task, and what config.yaml records of
    # it
    TaskFactory = Callable[
        [Any, dict[str, Any], Any, TrainConfig, PreviewConfig | None, str | None], tuple[GeneratorTask, dict[str, Any]]
    ]

SECTIONS = ("model", "training", "preview")  # of the settings of a generator's training


def train_generator(
    command: str,
    default_preset: str,
    generator_classes: Mapping[str, Any],
    options: TrainingOptions | None = None,
    *,
    latents: Path | None,
    data: str | None = None,
    tokenizer: str | None = None,
    flip: bool = False,
    init: str | None = None,
    task_factories: dict[str, TaskFactory] | None = None,
    check: Callable[[str, dict[str, Any]], Mapping[str, str]] | None = None,
    **earlier: Any,
) -> None:
    """Resolve settings, build the generator for the latent space, train it, say what to run next.

    Args:
        command: "diffusion" or "flow".
        default_preset: taken where neither a preset nor a file of settings is given.
        generator_classes: model_type -> class, or "module:Class", which is imported once settings and places are right.
        options: what every training command takes. Its fields as keyword arguments still work, with a warning.
        latents: a store; or `data` and `tokenizer`, for images that are encoded as they are needed.
        flip: mirror half of these images.
        init: a generator to begin with; its model settings are taken, under those of `--config` and `--set`.
        task_factories: model_type -> what makes its task, where latents and labels (`labelled_task`) are not enough.
        check: called with the model_type and the model's settings, before anything is started; gives what files say of
            the run's identity beside the latents (`Task.identity`).

    Raises:
        FAEError: one line, for settings, data or an output folder that cannot be used.
    """
    if options is None:
        warnings.warn("give train_generator its options as one TrainingOptions", DeprecationWarning, stacklevel=2)
        options = TrainingOptions(**earlier)
    elif earlier:
        raise TypeError(f"train_generator takes {', '.join(earlier)} as fields of its options")
    settings = resolve_settings(options.preset_or(default_preset), options.config, options.overrides, sections=SECTIONS)
    initial = None
    if init is not None:
        stated = stated_settings(options, SECTIONS)
        initial = initial_generator(init, options, stated)
        settings |= {"model_type": initial.point.name, "model": initial_settings(initial, stated)}
    model_type = settings.get("model_type", next(iter(generator_classes)))
    if not isinstance(model_type, str) or model_type not in generator_classes:
        raise DataError(f"fae train {command} trains {', '.join(generator_classes)}, not {str(model_type)[:60]}")
    model = settings.get("model", {})
    config = options.train_config(settings)
    preview = _preview(settings, config)

    def load() -> Any:
        place = generator_classes[model_type]
        return pkgutil.resolve_name(place) if isinstance(place, str) else place

    config_class = config_class_of(model_type, load)
    require_fields(config_class, model, "model settings")
    if preview is not None:
        check_early(model_type, preview.options)
    known = {} if check is None else check(model_type, model)
    _check_source(latents, data, tokenizer, flip, options)
    facts = None if latents is None else _facts_of(latents)
    check_places(data=data, tokenizer=tokenizer, decoder=preview and preview.decoder)
    options.check_folder()
    name = f"fae train {command}"
    plain = {"command": name, "model_type": model_type, **({} if tokenizer is None else {"flip": flip})}
    options.require_started_with(plain, training=config, model=(config_class, model))
    spec = _latents_at_hand(facts, tokenizer)
    if spec is not None:
        if initial is not None and initial.spec is not None and initial.spec.shape != spec.shape:
            initial.spec.require(spec, context=f"generator {init}")
        options.require_suited(default_preset, {"latents": spec.shape})
        if hasattr(config_class, "require_spec"):
            parsed: Any = parse_config(config_class, model, "model settings")
            parsed.require_spec(spec)
        decoder = None if preview is None else stored_model("tokenizer", preview.decoder)
        if decoder is not None and decoder.spec is not None:
            decoder.spec.require(spec, context=f"decoder {decoder.source}")
    if options.relaunched():
        return
    source = None if data is None else options.opened(data, None)
    same_classes = initial is None or same_labels(initial, model, facts or source)
    if initial is not None and initial.classes is not None and same_classes:
        model["classes"] = initial.classes
    make_task = (task_factories or {}).get(model_type, labelled_task)
    if make_task is labelled_task:
        _check_labels(config_class, model, facts or source, str(latents or data))
    if options.continues and spec is not None:
        _require_begun_on(options.out, spec, facts, source, known)
    from fae_core.processes import processes

    generator_class = load()
    with processes(options.device):
        with options.building():
            store = _open_latents(latents, source, tokenizer, flip, config.verify)
            options.require_suited(default_preset, {"latents": store.spec.shape})
            task, about_task = make_task(generator_class, model, store, config, preview, options.device)
            if init is not None:
                from fae_core.models.initial import begin_with

                weights = {"init": begin_with(task.generator, init, same_classes=same_classes)}
                about_task |= {"init": init, RUN_IDENTITY: about_task.get(RUN_IDENTITY, {}) | weights}
        recorded = {
            **plain,
            "data": str(latents or data),
            **({"tokenizer": tokenizer} if tokenizer else {}),
            **about_task,
            **({} if preview is None else {"preview": preview.model_dump(mode="json")}),
        }
        prompts = None if make_task is labelled_task else "FILE"
        decoder = tokenizer or (preview.decoder if preview is not None else "TOKENIZER")
        after = command_line("sample", generator=options.out, decoder=decoder, out="SAMPLES", prompts=prompts)
        options.train(task, config, recorded, after)


def labelled_task(
    generator_class: Any,
    model: dict[str, Any],
    store: Any,
    config: TrainConfig,
    preview: PreviewConfig | None,
    device: str | None = None,
) -> tuple[GeneratorTask, dict[str, Any]]:
    """A generator of classes on latents and their labels; how many classes follows the labels unless it is set.

    A model whose settings have no `classes` knows none, and is given 0 for every latent.
    """
    from fae_core.training import GeneratorTask

    model = _with_classes(generator_class.config_class, model, store)
    generator, model_config = build_generator(generator_class, model, store, config)
    return GeneratorTask(generator, store, preview), {"model": model_config.model_dump(mode="json")}


def build_generator(generator_class: Any, model: dict[str, Any], store: Any, config: TrainConfig) -> tuple[Any, Config]:
    """A generator with weights from the seed, and its settings. Raises InvalidSettings where it does not fit."""
    from fae_core.cost.counted import require_room

    model_config = parse_config(generator_class.config_class, model, "model settings")
    if not on_meta():
        require_room(lambda: generator_class(model_config, store.spec), "model settings")
    return seeded(config.seed, lambda: generator_class(model_config, store.spec)), model_config


def _preview(settings: dict[str, Any], config: TrainConfig) -> PreviewConfig | None:
    """What to draw while training, if anything; raises InvalidSettings where it is not said how often, or not what."""
    from fae_core.training import PreviewConfig

    if "preview" not in settings:
        if config.preview_every:
            raise InvalidSettings("training.preview_every has nothing to draw: add --set preview.decoder=TOKENIZER")
        return None
    preview = parse_config(PreviewConfig, settings["preview"], "preview settings")
    if "preview_every" not in config.model_fields_set:
        raise InvalidSettings("the section preview is drawn at no step: add --set training.preview_every=N, 0 for none")
    return preview


def _facts_of(latents: Path) -> StoreFacts:
    """What the store says; training compares its files with their checksums, when it reads them."""
    from fae_core.latent_store.facts import StoreFacts

    return StoreFacts(latents, verify=False)


def _latents_at_hand(store: StoreFacts | None, tokenizer: str | None) -> LatentSpec | None:
    """The latents to train on, by files alone; None where only loading tells."""
    if store is not None:
        return store.spec
    stored = None if tokenizer is None else stored_model("tokenizer", tokenizer)
    return None if stored is None else stored.spec


def _check_source(
    latents: Path | None, data: str | None, tokenizer: str | None, flip: bool, options: TrainingOptions
) -> None:
    """Raise DataError unless there is a store, or images and what encodes them."""
    if latents is not None and flip:
        raise DataError("--flip is for --data; a latent store has mirror images where fae encode --flip wrote it")
    if options.survey is not None and data is None:
        raise DataError("--survey is about the images of --data, which is not given")
    given = (latents is not None, data is not None, tokenizer is not None)
    if given not in ((True, False, False), (False, True, True)):
        raise DataError("give either --latents STORE, or --data IMAGES with --tokenizer FOLDER")


def _check_labels(config_class: Any, model: dict[str, Any], data: Any, where: str) -> None:
    """Raise DataError where labels of a store or of images are no classes of the model."""
    from fae_core.images.classes import require_labels_below

    require_labels_below(data.labels, _with_classes(config_class, model, data).get("classes"), where)


def _require_begun_on(
    run: Path, spec: LatentSpec, store: StoreFacts | None, source: ImageSource | None, known: Mapping[str, str]
) -> None:
    """Compare the store, or the images to encode, with what the run to resume was begun on.

    Where the spec of these images' tokenizer has no fingerprint, its weights count as well, and only loading tells.
    """
    from fae_core.training.compared import require_begun_on

    if store is not None:
        require_begun_on(run, latent_spec=spec.summary(), latents=store.identity, **known)
    elif source is not None and spec.fingerprint:
        from fae_core.images.identity import images_identity

        require_begun_on(run, latents=images_identity(source, show=True))


def _open_latents(
    latents: Path | None, source: ImageSource | None, tokenizer: str | None, flip: bool, verify: bool
) -> Any:
    """The store, or images encoded as they are needed."""
    if latents is not None:
        from fae_core.latent_store import LatentStore

        return LatentStore(latents, verify=verify)
    assert source is not None and tokenizer is not None
    from fae_core.models.load import load_tokenizer
    from fae_core.training.live_latents import LiveLatents

    return LiveLatents(source, load_tokenizer(tokenizer), flip=flip)


def _with_classes(config_class: Any, model: dict[str, Any], store: Any) -> dict[str, Any]:
    """The settings of a model with how many classes a store has, where the model knows classes and none are set."""
    counted = "classes" in config_class.model_fields and "classes" not in model
    return {**_class_count(store), **model} if counted else model


def _class_count(store: Any) -> dict[str, int]:
    """The `classes` of a model for this store. Raises DataError where labels without names do not begin at 0."""
    if store.classes is not None:
        return {"classes": len(store.classes)}
    if store.labels is not None:
        if min(store.labels) > 0:
            raise DataError(
                f"the smallest label is {min(store.labels)}: number classes from 0, or say how many there are with "
                "--set model.classes=N"
            )
        return {"classes": int(max(store.labels)) + 1}
    return {"classes": 1}
