"""Where a text encoder is: in a folder, an installed package or on the hub. torch is not imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fae_core.errors import MissingPackage
from fae_diffusion.text.config import INSTALL


def encoder_source(name: str) -> str:
    """The folder of that name, or the model folder of an installed package; else the name of a hub repository.

    Raises:
        MissingPackage: The package is not installed, or none that can load text encoders.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingPackage("a text encoder", INSTALL)
    if Path(name).is_dir():
        return name
    if name.isidentifier():
        spec = importlib.util.find_spec(name)
        folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None
        if folder is None or not folder.is_dir():
            raise MissingPackage(f"the text encoder {name}", name.replace("_", "-"))
        return str(folder)
    return name
