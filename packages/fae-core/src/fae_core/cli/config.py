"""`fae config`: the settings of a preset as a file."""

from __future__ import annotations

from typing import Annotated

import typer

from fae_core.commands.output import document, say


def config(preset: Annotated[str, typer.Argument(help="Name of a preset; `fae presets` lists them.")]) -> None:
    """Print all settings of a preset, defaults included, as the YAML file that --config takes.

    Example: fae config lightningdit-xl > lightningdit.yaml
    """
    from fae_core.cli.info import as_yaml, resolved_settings

    settings = resolved_settings(preset)
    document(settings)
    say(as_yaml(settings))
