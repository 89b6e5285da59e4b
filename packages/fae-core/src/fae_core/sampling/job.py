"""SampleJob: which images to make, and the folder that holds them; by one process or many, resumable."""

from __future__ import annotations

import io
import itertools
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fae_core import folders
from fae_core._version import __version__
from fae_core.commands.provenance import provenance
from fae_core.commands.running import command_line
from fae_core.config.limits import (
    LARGEST_BATCH,
    LARGEST_SCALE,
    LARGEST_SEED,
    MOST_COLUMNS,
    MOST_IMAGES,
    SMALLEST_SEED,
)
from fae_core.errors import FAEError
from fae_core.files import (
    begun_folder,
    disk_errors,
    hold,
    read_json,
    recover_folder,
    remove_leftovers,
    require_new_folder,
    staged_file,
    write_atomic,
    write_json,
)
from fae_core.folders import GRID, IMAGES, SAMPLES_NPZ, SAMPLES_RECORD
from fae_core.images.halving import HalvingBatches
from fae_core.images.npz import CLASSES_ARRAY
from fae_core.models.identity import earlier_identity, model_identity, named_identities
from fae_core.models.load import generator_class
from fae_core.models.sample_options import check_options, resolved_options, with_guidance
from fae_core.processes import Processes, processes
from fae_core.progress import Bar, progress
from fae_core.protocols import Decoder, Generator, Observer, SamplingStep
from fae_core.random import SlotRandom
from fae_core.sampling.beforehand import job_settings, require_same_job
from fae_core.sampling.draw import choose_labels, draw_images, load_pair
from fae_core.sampling.grid import SampleGrid

_KIND = "samples"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class SampleJob:
    """Which images to make. Image i depends on (generator, decoder, seed, i, labels, options) and on nothing else.

    Attributes:
        generator: where the generator is: a folder, a run, a bundle or a repository.
        decoder: the same of the tokenizer.
        out: the folder to write.
        count: how many images.
        labels: as `draw_labels` takes them; with prompts they choose among these.
        guidance: the guidance scale, 1 = off; None for the generator's own default.
        seed: of the noise.
        batch_size: images at a time, halved where they do not fit in memory.
        options: of the generator's `sample`.
        columns: images in a row of the grid; None for a column per class where labels are "equal" or a list and there
            are 2 to 20 of them, else 8.
        npz: whether to write ADM's file of all images.
        prompts: for a generator that takes text.
        scale: how many times its size a picture is drawn in the grid; None for 1, or where classes have names for the
            least that makes pictures 64 pixels wide, so that names have room.

    Raises:
        FAEError: a number is out of range.
    """

    generator: str
    decoder: str
    out: Path
    count: int
    labels: str = "equal"
    guidance: float | None = None
    seed: int = 0
    batch_size: int = 32
    options: dict[str, Any] = field(default_factory=dict)
    columns: int | None = None
    npz: bool = True
    prompts: tuple[str, ...] = ()
    scale: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        limits = {
            "count": (1, MOST_IMAGES),
            "batch_size": (1, LARGEST_BATCH),
            "columns": (1, MOST_COLUMNS),
            "scale": (1, LARGEST_SCALE),
            "seed": (SMALLEST_SEED, LARGEST_SEED),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                option = f"--{name.replace('_', '-')}"
                raise FAEError(f"{option} must lie between {least} and {most}, it is {str(value)[:40]}")

    def run(self, *, resume: bool = False, overwrite: bool = False, device: str | None = None) -> str | None:
        """Write all images, the grid, the record and the .npz file.

        Args:
            resume: keep the images that an earlier call of the same job has written.
            overwrite: replace what the folder holds.
            device: "cpu", "cuda" or "cuda:N"; without one, cuda where there is one.

        Returns:
            A line that says what was written, on the first process; None on the others.

        Raises:
            OutputExists: the folder is in use.
            LatentSpecMismatch: generator and decoder are for different latent spaces.
            FAEError: samples are not finite, an option is unknown, or the folder was begun with another job.
        """
        with processes(device) as group, ExitStack() as held:
            if group.is_main:
                require_new_folder(self.out, overwrite=overwrite, resume=resume, kind=_KIND, resumable=SAMPLES_RECORD)
            known = generator_class(self.generator)
            if known is not None:  # asked before the weights are read
                check_options(known, self._sample_options())
            generator, decoder = load_pair(self.generator, self.decoder, group.device)
            check_options(generator, self._sample_options())
            labels, names = choose_labels(generator, self.labels, self.count, prompts=self.prompts, seed=self.seed)
            grid = SampleGrid.of(labels, names, self.columns, self.scale)
            grid.check(generator.spec.image_size)
            fresh = not (resume and (self.out / SAMPLES_RECORD).is_file())
            group.barrier()  # so that all processes have looked before the first one begins the folder
            started = time.monotonic()
            batches = self._batches(generator, decoder, labels, group, fresh)
            first = next(batches, None) if fresh else None
            record = {}
            if group.is_main:  # only now, so that what does not fit or cannot be drawn leaves no folder behind
                models = {"generator": generator, "decoder": decoder}
                identity = named_identities(generator, self._sample_options())
                identity |= {name: model_identity(model) for name, model in models.items()}
                used = resolved_options(getattr(generator, "config", None), self._sample_options())
                record = {"job": self._settings(), "sampling": job_settings(used), "identity": identity}
                held.enter_context(hold(self.out))
                self._open(record, resume, overwrite, models)
            group.barrier()
            made = 0
            for indices, images in itertools.chain([] if first is None else [first], batches):
                made += len(indices)
                for index, image in zip(indices, images, strict=True):
                    _write_png(self.image_path(index), image)
            group.barrier()
            record |= {} if names is None else {"class_names": list(names)}
            if not group.is_main:
                return None
            grid.save(self.out / GRID, self.image_path)
            return self._finish(record, labels, made, time.monotonic() - started, group)

    def image_path(self, index: int) -> Path:
        """Where image `index` is written.

        Args:
            index: Of the image, from 0.
        """
        return self.out / IMAGES / folders.image(index)

    def _open(self, record: dict[str, Any], resume: bool, overwrite: bool, models: Mapping[str, Any]) -> None:
        """Begin the folder, or check that the one to resume was begun with the same job."""
        path = self.out / SAMPLES_RECORD
        recover_folder(self.out)
        if resume and path.is_file():
            self._require_same(read_json(path), record, models)
            remove_leftovers(self.out)
            write_json(path, record)
        else:
            with begun_folder(self.out, overwrite=overwrite, kind=_KIND, resumable=SAMPLES_RECORD) as folder:
                write_json(folder / SAMPLES_RECORD, record)
        with disk_errors(self.out):
            (self.out / IMAGES).mkdir(exist_ok=True)
            remove_leftovers(self.out / IMAGES)

    def _require_same(self, before: dict[str, Any], now: dict[str, Any], models: Mapping[str, Any]) -> None:
        """Raise FAEError unless a folder was begun with the same settings and weights, wherever these are now."""
        identity = before.get("identity") or {}
        if not isinstance(identity, dict):
            raise FAEError(f"{self.out / SAMPLES_RECORD} is damaged: identity must be a mapping; use a new --out")
        # Earlier versions, and models that are no torch modules, are known by their paths alone.
        known = {name for name, content in now["identity"].items() if content and identity.get(name)}
        own = {key: value for key, value in now["job"].items() if key not in known}
        require_same_job(self.out, own, models["generator"])
        other = [name for name in sorted(known) if identity[name] != now["identity"][name]]
        changed = [name for name in other if name not in models or identity[name] != earlier_identity(models[name])]
        if changed:
            raise FAEError(
                f"{self.out} was started with another {' and '.join(changed)}: its images would be mixed with those of "
                "this one; use a new --out"
            )

    def _settings(self) -> dict[str, Any]:
        """What decides the images, as the record holds it."""
        settings = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("out", "batch_size", "columns", "npz", "scale")
        }
        return job_settings(settings)

    def _batches(
        self, generator: Generator, decoder: Decoder, labels: list[int], group: Processes, fresh: bool
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Numbers and images, (B, H, W, 3) uint8, that this process has to make: all, or those that are missing."""
        own = range(group.rank, self.count, group.world_size)
        missing = [i for i in own if fresh or not _is_whole(self.image_path(i))]
        with progress(len(missing), "sampling", enabled=group.is_main) as bar:
            for batch in HalvingBatches(missing, self.batch_size):
                indices = batch.indices
                try:
                    share = _Share(bar, len(indices))
                    images = self._make(generator, decoder, indices, labels, group.device, share)
                except torch.OutOfMemoryError:
                    batch.halve()
                    continue
                bar.note("")
                bar.advance(len(indices))
                yield indices, images

    def _make(
        self,
        generator: Generator,
        decoder: Decoder,
        indices: list[int],
        labels: list[int],
        device: str,
        observe: Observer,
    ) -> np.ndarray:
        """Some images, (B, H, W, 3) uint8."""
        chosen = [labels[i] for i in indices]
        condition = [self.prompts[i] for i in chosen] if self.prompts else torch.tensor(chosen, device=device)
        return draw_images(
            generator, decoder, condition, SlotRandom(self.seed, indices), self._sample_options(), observe
        )

    def _sample_options(self) -> dict[str, Any]:
        """The options of `sample`, guidance among them."""
        return with_guidance(self.guidance, self.options)

    def _finish(self, record: dict[str, Any], labels: list[int], made: int, seconds: float, group: Processes) -> str:
        """Write the .npz file and the finished record; a line that says what was written."""
        names = record.get("class_names")
        if self.npz:
            self._write_npz(labels, names)
        record = {
            **record,
            "labels": labels,
            "provenance": provenance(
                device=group.device.split(":")[0],
                seconds=round(seconds, 3),
                made_now=made,
                processes=group.world_size,
                torch=torch.__version__,
                fae_core=__version__,
                uint8="rounded to the nearest level",
            ),
        }
        write_json(self.out / SAMPLES_RECORD, record)
        target = self.out / SAMPLES_NPZ if self.npz else self.out / IMAGES
        following = command_line("eval generation", samples=target, reference="IMAGES")
        return f"wrote {self.count} images to {self.out}; next: {following}"

    def _write_npz(self, labels: list[int], names: Sequence[str] | None) -> None:
        """ADM's container, arr_0 (N, H, W, 3) uint8, arr_1 labels and our own classes, streamed image by image."""
        first = np.asarray(Image.open(self.image_path(0)))
        with (
            staged_file(self.out / SAMPLES_NPZ) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        ):
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *first.shape)}
                np.lib.format.write_array_header_2_0(member, header)
                for index in range(self.count):
                    member.write(np.asarray(Image.open(self.image_path(index))).tobytes())
            with archive.open("arr_1.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(labels, dtype=np.int64), allow_pickle=False)
            if names is not None:
                with archive.open(f"{CLASSES_ARRAY}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(names, dtype=np.str_), allow_pickle=False)


class _Share:
    """Shows on a bar how much of a batch is drawn, as one may take a minute on a CPU.

    Args:
        bar: Of the pictures.
        count: How many the batch has.
    """

    needs_states = False

    def __init__(self, bar: Bar, count: int) -> None:
        self._bar, self._count = bar, count

    def __call__(self, step: SamplingStep) -> None:
        self._bar.note(f"{step.done:.0%} of the next {self._count}")


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    write_atomic(path, buffer.getvalue())


def _is_whole(path: Path) -> bool:
    """Whether an image is complete, by the checksums of its parts; one that is not is made again."""
    if not path.is_file():  # reading a pipe could wait without end
        return False
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
        with path.open("rb") as file:  # `verify` does not notice a missing end
            file.seek(-len(_PNG_END), 2)
            return file.read() == _PNG_END
    except (OSError, SyntaxError, ValueError):
        return False
