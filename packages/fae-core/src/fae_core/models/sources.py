"""The folder that the name of a model means: a model folder, a run, a bundle, or "owner/name" on the hub."""

from __future__ import annotations

from pathlib import Path

from fae_core.errors import InvalidFile, first_line
from fae_core.folders import (
    BUNDLE_PARTS,
    BUNDLE_RECORD,
    MODEL_CONFIG,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_EXPORTS,
    RUN_MODEL,
)
from fae_core.models.bundles import bundle_folders, bundle_part, is_bundle


def resolve_model_folder(
    source: str | Path, *, part: str | None = None, revision: str | None = None, token: str | None = None
) -> Path:
    """The local model folder of `source`: a run folder stands for its exported model, a bundle for its `part`.

    Args:
        source: A folder, the name of a bundle, or "owner/name" on the hub.
        part: "tokenizer" or "generator", where one of the two is wanted; None refuses bundles.
        revision: Of a hub repository.
        token: For the hub.

    Raises:
        InvalidFile: Where there is no model.
    """
    folder = locate_folder(source, revision=revision, token=token)
    if is_bundle(folder):
        if part is None:
            raise InvalidFile(f"{source} is a bundle; give {' or '.join(str(folder / name) for name in BUNDLE_PARTS)}")
        return bundle_part(folder, part)
    for candidate in (folder, folder / RUN_MODEL):
        if (candidate / MODEL_CONFIG).is_file():
            return candidate
    raise InvalidFile(f"{folder} holds no model ({MODEL_CONFIG} is missing)")


def locate_folder(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """The local folder of `source`: itself, else the bundle of that name, else a download of "owner/name" on the hub.

    Args:
        source: As in `resolve_model_folder`.
        revision: Of a hub repository.
        token: For the hub.

    Raises:
        InvalidFile: Where nothing has that name.
    """
    folder, name = Path(source), str(source)
    if folder.is_dir():
        return folder
    if "/" not in name:
        if name in bundle_folders():
            return bundle_folders()[name]
        known = ", ".join(sorted(bundle_folders())) or "none"
        raise InvalidFile(f"{name} does not exist; models that installed packages carry: {known}")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise InvalidFile(f"{name} does not exist")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, token=token))
    except Exception as error:
        reason = first_line(error)
        raise InvalidFile(f"{name} is neither a local folder nor a model that the hub would give: {reason}") from None


def run_of(source: str | Path) -> Path | None:
    """The run that a folder is, or is the model, an export or a checkpoint of; None for a folder of another origin.

    Args:
        source: A local folder.
    """
    folder = Path(source)
    inside = folder.parent.name in (RUN_EXPORTS, RUN_CHECKPOINTS)
    places = (folder, folder.parent.parent if inside else folder.parent)
    return next((place for place in places if (place / RUN_CONFIG).is_file()), None)


def find_bundle(source: str | Path) -> Path:
    """The folder of a bundle, given by folder, name or "owner/name" on the hub. Raises InvalidFile for others."""
    folder = locate_folder(source)
    if not is_bundle(folder):
        raise InvalidFile(
            f"{source} is not a bundle ({BUNDLE_RECORD} is missing); "
            "`fae bundle` makes one of a tokenizer and a generator"
        )
    return folder
