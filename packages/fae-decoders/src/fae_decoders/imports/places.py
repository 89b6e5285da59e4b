"""Where the files of other people's models lie in a folder. torch is not imported."""

from __future__ import annotations

from pathlib import Path

from fae_core.errors import InvalidFile


def diffusers_folder(folder: Path, source: str | Path) -> Path:
    """The folder of an autoencoder that diffusers saved: `folder`, or vae/ in that of a pipeline.

    Args:
        folder: Where to look.
        source: How it was named.

    Raises:
        InvalidFile: Neither holds a config.json.
    """
    for candidate in (folder, folder / "vae"):
        if (candidate / "config.json").is_file():
            return candidate
    raise InvalidFile(f"{source} holds no config.json, neither itself nor in vae/")
