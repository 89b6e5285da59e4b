"""The options that every `fae train` command takes, as one object.

A command has one parameter `options: TrainingOptions` and the decorator `training_command`, which shows typer the
options one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fae_core.cli.option_objects import spread
from fae_core.cli.options import (
    Config,
    Device,
    DryRun,
    Out,
    Overwrite,
    Processes,
    Resume,
    Set,
    Steps,
    Survey,
    Track,
    TrainBatch,
    TrainSeed,
)
from fae_core.commands.output import say
from fae_core.commands.running import OF_TRAINING
from fae_core.errors import InvalidSettings
from fae_core.folders import RUN_CONFIG, RUN_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from fae_core.cli.defaults import Made
    from fae_core.config import Config as RunConfig
    from fae_core.images import ImageSource
    from fae_core.training import Task, TrainConfig
    from fae_core.training.compared import GivenSection


@dataclass(frozen=True)
class TrainingOptions:
    """What a user chose. The fields are the options of the same names; see their help in `fae_core.cli.options`."""

    out: Out
    preset: str | None = None
    config: Config = None
    overrides: Set = None
    steps: Steps = None
    batch_size: TrainBatch = None
    seed: TrainSeed = None
    track: Track = None
    survey: Survey = None
    resume: Resume = False
    overwrite: Overwrite = False
    device: Device = None
    processes: Processes = 1
    dry_run: DryRun = False

    def preset_or(self, default: str | None) -> str | None:
        """The preset asked for; without one, and without a file of settings, the command's default."""
        return self.preset or (None if self.config else default)

    @property
    def training(self) -> dict[str, Any]:
        """Settings of the section `training` that have options of their own, where they were given."""
        chosen = {name: getattr(self, name) for name in OF_TRAINING}
        return {name: value for name, value in chosen.items() if value not in (None, [])}

    def train_config(self, settings: dict[str, Any]) -> TrainConfig:
        """The section `training` of the settings with these options over it, as `training_config` gives it."""
        return training_config({**settings.get("training", {}), **self.training})

    def require_suited(self, default: str, at_hand: Made) -> None:
        """Check the command's default preset, if it is taken, as `fae_core.cli.defaults.require_suited` does.

        A preset or a file of settings that is named is taken as it is, and so are the settings of a run to resume.

        Args:
            default: The preset that the command takes.
            at_hand: What it was given, as `fae_core.cli.defaults.made_for` has it.

        Raises:
            InvalidSettings: The default was made for latents or features of another size.
        """
        from fae_core.cli.defaults import require_suited

        resumed = self.resume and (self.out / RUN_CONFIG).is_file()
        if self.preset is None and self.config is None and not resumed:
            require_suited(default, at_hand)

    def check_folder(self) -> None:
        """Raise OutputExists for a folder in use before data are read and models built, which can take a while."""
        from fae_core.commands.running import is_first_process
        from fae_core.files import require_new_folder

        if is_first_process():  # by the time another one looks, the first may have begun the run
            require_new_folder(self.out, overwrite=self.overwrite, resume=self.resume, kind="run", resumable=RUN_CONFIG)

    @property
    def continues(self) -> bool:
        """Whether this process is the one that compares a run to resume with what it is given."""
        from fae_core.commands.running import is_first_process

        return self.resume and not self.dry_run and is_first_process() and (self.out / RUN_CONFIG).is_file()

    def require_started_with(self, plain: Mapping[str, Any], **sections: RunConfig | GivenSection) -> None:
        """Compare settings with those of the run to resume, as `fae_core.training.compared.require_started_with` does.

        Args:
            plain: What config.yaml records as it is, by name, such as the command.
            sections: Sections of the settings, as parsed, or the class and what is given.

        Raises:
            FAEError: The run was started with others.
        """
        if self.continues:
            from fae_core.training.compared import require_started_with

            require_started_with(self.out, plain, sections)

    def relaunched(self) -> bool:
        """Whether other processes do the work, as `fae_core.cli.launch.relaunched` says; a dry run starts none."""
        from fae_core.cli.launch import relaunched

        return not self.dry_run and relaunched(self.processes)

    def building(self) -> AbstractContextManager[object]:
        """Within it models are built: in a dry run on the meta device, where weights are neither read nor made."""
        import torch

        return torch.device("meta") if self.dry_run else nullcontext()

    def images(self, data: str, split: str | None, features: Path | None = None) -> ImageSource:
        """The images that a stage trains on, compared with those of the run to resume before torch is imported.

        Args:
            data: as `open_images` takes it.
            split: as `open_images` takes it.
            features: a store of the images' features, which is compared, too.

        Raises:
            FAEError: as `opened`, and where the run to resume was begun on others.
        """
        source = self.opened(data, split)
        if self.continues:
            from fae_core.images.identity import images_identity
            from fae_core.latent_store.facts import StoreFacts
            from fae_core.training.compared import require_begun_on

            known = None if features is None else StoreFacts(features).identity
            require_begun_on(self.out, images=images_identity(source, show=True), features=known)
        return source

    def opened(self, data: str, split: str | None) -> ImageSource:
        """The images of a source, as `readable_source` gives them; a dry run opens them and decodes none."""
        from fae_core.images import open_surveyed, readable_source

        return (open_surveyed if self.dry_run else readable_source)(data, split, self.survey)

    def train(self, task: Task, config: TrainConfig, settings: dict[str, Any], after: str) -> None:
        """Train into the run folder and print what was written; in a dry run only print what would be.

        Args:
            task: What to train.
            config: How.
            settings: What is recorded beside it.
            after: The commands to run next.

        Raises:
            InvalidSettings: Previews are asked for, and this task makes none.
        """
        from fae_core.commands.running import is_first_process
        from fae_core.training import Task

        if config.preview_every and type(task).preview is Task.preview:
            raise InvalidSettings(f"{settings['command']} makes no previews: leave training.preview_every out")
        if self.dry_run:
            from fae_core.cli.dry_run import tell

            self.check_folder()
            tell(task, config, settings, self)
            return
        from fae_core.training import train

        where = {"resume": self.resume, "overwrite": self.overwrite, "device": self.device}
        train(task, config, self.out, settings=settings, **where)
        if is_first_process():
            say(f"wrote {self.out}/{RUN_MODEL}; next: {after}")


def training_config(section: dict[str, Any]) -> TrainConfig:
    """The settings of the training loop.

    Args:
        section: The section `training`.

    Raises:
        InvalidSettings: One is unknown or out of range.
        FAEError: There is no such tracker, or what it needs is not installed.
    """
    from fae_core.config import parse_config
    from fae_core.training import TrainConfig
    from fae_core.training.tracking import tracker_classes

    config = parse_config(TrainConfig, section, "training settings")
    tracker_classes(config.track)
    return config


def training_command(default_preset: str, kind: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function with a parameter `options: TrainingOptions`, and parameters of its own.

    Args:
        default_preset: named in the help of --preset; it is taken for what it was made for alone.
        kind: the model_type of its presets, where it has one.
    """
    listing = f"fae presets {kind}".strip()

    def known(name: str | None) -> str | None:
        """The preset as given, once it is known to be there."""
        if name is not None:
            from fae_core.models.presets import load_preset

            load_preset(name, kind or None)
        return name

    preset = Annotated[
        str | None, typer.Option("--preset", callback=known, help=f"See `{listing}`; without it {default_preset}.")
    ]

    return functools.partial(spread, replaced={"preset": preset})
