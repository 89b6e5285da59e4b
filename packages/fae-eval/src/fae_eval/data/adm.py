"""ADM's .npz containers: samples (arr_0, arr_1) and references (also mu, sigma, mu_s, sigma_s).

pytorch-fid's reference files have mu and sigma alone. Ours may have `about`, a sentence that names the set.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fae_core.errors import DataError
from fae_core.files import disk_errors, staged_file
from fae_core.images.npz import CLASSES_ARRAY, read_header, read_member

ABOUT = "about"
_MOST_ABOUT = 1000  # characters


@dataclass(frozen=True)
class AdmStatistics:
    """Statistics that a reference file carries.

    Attributes:
        mu: mean of the pooled features, (d,).
        sigma: their covariance, (d, d).
        mu_s: mean of the spatial features, (s,); None where the file has none.
        sigma_s: their covariance, (s, s).
    """

    mu: np.ndarray
    sigma: np.ndarray
    mu_s: np.ndarray | None
    sigma_s: np.ndarray | None


def members(path: Path) -> set[str]:
    """Names of the arrays in an .npz file. Raises DataError where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from None


def read_adm_statistics(path: str | Path) -> AdmStatistics | None:
    """The statistics in an ADM (or pytorch-fid) reference file; None where it has none.

    Args:
        path: A .npz file.

    Raises:
        DataError: where it is no .npz file, or means and covariances do not fit together.
    """
    path = Path(path)
    names = members(path)
    if not {"mu", "sigma"} <= names:
        return None
    arrays = {n: np.asarray(read_member(path, n)) for n in ("mu", "sigma", "mu_s", "sigma_s") if n in names}
    for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
        mu, sigma = arrays.get(mean), arrays.get(covariance)
        if mu is None and sigma is None:
            continue
        if mu is None or sigma is None:
            raise DataError(f"{path} has only one of {mean} and {covariance}")
        if any(array.dtype.kind not in "fiu" for array in (mu, sigma)):
            raise DataError(f"{path}: {mean} and {covariance} must be numbers, they are {mu.dtype} and {sigma.dtype}")
        if mu.ndim != 1 or sigma.shape != (mu.size, mu.size):
            raise DataError(f"{path}: {mean} {mu.shape} and {covariance} {sigma.shape} do not fit together")
    return AdmStatistics(arrays["mu"], arrays["sigma"], arrays.get("mu_s"), arrays.get("sigma_s"))


def read_about(path: str | Path) -> str | None:
    """What an .npz file says that its images are; None where it says nothing. Raises DataError."""
    path = Path(path)
    if ABOUT not in members(path):
        return None
    header = read_header(path, ABOUT)
    if header.shape != () or header.dtype.kind != "U" or header.dtype.itemsize > 4 * _MOST_ABOUT:
        raise DataError(f"{path}: {ABOUT} must be one text of at most {_MOST_ABOUT} characters")
    return str(read_member(path, ABOUT)[()])


def image_size(path: str | Path) -> tuple[int, int] | None:
    """(height, width) of the images in an .npz file, from its header; None where it has none. Raises DataError."""
    if "arr_0" not in members(Path(path)):
        return None
    shape = read_header(Path(path), "arr_0").shape
    return (shape[1], shape[2]) if len(shape) == 4 else None


def write_adm(
    path: str | Path,
    batches: Iterable[np.ndarray],
    count: int,
    labels: Sequence[int] | None = None,
    statistics: AdmStatistics | None = None,
    classes: Sequence[str] | None = None,
    about: str | None = None,
) -> Path:
    """Write an ADM container, streaming, whole or not at all; returns the path.

    Args:
        path: the .npz file.
        batches: images, uint8 (B, H, W, 3).
        count: how many images there are in all.
        labels: (count,), the class of each.
        statistics: of a reference, written beside the images.
        classes: the names of the labels; only FAE's own readers use them.
        about: names the set in records; only FAE's own readers use it.

    Raises:
        DataError: where batches are of another type, of different sizes, or not `count` images in all.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with (
        staged_file(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        _write_images(archive, batches, count)
        arrays = {"arr_1": None if labels is None else np.asarray(labels, np.int64)}
        arrays |= {CLASSES_ARRAY: None if classes is None or labels is None else np.asarray(classes, np.str_)}
        arrays |= {ABOUT: None if about is None else np.asarray(about, np.str_)}
        arrays |= vars(statistics) if statistics else {}
        for name, array in arrays.items():
            if array is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    return path


def _write_images(archive: zipfile.ZipFile, batches: Iterable[np.ndarray], count: int) -> None:
    shape, written = None, 0
    with archive.open("arr_0.npy", "w", force_zip64=True) as member:
        for batch in batches:
            batch = np.ascontiguousarray(batch)
            if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
                raise DataError(f"expected uint8 images (B, H, W, 3), got {batch.dtype} {batch.shape}")
            if shape is None:
                shape = batch.shape[1:]
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(member, header)
            if batch.shape[1:] != shape:
                raise DataError(
                    f"images of {batch.shape[1:3]} and of {shape[:2]} pixels cannot share one .npz; give a size"
                )
            member.write(batch.tobytes())
            written += len(batch)
    if written != count:
        raise DataError(f"expected {count} images, got {written}")
