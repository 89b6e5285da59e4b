"""Encoding a data set into a latent store: images in, posteriors out, by one process or many, resumable at any moment."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.errors import DataError
from fae_core.hub import ModelConfig, parse_config
from fae_core.images import ImageSource, center_crop, to_tensor
from fae_core.latent_store import LatentStore, LatentStoreWriter, Plan, ShardWriter
from fae_core.latent_store.format import default_shard_size
from fae_core.progress import Bar, progress
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_encoder.posterior import Posterior

log = logging.getLogger("fae")
_POLL_SECONDS = 0.5  # how often the first process looks whether the others are done
_GROUP = 32  # images that pass through the encoder together, whatever the batch size: matrix products round by shape
_IDENTITY_SAMPLES = 1024  # names that identify a source


@runtime_checkable
class LatentEncoder(Protocol):
    """What a data set can be encoded with: FAEEncoder, and every tokenizer with these (a torch module besides)."""

    spec: LatentSpec
    read_size: tuple[int, int]

    def posterior(self, images: Tensor) -> Posterior:
        """The distribution over raw latents of images (B, 3, H, W) in [0, 1], read at `read_size`."""
        ...

    def stamp(self) -> LatentSpec:
        """Set the spec's fingerprint to that of the present weights."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


class EncodeConfig(ModelConfig):
    """How a data set is encoded.

    batch_size: images read and handed to the device at a time, in multiples of 32; the same latents whatever it is.
    dtype: of the stored latents. posterior: "distribution" keeps mean and std, so that every reading may draw a fresh
    sample; "mean" and "sample" take half the space. flips: encode the mirror images too. shard_size: samples per file,
    about 64 MiB by default. precision: of the encoder's arithmetic. seed: of the draws of posterior="sample".
    statistics: what the store normalises by: the "encoder"'s own, those of the "data", or "auto", the encoder's if it has any.
    threads: that decode images.
    """

    batch_size: int = 32
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    posterior: Literal["distribution", "mean", "sample"] = "distribution"
    flips: bool = False
    shard_size: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    statistics: Literal["auto", "encoder", "data"] = "auto"
    threads: int = 4


def encode_dataset(
    encoder: LatentEncoder,
    source: ImageSource,
    out: str | Path,
    config: EncodeConfig | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    rank: int = 0,
    world: int = 1,
    barrier: Any = None,
) -> LatentStore | None:
    """Encode every image of `source`; process `rank` of `world` writes its share of shards.

    Returns the finished store in the first process, None in the others.

    Images that cannot be read are left out and named in the store's skipped.txt. barrier: called once by every process
    after the first has begun the store. An interrupted call goes on with resume=True, whatever `world` was before.
    Raises DataError where no image can be read, OutputExists, LatentSpecMismatch, one line each.
    """
    config = config or EncodeConfig()
    encoder.stamp()
    plan = make_plan(encoder, source, config)
    first = rank == 0
    if first:
        writer = LatentStoreWriter(out, encoder.spec, plan, resume=resume, overwrite=overwrite)
    if barrier is not None:
        barrier()
    if not first:
        writer = LatentStoreWriter(out, encoder.spec, plan, resume=True)
    pending = writer.pending(rank, world)
    total = sum(len(plan.range(shard)) for shard in range(rank, plan.shards, world))
    done = total - sum(len(plan.range(shard)) for shard in pending)
    name = "encode" if world == 1 else f"encode (process 1 of {world})"
    with progress(total, name, done=done, enabled=first) as bar, ThreadPoolExecutor(config.threads) as pool:
        for number in pending:
            _encode_shard(encoder, source, writer.shard(number), config, pool, bar)
    if not first:
        return None
    while writer.pending():  # the launcher ends this process if one of the others fails
        time.sleep(_POLL_SECONDS)
    own = config.statistics == "encoder" or (config.statistics == "auto" and encoder.spec.is_normalized)
    return writer.finish("spec" if own else "data")


def make_plan(encoder: LatentEncoder, source: ImageSource, config: EncodeConfig) -> Plan:
    """The store's plan: whatever decides the bytes of its shards."""
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
        "source": f"{_identity(source)} at {encoder.read_size[0]}x{encoder.read_size[1]} in {config.precision}",
        "seed": config.seed if config.posterior == "sample" else 0,
    }
    return parse_config(Plan, fields, "encode")


def _encode_shard(
    encoder: LatentEncoder,
    source: ImageSource,
    shard: ShardWriter,
    config: EncodeConfig,
    pool: ThreadPoolExecutor,
    bar: Bar,
) -> None:
    """One shard: a function of its range of the source alone, whoever computes it."""
    for places, loaded in _read_ahead(source, shard.range, config.batch_size, encoder.read_size, pool):
        for start in range(0, len(places), _GROUP):
            group = dict(zip(places[start : start + _GROUP], loaded[start : start + _GROUP], strict=True))
            images = {place: image for place, image in group.items() if isinstance(image, Tensor)}
            for place in group.keys() - images.keys():
                shard.skip(place, str(group[place]))
            if images:
                _add(encoder, source, shard, images, config)
            bar.advance(len(group))
    shard.commit()


def _add(
    encoder: LatentEncoder, source: ImageSource, shard: ShardWriter, images: dict[int, Tensor], config: EncodeConfig
) -> None:
    """Latents of some images, by place, with what is known about them."""
    places = list(images)
    shard.add(
        places,
        _latents(encoder, torch.stack(list(images.values())), places, config),
        labels=None if source.labels is None else [source.labels[i] for i in places],
        names=[_short_name(source, i) for i in places],
        captions=None if source.captions is None else [source.captions[i] for i in places],
    )


@torch.inference_mode()
def _latents(encoder: LatentEncoder, images: Tensor, places: Sequence[int], config: EncodeConfig) -> dict[str, Tensor]:
    device = next(encoder.parameters()).device
    images = images.to(device)
    # Always whole groups: a matrix product may round a row differently in a product of another shape.
    padded = F.pad(images, (0, 0, 0, 0, 0, 0, 0, _GROUP - len(places)))
    found: dict[str, Tensor] = {}
    for side in ("", "_flip") if config.flips else ("",):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            whole = _posterior(encoder, padded.flip(-1) if side else padded)
        posterior = whole.select(slice(len(places)))
        if config.posterior == "sample":
            found[f"mean{side}"] = posterior.sample(SlotRandom(config.seed, places, step=int(bool(side))))
        else:
            found[f"mean{side}"] = posterior.mode()
        if config.posterior == "distribution":
            found[f"std{side}"] = posterior.std
    return found


def _posterior(encoder: LatentEncoder, images: Tensor) -> Posterior:
    """The posterior of a group, in smaller parts where the device has too little memory for all of it at once."""
    try:
        return encoder.posterior(images)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    # Outside of the handler, so that the failed attempt's tensors are free by now.
    _tell_halving(len(images))
    halves = [_posterior(encoder, half) for half in images.chunk(2)]
    return Posterior(*(torch.cat([getattr(half, name) for half in halves]) for name in ("mean", "logvar")))


@cache  # once, not for every group
def _tell_halving(count: int) -> None:
    log.warning("out of memory for %d images at once; going on with half as many", count)


def _read_ahead(
    source: ImageSource, places: range, batch_size: int, size: tuple[int, int], pool: ThreadPoolExecutor
) -> Iterator[tuple[list[int], list[Tensor | DataError]]]:
    """Batches of images (or why one cannot be read), the next one being decoded while this one is used."""
    batch_size = -(-batch_size // _GROUP) * _GROUP
    batches = [list(places[start : start + batch_size]) for start in range(0, len(places), batch_size)]
    ahead: list[Future] = []
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        current = ahead or [pool.submit(_read, source, place, size) for place in batch]
        ahead = [pool.submit(_read, source, place, size) for place in following]
        yield batch, [future.result() for future in current]


def _read(source: ImageSource, place: int, size: tuple[int, int]) -> Tensor | DataError:
    try:
        return to_tensor(center_crop(source.read(place), size))
    except DataError as error:
        return error


def _identity(source: ImageSource) -> str:
    """Text that tells two sources apart by their size, names, labels and captions, without reading 10^8 of them."""
    step = max(1, len(source) // _IDENTITY_SAMPLES)
    digest = hashlib.sha256()
    for place in range(0, len(source), step):
        label = None if source.labels is None else source.labels[place]
        # Shards may lie on another machine; their captions are not worth fetching for this.
        known = source.captions is not None and source.blocks is None
        caption = "" if not known else f"\x1f{source.captions[place]}"
        digest.update(f"{_short_name(source, place)}\x1f{label}{caption}\x1e".encode())
    return f"{len(source)} images {digest.hexdigest()[:16]}"


def _short_name(source: ImageSource, place: int) -> str:
    """The last two parts of an image's name: the same wherever the data lie."""
    return "/".join(Path(source.name(place)).parts[-2:])
