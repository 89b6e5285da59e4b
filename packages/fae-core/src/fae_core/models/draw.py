"""Calling the `sample` of any generator: options are checked before anything is loaded or written, and so are samples.

The options are the keyword parameters of `sample` beside noise and random, with their annotations
(`Annotated[float, pydantic.Field(ge=0)]` gives a range). A generator that takes `**options` names their fields in a
class attribute `sample_config`, a Config; without one it must check them itself.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Mapping
from types import GenericAlias
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import FAEError, InvalidSettings, field_reasons
from fae_core.random import SlotRandom

EXPLODED = 100.0  # root mean square at which a sample counts as diverged; normalised latents have 1
_CALLERS = ("noise", "random")  # parameters of `sample` that the program sets, not the user


def draw_latents(generator: Any, condition: Any, random: SlotRandom, options: Mapping[str, Any]) -> Tensor:
    """Latents of a generator, checked.

    Args:
        generator: The model.
        condition: As in `Generator.sample`.
        random: One slot per sample.
        options: Options of `generator.sample` by name.

    Returns:
        Normalised latents (B, C, h, w), one per condition.

    Raises:
        FAEError: For unknown options, and for samples that are not finite or diverged.
    """
    z = generator.sample(condition, random=random, **check_options(generator, options))
    return check_samples(z, random)


def check_options(generator: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, validated and converted to the types that `generator.sample` declares.

    Args:
        generator: A Generator or its class.
        options: Values by name.

    Raises:
        InvalidSettings: For an unknown option, naming those that exist, and for a wrong value.
    """
    own, takes_more = _parameters(generator)
    declared = getattr(generator, "sample_config", None) if takes_more else None
    more = list(declared.model_fields) if declared is not None else []
    if not takes_more or declared is not None:
        require_known(options, [*own, *more], generator)
    for name in {*_CALLERS, "condition"} & options.keys():
        raise InvalidSettings(f"{name} is no sampling option: it is given for each sample")
    if declared is not None:
        parse_config(declared, {n: v for n, v in options.items() if n not in own}, "sampling options")
    return {name: _valid(name, value, own[name]) if name in own else value for name, value in options.items()}


def require_known(options: Iterable[str], known: Iterable[str], generator: Any) -> None:
    """Raise InvalidSettings for the first option that is not known, naming those that are.

    Args:
        options: Names that were given.
        known: Names that exist.
        generator: The Generator or its class, for the message.
    """
    known = sorted(known)
    for name in options:
        if name not in known:
            kind = generator if isinstance(generator, type) else type(generator)
            raise InvalidSettings(
                f"unknown sampling option {name!r}; {kind.__name__} takes {', '.join(known) or 'none'}"
            )


def check_samples(z: Tensor, random: SlotRandom | None = None) -> Tensor:
    """z itself, after a check.

    Args:
        z: Normalised latents (B, C, h, w).
        random: Its slots number the samples in the message.

    Raises:
        FAEError: Where samples are not finite, or their root mean square is beyond `EXPLODED`.
    """
    size = z.float().flatten(1).square().mean(1).sqrt()
    for lost, what in ((~torch.isfinite(z).flatten(1).all(1), "are not finite"), (~(size <= EXPLODED), "exploded")):
        if lost.any():
            first = int(lost.nonzero()[0])
            name = first if random is None else random.slots[first]
            raise FAEError(
                f"{int(lost.sum())} of {len(z)} samples {what} (sample {name} first, root mean square "
                f"{size[first]:.3g}); lower the guidance scale, or take more steps or fp32"
            )
    return z


def _parameters(generator: Any) -> tuple[dict[str, Any], bool]:
    """Annotations of the options by name, and whether `sample` takes `**options`."""
    function = generator.sample
    parameters = list(inspect.signature(function).parameters.values())
    parameters = parameters[2 if isinstance(generator, type) else 1 :]  # after self: the condition
    named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in _CALLERS]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # names that only a type checker imports
        hints = {}
    return {p.name: hints.get(p.name, _kind_of(p.default)) for p in named}, any(
        p.kind == p.VAR_KEYWORD for p in parameters
    )


def _kind_of(default: Any) -> Any:
    """The type of a parameter without a usable annotation, by its default."""
    if isinstance(default, bool | str):
        return type(default)
    return int | float if isinstance(default, int | float) else Any


def _valid(name: str, value: Any, annotation: Any) -> Any:
    """An option's value, converted to the annotated type."""
    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    try:
        # In a tuple, because pydantic accepts no configuration for classes that can have their own.
        alone: Any = GenericAlias(tuple, (annotation,))
        return TypeAdapter(alone, config=config).validate_python((value,))[0]
    except ValidationError as error:
        found = [{**finding, "loc": finding["loc"][1:]} for finding in error.errors()]
        owner = annotation if isinstance(annotation, type) else object
        raise InvalidSettings(f"sampling option {name}: {field_reasons(found, owner)}") from None
    except PydanticUserError:  # an annotation that pydantic does not understand
        return value
