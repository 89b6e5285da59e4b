"""`fae encode`: images to a latent store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fae_core.cli.options import (
    Data,
    Device,
    DryRun,
    Out,
    Overwrite,
    Processes,
    Resume,
    Seed,
    SetEncoder,
    Split,
    Survey,
    check_places,
    encoder_there,
    path_there,
)
from fae_core.commands.output import say
from fae_core.config.limits import LARGEST_BATCH, MOST_PROCESSES
from fae_core.folders import ENCODER, STORE_SKIPPED

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_core.latent_store import LatentStore
    from fae_core.spec import LatentSpec
    from fae_encoder.store.config import EncodeConfig
    from fae_encoder.store.encode_dataset import LatentEncoder
    from fae_encoder.store.feature_store import FeatureStore


def _weights_there(weights: str | None) -> str | None:
    """The weights of a backbone as given, once it is known that there can be such."""
    if weights is not None and weights not in ("pretrained", "pip", "random"):
        path_there(Path(weights))
    return weights


BackboneWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        callback=_weights_there,
        help='Of the backbone: "pretrained", "pip", "random" or a file; default: the encoder\'s own choice.',
    ),
]
Features = Annotated[
    Path | None,
    typer.Option("--features", help="Features of the same images, encoded before with an identity adapter."),
]
DEFAULT_MODEL = "fae-lite0-32"  # its adapter is not trained: for a first look


def encode(
    data: Data,
    out: Out,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            callback=encoder_there,
            help="Encoder preset, or a folder, bundle or hub name of an encoder or tokenizer; without it "
            f"{DEFAULT_MODEL}, whose adapter is not trained.",
        ),
    ] = None,
    weights: BackboneWeights = None,
    overrides: SetEncoder = None,
    features: Features = None,
    split: Split = None,
    survey: Survey = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Encode the first so many images.")] = None,
    posterior: Annotated[
        str, typer.Option("--posterior", help="Store the distribution (mean and std), the mean, or one sample.")
    ] = "distribution",
    flip: Annotated[
        bool, typer.Option("--flip", help="Encode mirror images too; training picks one of the two.")
    ] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="float16, bfloat16 or float32 latents on disk.")] = "float16",
    statistics: Annotated[
        str,
        typer.Option(
            "--statistics", help="Normalise by the encoder's, the data's, or auto: the encoder's if it has any."
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option("--precision", help="fp32, or bf16 arithmetic in the encoder; CPUs that have no bf16 use fp32."),
    ] = "fp32",
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            max=LARGEST_BATCH,
            help="Images read ahead, in multiples of 32; the encoder always takes 32 at a time, which fixes rounding.",
        ),
    ] = 32,
    shard_size: Annotated[
        int | None, typer.Option("--shard-size", min=1, help="Samples per file; about 64 MiB by default.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=MOST_PROCESSES, help="Threads that decode images, per process; default: all cores."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    processes: Processes = 1,
    resume: Resume = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Encode images to a latent store, which fae-core alone can read. An interrupted call continues with --resume.

    Section of --set: encoder (of a preset; such as encoder.channels=16).

    Example: fae encode --data IMAGES --out runs/latents --model runs/tokenizer
    """
    from fae_core.cli.launch import relaunched
    from fae_core.commands.running import is_first_process
    from fae_core.errors import FAEError
    from fae_core.files import require_new_folder
    from fae_core.latent_store.begun import begun_plan, is_begun
    from fae_core.models.sources import may_be_preset

    require_new_folder(
        out, overwrite=overwrite, resume=resume or not is_first_process(), kind="latent store", resumable=True
    )
    if resume and out.is_dir():
        is_begun(out)
    fresh = may_be_preset(model or DEFAULT_MODEL)
    kept = Path(f"{out}.{ENCODER}") if fresh else None
    if kept is not None and not dry_run:
        require_new_folder(kept, overwrite=overwrite, resume=resume or not is_first_process(), resumable=True)
    from fae_core.cli.defaults import image_size_at_hand, require_suited
    from fae_core.config import parse_config
    from fae_core.images import open_surveyed
    from fae_encoder.config import preset_config, require_features_of, stored_config
    from fae_encoder.store.config import EncodeConfig

    settings = {
        "batch_size": batch_size,
        "dtype": dtype,
        "posterior": posterior,
        "flips": flip,
        "shard_size": shard_size,
        "precision": precision,
        "seed": seed,
        "statistics": statistics,
        "threads": threads,
    }
    config = parse_config(EncodeConfig, settings, "encode")
    fields = encoder_fields(overrides)
    known = None
    if fresh:
        known = preset_config(model or DEFAULT_MODEL, fields, "default" if weights is None else weights)
    elif fields:
        raise FAEError(f"{model} is taken as it is: --set is for an encoder preset")
    elif model is not None and (weights is not None or features is not None):
        known = stored_config(model, weights)  # these two are about a backbone
    check_places(features=features)
    if features is not None and known is not None:
        require_features_of(features, known)
    if not dry_run and relaunched(processes):
        return
    source = open_surveyed(data, split, survey)
    if limit is not None and limit < len(source):
        source = source.select(range(limit))
    begun = begun_plan(out) if resume and not dry_run and is_first_process() else None
    if begun is not None:
        from fae_encoder.store.source_identity import require_same_images

        require_same_images(out, begun.source, source)
    if model is None and not resume:
        require_suited(DEFAULT_MODEL, image_size_at_hand(source), option="--model")
    model = model or DEFAULT_MODEL
    from fae_core.processes import processes as process_group
    from fae_encoder.store.encode_dataset import encode_dataset

    if dry_run:
        _tell_plan(model, weights, fields, data, source, out, config)
        return
    with process_group(device) as group:
        encoder = _load(model, weights, seed, fields).to(group.device)
        if group.is_main and not _is_trained(encoder):
            typer.echo(f"note: the adapter of {model} is not trained: its latents are random projections", err=True)
        store = encode_dataset(
            encoder,
            source,
            out,
            config,
            features=None if features is None else _features(features, encoder, source),
            resume=resume,
            overwrite=overwrite,
            rank=group.rank,
            world=group.world_size,
            barrier=group.barrier,
        )
        if store is not None:
            spec = encoder.spec
            if kept is not None:
                _keep(encoder, store, kept)
            _report(store, spec, kept)


def _tell_plan(
    model: str,
    weights: str | None,
    fields: dict[str, Any],
    data: str,
    source: ImageSource,
    out: Path,
    config: EncodeConfig,
) -> None:
    """Print what would be encoded. The model is built on the meta device; no image is decoded."""
    import torch

    from fae_core.cli.info import as_yaml
    from fae_core.commands.output import document
    from fae_core.redact import redact_values
    from fae_encoder.store.planned import planned

    with torch.device("meta"):
        encoder = _load(model, weights, config.seed, fields)
    plan = redact_values(planned(encoder, source, out, config, {"data": data, "model": model}))
    document(plan)
    say(as_yaml(plan))
    say("dry run: nothing was made")


def encoder_fields(overrides: list[str] | None) -> dict[str, Any]:
    """The fields of an encoder preset that --set replaces.

    Args:
        overrides: encoder.KEY=VALUE each.

    Raises:
        UnknownName: a section other than encoder.
        InvalidSettings: a field that encoders do not have.
        FAEError: one cannot be read.
    """
    from fae_core.cli.settings import resolve_settings
    from fae_core.config import require_fields
    from fae_encoder.config import FAEEncoderConfig

    fields = resolve_settings(None, None, overrides, sections=("encoder",)).get("encoder", {})
    require_fields(FAEEncoderConfig, fields, "encoder settings")
    return fields


def _load(model: str, weights: str | None, seed: int, fields: dict[str, Any]) -> LatentEncoder:
    """The model that --model names. The seed fixes a preset's fresh adapter.

    Raises FAEError for a tokenizer that is no torch module, and for --weights without a backbone.
    """
    import torch

    from fae_core.errors import FAEError
    from fae_core.models.folder import read_config
    from fae_core.models.load import load_tokenizer
    from fae_core.models.sources import may_be_preset, resolve_model_folder
    from fae_encoder.config import ENCODER_TYPE, WHOLE_FAE
    from fae_encoder.encoder import FAEEncoder
    from fae_encoder.store.encode_dataset import LatentEncoder
    from fae_encoder.store.point_encoder import PointEncoder

    chosen: dict[str, Any] = {} if weights is None else {"weights": None if weights == "random" else weights}
    if may_be_preset(model):
        return FAEEncoder.from_preset(model, seed=seed, **chosen, **fields).eval()
    folder = resolve_model_folder(model, part="tokenizer")
    if read_config(folder).get("model_type") in (ENCODER_TYPE, WHOLE_FAE):
        return FAEEncoder.from_pretrained(folder, **chosen)
    if weights is not None:
        raise FAEError(f"{model} has no backbone to give weights to; leave --weights out")
    tokenizer = load_tokenizer(folder)
    if isinstance(tokenizer, LatentEncoder):
        return tokenizer
    if not isinstance(tokenizer, torch.nn.Module):
        raise FAEError(f"{model} is a {type(tokenizer).__name__}, which is no torch module with weights to identify")
    return PointEncoder(tokenizer)


def _features(folder: Path, encoder: LatentEncoder, source: ImageSource) -> FeatureStore:
    """The features that --features names. Raises FAEError if they do not fit the encoder or the images."""
    from fae_core.errors import FAEError
    from fae_encoder.encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore

    if not isinstance(encoder, FAEEncoder):
        raise FAEError(f"a {type(encoder).__name__} has no backbone whose features could be read; leave --features out")
    return FeatureStore(folder, encoder, source)


def _is_trained(encoder: LatentEncoder) -> bool:
    """Whether latents are more than random projections, as those of a preset's adapter are."""
    from fae_core.protocols import encoder_of

    return getattr(encoder_of(encoder), "is_trained", True)


def _keep(encoder: LatentEncoder, store: LatentStore, folder: Path) -> None:
    """Save a preset's encoder with the store's statistics: else nothing would have its weights."""
    from fae_encoder.encoder import FAEEncoder

    if isinstance(encoder, FAEEncoder):
        encoder.with_statistics(store.spec.mean, store.spec.std).save_pretrained(folder, overwrite=True)


def _report(store: LatentStore, spec: LatentSpec, kept: Path | None) -> None:
    """Say what was written. spec: the encoder's, as it was before."""
    from fae_core.cli.defaults import preset_words
    from fae_core.commands.running import command_line

    skipped = store.plan.total - len(store)
    if skipped:
        with (store.folder / STORE_SKIPPED).open(encoding="utf-8") as file:
            first = file.readline().partition("\t")[2].strip()
        typer.echo(
            f"{skipped} of {store.plan.total} images could not be read and were skipped; the first: {first} "
            f"(all are in {store.folder / STORE_SKIPPED})",
            err=True,
        )
    shape = "x".join(map(str, store.spec.shape))
    whose = "the encoder's" if (store.spec.mean, store.spec.std) == (spec.mean, spec.std) else "their own"
    how = f"normalised by {whose} statistics" if store.spec.is_normalized else "not normalised"
    say(f"wrote {len(store)} latents of {shape} ({store.plan.dtype}, {how}) to {store.folder}")
    if kept is not None:
        say(f"wrote the encoder to {kept}; --model {kept} encodes other images as it did")
    kind = "mmdit" if store.captions is not None and store.labels is None else "lightningdit"
    preset, remark = preset_words(kind, {"latents": store.spec.shape})
    following = command_line("train diffusion", latents=store.folder, preset=preset, out="runs/diffusion")
    say(f"next: {following}{remark}")
