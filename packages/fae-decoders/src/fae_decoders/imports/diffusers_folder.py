"""A model in a folder as diffusers writes it: which files hold it, on disk or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fae_core.errors import InvalidFile, first_line
from fae_core.files import read_json
from fae_core.models.foreign import read_state_dict
from fae_decoders.imports.places import diffusers_folder

_STEM, _SUFFIXES = "diffusion_pytorch_model", (".safetensors", ".bin")


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

    def weights(self) -> dict[str, Tensor]:
        """The weights by name; InvalidFile where there are none or several."""
        return read_state_dict(_weights_file(self.path, self._variant), sections=())


def _weights_file(folder: Path, variant: str | None) -> Path:
    """The weights to read: safetensors before torch's own format; InvalidFile where there are none or several."""
    wanted = [f"{_STEM}.{variant}{suffix}" if variant else f"{_STEM}{suffix}" for suffix in _SUFFIXES]
    for name in wanted:
        if (folder / name).is_file():
            return folder / name
    variants = sorted(path.name for suffix in _SUFFIXES for path in folder.glob(f"{_STEM}.*{suffix}"))
    names = {Path(name).stem.removeprefix(f"{_STEM}.") for name in variants}
    if variant is None and len(names) == 1:
        return _weights_file(folder, names.pop())
    others = f", but {' and '.join(variants)}; choose a variant" if variants else ""
    raise InvalidFile(f"{folder} has no {wanted[0]}{others}")


def _folder(source: str | Path, variant: str | None) -> Path:
    """The folder with config.json and weights, downloaded where `source` is a repository."""
    folder = Path(source)
    if not folder.is_dir():
        # A repository often has every variant; without a choice they are fetched only where there is no plain file.
        folder = _from_hub(str(source), f"{_STEM}.{variant}.safetensors" if variant else f"{_STEM}.safetensors")
        if variant is None and not any(folder.glob(f"**/{_STEM}.safetensors")):
            folder = _from_hub(str(source), f"{_STEM}.*.safetensors")
    return diffusers_folder(folder, source)


def _from_hub(name: str, weights: str) -> Path:
    """A snapshot of a repository's configuration and of the files that `weights` matches."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise InvalidFile(f"{name} does not exist")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=["config.json", "vae/config.json", weights, f"vae/{weights}"])
        )
    except Exception as error:
        reason = first_line(error)
        raise InvalidFile(f"{name} is neither a local folder nor a model that the hub provides: {reason}") from None
