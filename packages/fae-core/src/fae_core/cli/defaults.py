"""Which presets are made for the data at hand: for the default of a command, and for the command to run next.

A command's default preset is for the demo or for tests. It is taken for what it was made for and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import typer

from fae_core.errors import InvalidSettings

# What a preset was made for, by name: "latents" (C, h, w), "features" (D, h, w), "images" (height, width), "backbone".
Made = dict[str, tuple[int, ...] | str]
_SHOWN = 8


def made_for(preset: Mapping[str, Any]) -> Made:
    """What a preset was made for, as far as its sections `spec`, `model` and `encoder` say it.

    Args:
        preset: its content.
    """
    spec, model = preset.get("spec", {}), preset.get("model", {})
    grid = tuple(model.get("grid") or (spec.get(side) for side in ("height", "width")))
    image, encoder = model.get("image_size", spec.get("image_size")), preset.get("encoder", {}).get("preset")
    found: dict[str, Any] = {}
    if {"channels", "height", "width"} <= spec.keys():
        found["latents"] = (spec["channels"], spec["height"], spec["width"])
    if "feature_dim" in model and None not in grid:
        found["features"] = (model["feature_dim"], *grid)
    if image is not None:
        found["images"] = (image, image) if isinstance(image, int) else tuple(image)
    if encoder is not None:
        found |= _backbone_of(encoder)
    return found


def suited(kind: str, at_hand: Made) -> list[str]:
    """The presets of a model type that were made for what is at hand, by name.

    Args:
        kind: the model_type.
        at_hand: as `made_for` gives it; what either side does not say is not compared.
    """
    from fae_core.models.presets import preset_files, read_preset

    found = []
    for name, path in sorted(preset_files().items()):
        preset = read_preset(path)
        own = made_for(preset) if preset["model_type"] == kind else {}
        if own.keys() & at_hand.keys() and all(own.get(key, value) == value for key, value in at_hand.items()):
            found.append(name)
    return found


def require_suited(default: str, at_hand: Made, *, option: str = "--preset") -> None:
    """Check a default before it is taken for something that it may not have been made for.

    Images of another size are resized, so that for them a line on standard error is enough.

    Args:
        default: the preset that the command takes where none is named.
        at_hand: what the command was given, as `made_for` gives it.
        option: what names another one.

    Raises:
        InvalidSettings: latents or features are of another size.
    """
    from fae_core.commands.running import is_first_process
    from fae_core.models.presets import load_preset

    preset = load_preset(default)
    own, kind = made_for(preset), preset["model_type"]
    for name in ("latents", "features", "images"):
        if name not in own or own[name] == at_hand.get(name, own[name]):
            continue
        fitting = _listed(suited(kind, at_hand) or suited(kind, {name: at_hand[name]})) or f"see fae presets {kind}"
        text = (
            f"without {option}, {default} is taken, which is made for {name} of {_size(own[name])}, and these are of "
            f"{_size(at_hand[name])}: name one with {option} ({fitting})"
        )
        if name != "images":
            raise InvalidSettings(text)
        if is_first_process():
            typer.echo(f"note: {text}", err=True)


def image_size_at_hand(source: Any) -> Made:
    """The size of the first image that can be read, as `made_for` has it; nothing where none of the first can.

    Args:
        source: an ImageSource.
    """
    for index in range(min(len(source), _SHOWN)):
        try:
            width, height = source.read(index).size
        except Exception:  # an unreadable image is reported by whoever reads them all
            continue
        return {"images": (height, width)}
    return {}


def preset_words(kind: str, at_hand: Made, default: str | None = None) -> tuple[str, str]:
    """What the command to run next says of its preset.

    Args:
        kind: the model_type of what it trains.
        at_hand: what it will be given.
        default: the preset that it takes by itself.

    Returns:
        The value of --preset, and a remark that names further ones, or "". The preset is the default where it is made
        for this, else the largest that is, of those named after the type: small ones are for tests. Where none is,
        another backbone's of this size is named, and for latents and images one of the nearest size; else PRESET.
    """
    sizes = {name: value for name, value in at_hand.items() if name != "backbone"}
    fitting = suited(kind, at_hand) or suited(kind, sizes) or _nearest(kind, at_hand)
    if not fitting:
        return "PRESET", f" (PRESET: see fae presets {kind})"
    # Presets named otherwise than their model type are variants of it, such as DiT^DH of LightningDiT.
    largest = max(fitting, key=lambda name: (name.startswith(kind), _parameters(name)))
    chosen = default if default is not None and default in fitting else largest
    others = [name for name in fitting if name != chosen]
    return chosen, f" (or {_listed(others)})" if others else ""


def _nearest(kind: str, at_hand: Made) -> list[str]:
    """The presets of a model type that were made for the nearest number of pixels or places in a latent."""
    from fae_core.models.presets import preset_files, read_preset

    name = next((name for name in ("latents", "images") if name in at_hand and "features" not in at_hand), None)
    if name is None:
        return []
    distances = {}
    for preset, path in sorted(preset_files().items()):
        content = read_preset(path)
        own = made_for(content)
        if content["model_type"] == kind and name in own:
            places = [math.prod(size[-2:]) for size in (own[name], at_hand[name]) if isinstance(size, tuple)]
            distances[preset] = abs(math.log(places[0] / places[1]))
    return [preset for preset, distance in distances.items() if distance == min(distances.values())]


def _parameters(preset: str) -> int:
    """The parameters that a preset states."""
    from fae_core.models.presets import load_preset

    return load_preset(preset).get("parameters", 0)


def _backbone_of(encoder: str) -> Made:
    """The backbone of an encoder preset."""
    from fae_core.models.presets import preset_files, read_preset

    path = preset_files().get(encoder)
    backbone = {} if path is None else read_preset(path).get("model", {}).get("backbone", {})
    return {"backbone": backbone["name"]} if "name" in backbone else {}


def _size(value: tuple[int, ...] | str) -> str:
    return value if isinstance(value, str) else "x".join(map(str, value))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
