"""The commands of recipes/paper at size paper, and their settings as `fae` resolves them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fae_core.cli.settings import resolve_settings
from fae_core.models.presets import load_preset
from fae_core.plugins import load_plugins
from fae_core.recipes.recipe import load_recipe
from fae_core.training import TrainConfig
from fae_decoders.cli.stage import stage_settings
from fae_decoders.stages import AutoencoderConfig, PixelFinetuneConfig, PixelNoiseConfig

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "paper"
STAGES = {
    "feature-decoder": {"autoencoder": AutoencoderConfig},
    "pixel-decoder": {"noise": PixelNoiseConfig, "finetune": PixelFinetuneConfig},
}


@dataclass(frozen=True)
class Command:
    """A step of a recipe at size paper.

    Attributes:
        recipe: Name of the recipe.
        step: Name of the step.
        words: What follows `fae`.
        variables: Of the recipe.
    """

    recipe: str
    step: str
    words: tuple[str, ...]
    variables: dict[str, Any]

    @property
    def options(self) -> dict[str, str]:
        """Each option without its dashes, and the word behind it; of a repeated one the last."""
        pairs = zip(self.words, [*self.words[1:], ""], strict=True)
        return {word[2:]: value for word, value in pairs if word.startswith("--")}

    @property
    def overrides(self) -> list[str]:
        """What a training command says over its preset, as --set has it."""
        own = {"--set": "", "--steps": "training.steps=", "--batch-size": "training.batch_size="}
        return [own[word] + value for word, value in pairwise(self.words) if word in own]

    @property
    def kind(self) -> str:
        """The model_type that a training command trains."""
        return load_preset(self.options["preset"])["model_type"]

    @property
    def stage(self) -> str:
        """The stage of the tokenizer that a training command trains; of a generator its model_type."""
        return self.options.get("stage", "autoencoder") if self.kind in STAGES else self.kind

    @property
    def trains(self) -> bool:
        """Whether it trains a model."""
        return self.words[0] == "train"


@functools.cache
def commands() -> dict[str, Command]:
    """RECIPE/STEP -> its command."""
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe = load_recipe(path, size="paper")
        for step in recipe.steps:
            words = tuple(recipe.command(step, Path("out")))
            found[f"{path.stem}/{step.name}"] = Command(path.stem, step.name, words, recipe.variables)
    return found


def trained(command: Command) -> dict[str, Any]:
    """The settings of a training command: "training" and those of its model, or of its stage and encoder."""
    preset, overrides = command.options["preset"], command.overrides
    if command.kind not in STAGES:
        return generator_settings(command.kind, preset, overrides)
    found = tokenizer_settings(command.kind, command.stage, preset, overrides, command.options.get("encoder"))
    return found | {"training": found[command.stage]["training"]}


def generator_settings(kind: str, preset: str, overrides: list[str]) -> dict[str, Any]:
    """The settings of training a generator."""
    resolved = resolve_settings(preset, None, overrides, kind, sections=("model", "training"))
    config = load_plugins("fae.models")[kind].load().config_class(**resolved["model"])
    training = TrainConfig(**resolved["training"])
    return {"model": config.model_dump(mode="json"), "training": training.model_dump(mode="json")}


def tokenizer_settings(
    kind: str, stage: str, preset: str, overrides: list[str], encoder: str | None = None
) -> dict[str, Any]:
    """The settings of a stage of the tokenizer; `training` is a part of the stage's section."""
    resolved = stage_settings(kind, tuple(STAGES[kind]), stage, preset, None, overrides, {}, encoder)
    training = TrainConfig(**resolved["training"]).model_dump(mode="json")
    own = STAGES[kind][stage](**resolved[stage]).model_dump(mode="json")
    return {stage: own | {"training": training}, "encoder": resolved["encoder"]}


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of what is no mapping in nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path


def at(settings: dict[str, Any], path: str) -> Any:
    """The value of a dotted path."""
    return functools.reduce(lambda value, part: value[part], path.split("."), settings)
