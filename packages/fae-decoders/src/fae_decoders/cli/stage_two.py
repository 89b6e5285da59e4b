"""What stage II takes over from the run of stage Ib in --init: its recipe and its discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fae_core.cli.settings import parse_overrides
from fae_core.commands.running import command_line, is_first_process, recorded_options
from fae_core.errors import FAEError, InvalidFile

if TYPE_CHECKING:
    from fae_core.cli.training_options import TrainingOptions

# Settings of `training` that say how long a stage is: open in the paper for stage II, and not taken over.
_LENGTH = ("steps", "schedule_steps", "warmup_steps", "hold_steps", "keep_at")


@dataclass(frozen=True)
class Recipe:
    """Where the settings of stage II come from.

    Attributes:
        preset: Name of a preset; None: the file alone.
        config: A file of settings; None: the preset alone.
        overrides: Further settings as KEY=VALUE, of the sections `training` and `finetune`.
    """

    preset: str | None
    config: Path | None
    overrides: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The recipe as options of `fae train pixel --stage finetune`, for `command_line`."""
        return {"preset": self.preset, "config": self.config, "set": self.overrides}

    def without(self, training: Mapping[str, Any]) -> list[str]:
        """The further settings, except those of `training` that are given anew."""
        return [one for one in self.overrides if one.partition("=")[0] not in {f"training.{name}" for name in training}]


def recipe_for_stage_two(
    preset: str | None, config: Path | None, overrides: list[str] | None, batch_size: int | None
) -> Recipe:
    """The recipe of stage II that follows from what a run of stage Ib was given.

    Settings of stage Ib's section that stage II has too (losses, data, ...) move to its own; the length of the stage,
    the decoder and the encoder are left out.

    Args:
        preset: Of stage Ib.
        config: Of stage Ib.
        overrides: What --set gave stage Ib.
        batch_size: What --batch-size gave stage Ib.
    """
    from fae_decoders.stages.config import PixelFinetuneConfig

    chosen = parse_overrides(overrides)
    noise, training = chosen.get("noise") or {}, chosen.get("training") or {}
    shared = {name: value for name, value in noise.items() if name in PixelFinetuneConfig.model_fields}
    kept = {name: value for name, value in training.items() if name not in _LENGTH}
    if batch_size is not None:
        kept.setdefault("batch_size", batch_size)
    settings = {"training": kept, "finetune": shared}
    return Recipe(preset, config, tuple(f"{key}={_text(value)}" for key, value in _leaves(settings)))


def recipe_of(init: str, default_preset: str) -> Recipe:
    """The recipe of the run that made a decoder, for stage II.

    Args:
        init: The run, its model or one of its exports.
        default_preset: What stage Ib takes where it is given neither a preset nor a file.

    Raises:
        FAEError: It does not say how it was trained. The default preset is small: it must not be taken for a decoder
            that was trained with another.
    """
    from fae_core.models.sources import run_of

    run = run_of(init)
    try:
        recorded = None if run is None else recorded_options(run)
    except InvalidFile:
        recorded = None
    if recorded is None:
        raise FAEError(
            f"{init} does not say which settings it was trained with: give stage finetune a --preset "
            "(`fae presets pixel-decoder`) or a --config"
        )
    last = {name: values[-1] for name, values in recorded.items() if values}
    config = last.get("--config")
    return recipe_for_stage_two(
        last.get("--preset") or (None if config else default_preset),
        None if config is None else Path(config),
        recorded.get("--set"),
        int(last["--batch-size"]) if "--batch-size" in last else None,
    )


def tell(recipe: Recipe, init: str) -> None:
    """Say on standard error, once, which recipe is taken."""
    if is_first_process():
        words = command_line("", **recipe.options).removeprefix("fae").strip()
        typer.echo(f"note: stage finetune takes the recipe of {init}: {words}", err=True)


def kept_discriminator(init: str, section: dict[str, Any], options: TrainingOptions) -> Path | None:
    """The checkpoint whose discriminator goes on, if the losses have one; without one a line says why.

    Where it goes on, the section's starting steps are 0 from here on, unless --set gives others. A run to resume that
    began with a new discriminator keeps that.

    Args:
        init: The run of stage Ib, its model or one of its exports, or a decoder of another origin.
        section: Settings of stage II, which are changed.
        options: Of the command.
    """
    from fae_core.config import parse_config
    from fae_core.files import read_yaml
    from fae_core.folders import RUN_CONFIG, RUN_IDENTITY
    from fae_decoders.stages.config import PixelFinetuneConfig
    from fae_decoders.stages.kept_discriminator import discriminator_of

    losses = parse_config(PixelFinetuneConfig, section, "finetune settings").losses
    if losses.adversarial == "none" or losses.adversarial_weight == 0:
        return None
    if options.resume and (options.out / RUN_CONFIG).is_file():
        identity = read_yaml(options.out / RUN_CONFIG).get(RUN_IDENTITY)
        if not isinstance(identity, dict) or "discriminator" not in identity:
            return None
    checkpoint, reason = discriminator_of(init, losses)
    if checkpoint is None:
        if is_first_process():
            typer.echo(f"note: the discriminator starts new: {reason}", err=True)
        return None
    chosen = parse_overrides(options.overrides).get("finetune", {}).get("losses", {})
    starts = ("discriminator_start", "adversarial_start")
    if not any(name in chosen for name in starts):
        section["losses"] = {**section.get("losses", {}), **dict.fromkeys(starts, 0)}
    return checkpoint


def _leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{name}.")
        elif not isinstance(value, Mapping):
            yield f"{before}{name}", value


def _text(value: Any) -> str:
    """A value as --set reads it, in one line."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=2**30).removesuffix("...\n").strip()
