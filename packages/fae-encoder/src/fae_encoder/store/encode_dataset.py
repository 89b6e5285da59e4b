"""Encoding a data set into a latent store of posteriors, by one process or several; resumable at any time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor

from fae_core.autocast import autocast
from fae_core.config import parse_config
from fae_core.errors import DataError
from fae_core.files import hold, require_new_folder
from fae_core.folders import STORE_INDEX
from fae_core.images import ImageSource, read_tensor
from fae_core.images.halving import HalvingBatches
from fae_core.images.read_ahead import read_ahead
from fae_core.latent_store import LatentStore, LatentStoreWriter, Plan, ShardWriter
from fae_core.latent_store.begun import begun_plan
from fae_core.latent_store.format import default_shard_size
from fae_core.machine import available_threads
from fae_core.models.identity import model_identity
from fae_core.progress import Bar, progress
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_encoder.posterior import Posterior
from fae_encoder.store.config import EncodeConfig
from fae_encoder.store.point_encoder import PointEncoder
from fae_encoder.store.source_identity import (
    identity_by_name,
    is_identity_by_name,
    other_source,
    same_source,
    short_name,
    source_identity,
)

if TYPE_CHECKING:
    from fae_encoder.encoder import FAEEncoder
    from fae_encoder.store.feature_store import FeatureStore

_POLL_SECONDS = 0.5  # how often the first process looks whether the others are done
_GROUP = 32  # images per forward pass, whatever the batch size: the rounding of matrix products depends on their shape


@runtime_checkable
class LatentEncoder(Protocol):
    """What can encode a data set: FAEEncoder, and every tokenizer that is a torch module with these members."""

    spec: LatentSpec

    @property
    def read_size(self) -> tuple[int, int]:
        """(height, width) at which to read images."""
        ...

    def posterior(self, images: Tensor) -> Posterior:
        """The distribution over raw latents of images (B, 3, H, W) in [0, 1], read at `read_size`."""
        ...

    def stamp(self) -> LatentSpec:
        """Set the spec's fingerprint to that of the present weights."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def to(self, device: str | torch.device) -> Self: ...


def encode_dataset(
    encoder: LatentEncoder,
    source: ImageSource,
    out: str | Path,
    config: EncodeConfig | None = None,
    *,
    features: FeatureStore | None = None,
    resume: bool = False,
    overwrite: bool = False,
    rank: int = 0,
    world: int = 1,
    barrier: Callable[[], None] | None = None,
) -> LatentStore | None:
    """Encode every image of `source`; process `rank` of `world` writes its share of shards.

    Images that cannot be read are left out and named in the store's skipped.txt. An interrupted call continues with
    resume=True, with any number of processes, even if the images have moved: they are compared by content.

    Args:
        encoder: what encodes; its spec is stamped.
        source: the images.
        out: folder of the store.
        config: how to encode; None = the defaults.
        features: of the same images, computed before; then no image is read and only an FAEEncoder's adapter runs.
        resume: continue an interrupted call.
        overwrite: replace an existing store.
        rank: number of this process, from 0.
        world: number of processes.
        barrier: called once by every process, after the first has begun the store.

    Returns:
        The finished store in the first process, None in the others.

    Raises:
        DataError: if no image can be read, or a resumed store was begun with other images.
        OutputExists: if the folder exists and neither resume nor overwrite is given.
        LatentSpecMismatch: if a resumed store has another latent space, or was finished with other statistics.
    """
    config = config or EncodeConfig()
    if rank == 0:
        require_new_folder(out, overwrite=overwrite, resume=resume, kind="latent store", resumable=True)
    encoder.stamp()
    begun = begun_plan(Path(out)) if resume else None
    plan = make_plan(encoder, source, config, features, show=rank == 0, before=begun and begun.source)
    if begun is not None:
        plan = _resumed(Path(out), plan, begun, identity_by_name(source, encoder.read_size, config.precision))
    inputs = _of_images(encoder, source) if features is None else _of_features(encoder, features)
    first = rank == 0
    with hold(out) if first else nullcontext():
        writer = LatentStoreWriter(out, encoder.spec, plan, resume=resume, overwrite=overwrite) if first else None
        if barrier is not None:
            barrier()
        if writer is None:
            writer = LatentStoreWriter(out, encoder.spec, plan, resume=True)
        pending = writer.pending(rank, world)
        total = sum(len(plan.range(shard)) for shard in range(rank, plan.shards, world))
        done = total - sum(len(plan.range(shard)) for shard in pending)
        name = "encode" if world == 1 else f"encode (process 1 of {world})"
        with progress(total, name, done=done, enabled=first) as bar:
            for number in pending:
                _encode_shard(inputs, source, writer.shard(number), config, bar)
        if not first:
            return None
        while writer.pending():  # the launcher ends this process if one of the others fails
            time.sleep(_POLL_SECONDS)
        own = config.statistics == "encoder" or (config.statistics == "auto" and encoder.spec.is_normalized)
        return writer.finish("spec" if own else "data")


def _resumed(out: Path, plan: Plan, older: Plan, by_name: str) -> Plan:
    """The plan with which a begun store continues.

    Raises DataError if it was begun with other images, or by a version that compared images by name; a store that such
    a version finished keeps its plan.
    """
    finished = (out / STORE_INDEX).is_file()
    if same_source(older.source, plan.source):
        return plan.model_copy(update={"source": older.source})
    if is_identity_by_name(older.source):
        read_from = "".join(plan.source.partition(",")[1:])
        if finished and older.source == by_name + read_from:
            return plan.model_copy(update={"source": older.source})
        if not finished:
            raise DataError(
                f"{out} was begun by an earlier version, which did not record the images' content, so they cannot be "
                "compared; --overwrite encodes them anew"
            )
    raise other_source(out, older.source, plan.source)


def make_plan(
    encoder: LatentEncoder,
    source: ImageSource,
    config: EncodeConfig,
    features: FeatureStore | None = None,
    *,
    show: bool = False,
    before: str | None = None,
) -> Plan:
    """The store's plan: everything that determines the bytes of its shards.

    Args:
        encoder: what encodes.
        source: the images.
        config: how to encode.
        features: of the same images, computed before.
        show: show a progress bar over large sets.
        before: the source of the plan that this one will be compared with, where there is one.

    Raises:
        DataError: if flips are asked of features, which have none.
    """
    if features is not None and config.flips:
        raise DataError("features are of the images as they are; encode mirror images without a store of features")
    channels, height, width = encoder.spec.shape
    tensors = (2 if config.posterior == "distribution" else 1) * (2 if config.flips else 1)
    fields = {
        "total": len(source),
        "shard_size": config.shard_size or default_shard_size(channels * height * width * tensors, config.dtype),
        "dtype": config.dtype,
        "posterior": config.posterior,
        "flips": config.flips,
        "labels": source.labels is not None,
        "captions": source.captions is not None,
        "classes": None if source.classes is None else tuple(source.classes),
        "source": source_identity(source, encoder.read_size, config.precision, show=show, before=before)
        + _read_from(features)
        + _by_weights(encoder),
        "seed": config.seed if config.posterior == "sample" else 0,
    }
    return parse_config(Plan, fields, "encode")


def _read_from(features: FeatureStore | None) -> str:
    """What the source of a plan says of features that are read in place of images."""
    if features is None:
        return ""
    precision = "" if features.precision == "fp32" else f" in {features.precision}"  # earlier versions said none
    return f", features kept as {features.store.plan.dtype}{precision}"


def _by_weights(encoder: LatentEncoder) -> str:
    """What it says of weights that the spec's fingerprint does not tell apart: those of a tokenizer without one."""
    if encoder.spec.fingerprint:
        return ""
    return f", by weights {model_identity(encoder.tokenizer if isinstance(encoder, PointEncoder) else encoder)}"


@dataclass(frozen=True)
class _Inputs:
    """How to read the encoder's input for a place in the source, and the posterior of a batch of inputs."""

    read: Callable[[int], Tensor | DataError]
    posterior: Callable[[Tensor], Posterior]
    device: torch.device


def _of_images(encoder: LatentEncoder, source: ImageSource) -> _Inputs:
    return _Inputs(
        lambda place: _read(source, place, encoder.read_size), encoder.posterior, next(encoder.parameters()).device
    )


def _of_features(encoder: LatentEncoder, features: FeatureStore) -> _Inputs:
    encoder = cast("FAEEncoder", encoder)  # no other has a FeatureStore
    return _Inputs(
        lambda place: features.read([place])[0],
        lambda raw: encoder.adapt(encoder.feature_norm(raw)),
        next(encoder.parameters()).device,
    )


def _encode_shard(
    inputs: _Inputs,
    source: ImageSource,
    shard: ShardWriter,
    config: EncodeConfig,
    bar: Bar,
) -> None:
    """Write one shard, which depends only on its range of the source, whichever process computes it."""
    ahead = -(-config.batch_size // _GROUP) * _GROUP
    threads = config.threads or available_threads()
    reading = read_ahead(inputs.read, shard.range, threads=threads, ahead=ahead)
    while group := dict(itertools.islice(reading, _GROUP)):
        read = {place: one for place, one in group.items() if isinstance(one, Tensor)}
        for place in group.keys() - read.keys():
            shard.skip(place, str(group[place]))
        if read:
            _add(inputs, source, shard, read, config)
        bar.advance(len(group))
    shard.commit()


def _add(
    inputs: _Inputs, source: ImageSource, shard: ShardWriter, read: dict[int, Tensor], config: EncodeConfig
) -> None:
    """Add the latents of some images, by place, with their labels, names and captions."""
    places = list(read)
    shard.add(
        places,
        _latents(inputs, torch.stack(list(read.values())), places, config),
        labels=None if source.labels is None else [source.labels[i] for i in places],
        names=[short_name(source, i) for i in places],
        captions=None if source.captions is None else [source.captions[i] for i in places],
    )


@torch.inference_mode()
def _latents(inputs: _Inputs, read: Tensor, places: Sequence[int], config: EncodeConfig) -> dict[str, Tensor]:
    read = read.to(inputs.device)
    # Always whole groups: a matrix product of another shape may round a row differently.
    padded = torch.cat([read, read.new_zeros(_GROUP - len(places), *read.shape[1:])])
    found: dict[str, Tensor] = {}
    for side in ("", "_flip") if config.flips else ("",):
        with autocast(inputs.device.type, config.precision):
            whole = _posterior(inputs, padded.flip(-1) if side else padded)
        posterior = whole.select(slice(len(places)))
        if config.posterior == "sample":
            found[f"mean{side}"] = posterior.sample(SlotRandom(config.seed, places, step=int(bool(side))))
        else:
            found[f"mean{side}"] = posterior.mode()
        if config.posterior == "distribution":
            found[f"std{side}"] = posterior.std
    return found


def _posterior(inputs: _Inputs, batch: Tensor) -> Posterior:
    """The posterior of a group, in smaller parts where it does not fit in the device's memory."""
    parts: list[Posterior] = []
    for rows in HalvingBatches(list(range(len(batch))), len(batch)):
        try:
            parts.append(inputs.posterior(batch[rows.indices[0] : rows.indices[-1] + 1]))
        except torch.OutOfMemoryError:
            rows.halve()
    return Posterior(*(torch.cat([getattr(part, name) for part in parts]) for name in ("mean", "logvar")))


def _read(source: ImageSource, place: int, size: tuple[int, int]) -> Tensor | DataError:
    try:
        return read_tensor(source, place, size)
    except DataError as error:
        return error
