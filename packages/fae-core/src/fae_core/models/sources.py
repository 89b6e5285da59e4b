"""The folder that the name of a model means: a model folder, a run, a bundle, or "owner/name" on the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict, Unpack

from fae_core.commands.loading import loading
from fae_core.errors import InvalidFile, UnknownName, first_line
from fae_core.folders import (
    BUNDLE_PARTS,
    BUNDLE_RECORD,
    LATENT_SPEC,
    MODEL_CONFIG,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_EXPORTS,
    RUN_MODEL,
    weights_file,
)
from fae_core.models.bundles import bundle_folders, bundle_part, is_bundle

_REPOSITORY = re.compile(r"\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)  # names that the hub allows
_OF_DOWNLOADS = ("revision", "token", "cache_dir", "local_files_only")


class HubOptions(TypedDict, total=False):
    """Where a model is looked for, as in huggingface_hub; every `from_pretrained` takes these.

    Attributes:
        revision: Branch, tag or commit of a hub repository.
        token: For the hub; it is never written to disk.
        cache_dir: Folder of downloads; None takes huggingface_hub's.
        local_files_only: Take what was downloaded before, and ask no server.
        subfolder: Folder of the model inside the folder or repository.
        variant: Of the weights: "fp16" reads model.fp16.safetensors. Its numbers are rounded, so that latents differ by
            rounding from those that the spec's fingerprint names.
    """

    revision: str | None
    token: str | None
    cache_dir: str | Path | None
    local_files_only: bool
    subfolder: str | None
    variant: str | None


def resolve_model_folder(
    source: str | Path,
    *,
    part: str | None = None,
    parts: Sequence[str] | None = None,
    weights: bool = True,
    beside: Collection[str] = ("spec", "device", "dtype"),
    **hub: Unpack[HubOptions],
) -> Path:
    """The local model folder of `source`: a run folder stands for its exported model, a bundle for its `part`.

    Of a hub repository only the files that are needed are fetched.

    Args:
        source: A folder, the name of a bundle, or "owner/name" on the hub.
        part: "tokenizer" or "generator", where one of the two is wanted; None refuses bundles.
        parts: Folders inside a model's whose files are needed, "" for its own; None for all.
        weights: Whether the weights are needed, or only what describes them.
        beside: What the caller takes beside `HubOptions`: names that the message about an unknown option suggests.
        hub: See `HubOptions`.

    Raises:
        UnknownName: Where an option is none of `HubOptions`, which a caller that takes `**hub` has passed on.
        InvalidFile: Where there is no model.
    """
    known = HubOptions.__annotations__
    unknown = next((name for name in hub if name not in known), None)
    if unknown is not None:
        raise UnknownName("option", unknown, {*known, *beside})
    folder = locate_folder(source, _needed(part, parts, hub.get("variant"), weights), **hub)
    if is_bundle(folder):
        if part is None:
            raise InvalidFile(f"{source} is a bundle; give {' or '.join(str(folder / name) for name in BUNDLE_PARTS)}")
        return bundle_part(folder, part, (parts if weights else ()) if on_hub(source) else None)
    for candidate in (folder, folder / RUN_MODEL):
        if (candidate / MODEL_CONFIG).is_file():
            return candidate
    raise InvalidFile(f"{folder} holds no model ({MODEL_CONFIG} is missing)")


def locate_folder(source: str | Path, files: Sequence[str] | None = None, **hub: Unpack[HubOptions]) -> Path:
    """The local folder of `source`: itself, else the bundle of that name, else a download of "owner/name" on the hub.

    Args:
        source: As in `resolve_model_folder`.
        files: Patterns of the files that are needed of a hub repository; None for all.
        hub: See `HubOptions`.

    Raises:
        InvalidFile: Where nothing has that name, or there is no such subfolder.
    """
    subfolder = hub.get("subfolder")
    if not subfolder:
        return _located(source, files, hub)
    inside = PurePosixPath(subfolder)
    if inside.is_absolute() or ".." in inside.parts:
        raise InvalidFile(f"subfolder {subfolder} is not inside {source}")
    files = None if files is None else [f"{glob.escape(str(inside))}/{name}" for name in files]
    folder = _located(source, files, hub) / inside
    if not folder.is_dir():
        raise InvalidFile(f"{folder} does not exist")
    return folder


def _needed(part: str | None, parts: Sequence[str] | None, variant: str | None, weights: bool) -> list[str] | None:
    """Patterns of the files of a model: in a repository of its own, of a run, or of a bundle. None for all files."""
    if parts is None:
        return None
    names = [MODEL_CONFIG, LATENT_SPEC, *([weights_file(variant)] if weights else [])]
    places = ["", f"{RUN_MODEL}/", *([f"{part}/"] if part else [])]
    folders = [f"{place}{inner}/" if inner else place for place in places for inner in parts]
    return [BUNDLE_RECORD, *(f"{folder}{name}" for folder in folders for name in names)]


def _located(source: str | Path, files: Sequence[str] | None, hub: HubOptions) -> Path:
    """`locate_folder` without the subfolder."""
    folder, name = Path(source), str(source)
    require_source(source)
    if folder.is_dir():
        return folder
    if "/" not in name:
        return bundle_folders()[name]
    from huggingface_hub import snapshot_download

    options: Any = {key: value for key, value in hub.items() if key in _OF_DOWNLOADS}
    try:
        with loading(f"{name} from the hub"):
            return Path(snapshot_download(name, allow_patterns=None if files is None else [*files], **options))
    except Exception as error:
        raise _not_given(name, error) from None


def require_source(source: str | Path) -> None:
    """Raise InvalidFile where a model is neither a local folder nor a bundle, and no repository can have its name."""
    name = str(source)
    if Path(source).is_dir():
        return
    if "/" not in name and name not in bundle_folders():
        known = ", ".join(sorted(bundle_folders())) or "none"
        raise InvalidFile(f"{name} does not exist; models that installed packages carry: {known}")
    if "/" in name and not _REPOSITORY.fullmatch(name):
        raise InvalidFile(f"{name} does not exist")


def on_hub(source: str | Path) -> bool:
    """Whether a model can only be a hub's: it is no folder here and no bundle."""
    return not Path(source).is_dir() and str(source) not in bundle_folders()


def found_on_hub(source: str | Path) -> bool:
    """Whether a model is a hub's, which is asked for one file: a path with an error in it looks like a name.

    Raises:
        InvalidFile: It is neither here nor on the hub.
    """
    require_source(source)
    if not on_hub(source):
        return False
    name = str(source)
    if _is_cached(name):
        return True
    # The client for whole repositories takes as long to import as all that this needs, and fetching repeats what fails.
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url

    try:
        with loading(f"{name} from the hub"):
            get_hf_file_metadata(hf_hub_url(name, MODEL_CONFIG))
    except EntryNotFoundError:  # it is there: a run or a bundle
        return True
    except Exception as error:
        raise _not_given(name, error) from None
    return True


def _is_cached(repository: str) -> bool:
    """Whether anything of a repository has been downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return (Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "snapshots").is_dir()


def _not_given(name: str, error: Exception) -> InvalidFile:
    return InvalidFile(f"{name} is neither a local folder nor a model that the hub would give: {first_line(error)}")


def may_be_preset(source: str) -> bool:
    """Whether a name can be a preset's alone: it is no folder, bundle or repository."""
    return not Path(source).exists() and "/" not in source and source not in bundle_folders()


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
    """The folder of a bundle, given by folder, name or "owner/name" on the hub, of which only the record is fetched.

    Raises InvalidFile for others.
    """
    found_on_hub(source)
    folder = locate_folder(source, [BUNDLE_RECORD])
    if not is_bundle(folder):
        raise InvalidFile(
            f"{source} is not a bundle ({BUNDLE_RECORD} is missing); "
            "`fae bundle` makes one of a tokenizer and a generator"
        )
    return folder
