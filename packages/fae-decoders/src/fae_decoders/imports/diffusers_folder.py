"""A model in a folder as diffusers writes it: which files hold it, on disk or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fae_core.errors import InvalidFile, first_line
from fae_core.files import read_json
from fae_core.models.foreign import DIFFUSERS, read_weights
from fae_decoders.imports.places import diffusers_folder


class DiffusersFolder:
    """The folder of a model, or of a pipeline with the model in vae/.

    Args:
        source: A folder, or "owner/name" on the hub, of which only the model's files are downloaded.
        variant: Of the weights, as "fp16"; None takes the plain file, or the only variant that there is.

    Raises:
        InvalidFile: There is none.
    """

    def __init__(self, source: str | Path, variant: str | None = None) -> None:
        self.path, self._variant = _folder(source, variant), variant

    def config(self) -> dict[str, Any]:
        """Content of its config.json; `_class_name` is None where that does not say it."""
        return {"_class_name": None, **read_json(self.path / "config.json")}

    def weights(self, section: str | None = None) -> dict[str, Tensor]:
        """The weights by name; InvalidFile where there are none or several, or a section is named.

        Args:
            section: Of a file, which a folder is not; see `read_weights`.
        """
        return read_weights(self.path, section=section, variant=self._variant)


def _folder(source: str | Path, variant: str | None) -> Path:
    """The folder with config.json and weights, downloaded where `source` is a repository."""
    folder = Path(source)
    if not folder.is_dir():
        # A repository often has every variant; without a choice they are fetched only where there is no plain file.
        of = f".{variant}" if variant else ""
        whole, index = f"{DIFFUSERS}{of}.safetensors", f"{DIFFUSERS}.safetensors.index{of}.json"
        folder = _from_hub(
            str(source), whole, index, f"{DIFFUSERS}{of}-*.safetensors", f"{DIFFUSERS}-*{of}.safetensors"
        )
        if variant is None and not [*folder.glob(f"**/{whole}"), *folder.glob(f"**/{index}")]:
            folder = _from_hub(str(source), f"{DIFFUSERS}.*.safetensors", f"{DIFFUSERS}.safetensors.index.*.json")
    return diffusers_folder(folder, source)


def _from_hub(name: str, *weights: str) -> Path:
    """A snapshot of a repository's configuration and of the files that one of `weights` matches."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise InvalidFile(f"{name} does not exist")
    from huggingface_hub import snapshot_download

    try:
        patterns = [f"{part}{file}" for part in ("", "vae/") for file in ("config.json", *weights)]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        reason = first_line(error)
        raise InvalidFile(f"{name} is neither a local folder nor a model that the hub provides: {reason}") from None
