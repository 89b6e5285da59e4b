"""One interface over everything that can be measured: batches of uint8 images with where they came from."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fae_core.commands.running import is_first_process
from fae_core.errors import DataError, FAEError
from fae_core.folders import LATENT_SPEC
from fae_core.images import ImageSource, center_crop, to_uint8
from fae_core.images.budget import DECODING
from fae_core.images.identity import images_identity
from fae_core.images.read_ahead import read_ahead
from fae_core.images.spread import evenly_spread, spread_indices
from fae_core.images.transform import as_height_width
from fae_core.machine import available_threads
from fae_core.protocols import can_decode
from fae_eval.data.files import open_image_files
from fae_eval.extractors.base import as_uint8_nchw
from fae_eval.tokenizers import device_of

Share = tuple[int, int]
WHOLE: Share = (0, 1)


def batch_starts(count: int, batch_size: int, share: Share = WHOLE) -> range:
    """Where each of a process's batches begins. Each process has a contiguous part of all batches, in order of rank.

    Args:
        count: images in all.
        batch_size: images of a batch.
        share: rank and number of processes.
    """
    rank, processes = share
    batches = -(-count // batch_size)
    first, last = (-(-batches * r // processes) for r in (rank, rank + 1))
    return range(first * batch_size, last * batch_size, batch_size)


def share_size(count: int, batch_size: int, share: Share = WHOLE) -> int:
    """How many of `count` images are in a process's batches; arguments as in `batch_starts`."""
    return sum(min(batch_size, count - start) for start in batch_starts(count, batch_size, share))


class Samples(ABC):
    """Images in a fixed order.

    Attributes:
        origin: where they come from, in words.
        labels: their classes; None where they are not known.
        classes: the names of the classes; None where they are not known.
        size: (h, w) to which they are cropped; None where they are not.
        preparation: how they were resized, in words.
        jpeg: how many are stored as JPEG.
        skipped: names of those that could not be read in the last pass.
    """

    origin: str
    labels: list[int] | None = None
    classes: list[str] | None = None
    size: tuple[int, int] | None = None
    preparation: str = "none: pixels as stored"
    jpeg: int = 0
    skipped: tuple[str, ...] = ()

    def cache_key(self) -> str | None:
        """A hash of the images and how they are prepared; None where it would take drawing or decoding them."""
        return None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[np.ndarray]:
        """Batches of uint8 images (B, H, W, 3), all of one size. Unreadable images are left out and named in `skipped`.

        The batches are the same with any number of processes, so that a network whose rounding depends on its batch
        gives the same features.

        Args:
            batch_size: images of a batch.
            share: rank and number of processes; only this process's batches are given.

        Raises:
            DataError: where images differ in size.
        """


def open_samples(
    source: Any,
    *,
    size: int | tuple[int, int] | None = None,
    decoder: Any = None,
    limit: int | None = None,
    survey: str | Path | None = None,
) -> Samples:
    """Anything that can be measured, as samples:

    - a path: image folder, .parquet, .npz, "photographs" (see `fae_core.images.open_images`), a folder that
      `fae sample` wrote, or a latent store, with a decoder;
    - a `GeneratedSamples` (any Samples): images that a generator draws while they are measured;
    - an ImageSource;
    - arrays or tensors, uint8 (N, H, W, 3) or float (N, 3, H, W) in [0, 1];
    - an iterable of such batches, which is read once and kept as uint8.

    Args:
        source: one of these.
        size: side, or (h, w), of a centre crop as ADM prepares ImageNet, also of what is drawn, decoded or in memory;
            None takes pixels as they are.
        decoder: a tokenizer that decodes the latents of a store.
        limit: most images, evenly spread, since folders are ordered by class; of a stream the first. A Samples is taken
            whole: it says itself how many it has.
        survey: a report of `fae check` on the images of a path.

    Raises:
        FAEError: where it is none of these, a store has no decoder, or a survey is of other images.
    """
    if survey is not None and not isinstance(source, (str, Path, ImageSource)):
        raise FAEError("a survey is about images in files")
    if isinstance(source, (str, Path, ImageSource)) and not _is_store(source):
        images = open_image_files(source, survey)
        return SourceSamples(evenly_spread(images, limit), size, images.origin or type(source).__name__)
    opened = _made(source, decoder, limit, size)
    return opened if size is None or opened.size == as_height_width(size) else CroppedSamples(opened, size)


def _made(source: Any, decoder: Any, limit: int | None, size: int | tuple[int, int] | None) -> Samples:
    """Samples of anything but images in files; arguments and errors as those of `open_samples`.

    Batches of a stream, which may have several sizes, are cropped to `size` here.
    """
    if isinstance(source, Samples):
        return source
    if _is_store(source):
        return _from_store(Path(source), decoder, limit)
    if isinstance(source, (np.ndarray, Tensor)):
        return ArraySamples(source if limit is None else source[spread_indices(len(source), limit)], "array")
    if isinstance(source, Iterable):
        crop = None if size is None else as_height_width(size)
        batches = [one if crop is None else _cropped(one, crop) for one in _until(source, limit)]
        sizes = sorted({"x".join(map(str, batch.shape[1:3])) for batch in batches})
        if len(sizes) > 1:
            raise DataError(f"a stream has images of {' and '.join(sizes)} pixels; give a size to crop all")
        return ArraySamples(np.concatenate(batches) if batches else np.empty(0), "stream of batches")
    raise FAEError(f"cannot measure a {type(source).__name__}; give a path, an image source, an array or batches")


class SourceSamples(Samples):
    """Images of an ImageSource, decoded in threads.

    Args:
        source: the images.
        size: side, or (h, w), of a centre crop; None takes pixels as they are.
        origin: where they come from, in words.
        threads: how many images are decoded side by side; None: as many as the process may use cores.
    """

    def __init__(
        self, source: ImageSource, size: int | tuple[int, int] | None, origin: str, threads: int | None = None
    ) -> None:
        self.source, self.origin, self.threads = source, origin, threads or available_threads()
        self.size = None if size is None else as_height_width(size)
        self.labels = list(source.labels) if source.labels is not None else None
        self.classes = source.classes
        names = (source.name(i) for i in range(len(source)))
        self.jpeg = sum(name.lower().endswith((".jpg", ".jpeg")) for name in names)
        if size is not None:
            self.preparation = f"centre crop to {size} (box halving, then bicubic)"

    def __len__(self) -> int:
        return len(self.source)

    def cache_key(self) -> str | None:
        try:
            images = images_identity(self.source, show=is_first_process()).text()
            return hashlib.sha256(f"{images} {self.preparation}".encode()).hexdigest()
        except DataError:  # a file that cannot be read: reported when its image is read
            return None

    def batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[np.ndarray]:
        shape, skipped = None, []
        starts = batch_starts(len(self), batch_size, share)
        indices = range(len(self))[starts.start : starts.stop]
        reading = read_ahead(self._read, indices, threads=self.threads, ahead=batch_size)
        for _ in starts:
            images = []
            for index, image in itertools.islice(reading, batch_size):
                if image is None:
                    skipped.append(self.source.name(index))
                    continue
                shape = shape or image.shape
                if image.shape != shape:
                    raise DataError(
                        f"{self.source.name(index)} has another size than the rest; give --size to crop all"
                    )
                images.append(image)
            self.skipped = tuple(skipped)
            if images:
                yield np.stack(images)

    def _read(self, index: int) -> np.ndarray | None:
        with DECODING.share():  # until the image is down to the size asked for
            try:
                image = self.source.read(index)
            except DataError:
                return None
            return np.asarray(image if self.size is None else center_crop(image, self.size), np.uint8)


class FollowingSamples(Samples):
    """Samples made of others, of which they say the same.

    Args:
        samples: the others; not to be read elsewhere meanwhile.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.follow()

    def __len__(self) -> int:
        return len(self.samples)

    def follow(self) -> None:
        """Say of these images what the samples say, which may know it only once they have been read."""
        inner = self.samples
        self.origin, self.labels, self.classes, self.size = inner.origin, inner.labels, inner.classes, inner.size
        self.preparation, self.jpeg, self.skipped = inner.preparation, inner.jpeg, inner.skipped

    def cache_key(self) -> str | None:
        return self.samples.cache_key()


class CroppedSamples(FollowingSamples):
    """Centre crops of samples that are not read from files.

    Args:
        samples: whose images they are.
        size: side, or (h, w), of the crops.
    """

    def __init__(self, samples: Samples, size: int | tuple[int, int]) -> None:
        self._crop = as_height_width(size)
        super().__init__(samples)

    def follow(self) -> None:
        super().follow()
        self.size = self._crop
        self.preparation += f"; centre crop to {'x'.join(map(str, self._crop))} (box halving, then bicubic)"

    def cache_key(self) -> str | None:
        key = self.samples.cache_key()
        return None if key is None else hashlib.sha256(f"{key} {self._crop}".encode()).hexdigest()

    def batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[np.ndarray]:
        for images in self.samples.batches(batch_size, share):
            yield _cropped(images, self._crop)
        self.follow()


def _cropped(images: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """Centre crops of uint8 images (B, H, W, 3)."""
    if images.shape[1:3] == crop:
        return images
    return np.stack([np.asarray(center_crop(Image.fromarray(one), crop)) for one in images])


class ArraySamples(Samples):
    """Images in memory, kept as uint8 (N, H, W, 3).

    Args:
        images: uint8 (N, H, W, 3), or float (N, 3, H, W) in [0, 1].
        origin: where they come from, in words.
        labels: their classes; None where they are not known.

    Raises:
        DataError: where there are none.
    """

    def __init__(self, images: np.ndarray | Tensor, origin: str, labels: list[int] | None = None) -> None:
        if not len(images):
            raise DataError("there are no images to measure")
        self.images = as_uint8_nchw(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.origin, self.labels = origin, labels

    def __len__(self) -> int:
        return len(self.images)

    def cache_key(self) -> str:
        return hashlib.sha256(f"{self.images.shape}".encode() + self.images.tobytes()).hexdigest()

    def batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[np.ndarray]:
        for start in batch_starts(len(self), batch_size, share):
            yield self.images[start : start + batch_size]


class StoreSamples(Samples):
    """Latents of a store, decoded batch by batch.

    Args:
        store: a LatentStore.
        decoder: a tokenizer that decodes its latents.
        origin: where they come from, in words.
        limit: most images, evenly spread.

    Raises:
        LatentSpecMismatch: where the decoder is of other latents.
    """

    def __init__(self, store: Any, decoder: Any, origin: str, limit: int | None) -> None:
        decoder.spec.require(store.spec, context=origin)
        self.store, self.decoder, self.origin = store, decoder, origin
        self.indices = spread_indices(len(store), limit)
        self.labels = None if store.labels is None else [int(store.labels[i]) for i in self.indices]
        self.classes = store.classes
        self.preparation = "decoded from latents"

    def __len__(self) -> int:
        return len(self.indices)

    @torch.no_grad()
    def batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[np.ndarray]:
        for start in batch_starts(len(self), batch_size, share):
            z, _ = self.store.read(self.indices[start : start + batch_size])
            z = z.to(device_of(self.decoder))
            images = to_uint8(self.decoder.decode(z))  # clamps, as `fae sample` does: decoders may leave [0, 1]
            yield images.permute(0, 2, 3, 1).contiguous().cpu().numpy()


class ContentHash:
    """A hash of a set of images that does not depend on their order or on the batch size."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, images: np.ndarray) -> None:
        """Add images, uint8 (B, H, W, 3)."""
        for image in images:
            digest = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(), digest_size=16)
            self._sum = (self._sum + int.from_bytes(digest.digest(), "little")) % 2**128
            self._count += 1

    @classmethod
    def merged(cls, parts: Iterable[ContentHash]) -> ContentHash:
        """The hash of all parts together."""
        whole = cls()
        for part in parts:
            whole._sum = (whole._sum + part._sum) % 2**128
            whole._count += part._count
        return whole

    @property
    def value(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(f"{self._count} {self._sum}".encode()).hexdigest()[:16]


def _is_store(source: Any) -> bool:
    """Whether a source is the folder of a latent store."""
    return isinstance(source, (str, Path)) and (Path(source) / LATENT_SPEC).is_file()


def _from_store(folder: Path, decoder: Any, limit: int | None) -> Samples:
    from fae_core import LatentStore

    if decoder is None or not can_decode(decoder):
        raise FAEError(f"{folder} holds latents; give a model folder that decodes them (--decoder)")
    return StoreSamples(LatentStore(folder), decoder, str(folder), limit)


def _until(batches: Iterable[Any], limit: int | None) -> Iterator[np.ndarray]:
    left = limit
    for batch in batches:
        images = as_uint8_nchw(batch).permute(0, 2, 3, 1).contiguous().cpu().numpy()[:left]
        yield images
        if left is not None:
            left -= len(images)
            if left <= 0:
                return
