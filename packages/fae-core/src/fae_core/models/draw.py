"""The door to any generator's `sample`: options are checked before anything is loaded or written, and what comes out is looked at.

What options there are, the signature of `sample` says: its keyword parameters beside noise and random, with their annotations
(`Annotated[float, pydantic.Field(ge=0)]` gives a range). A generator that takes `**options` names their fields in a class attribute
`sample_config`, a Config; without one it is trusted to check them itself.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import FAEError, InvalidFile, field_reasons
from fae_core.random import SlotRandom

EXPLODED = 100.0  # root mean square at which a sample counts as lost; normalised latents have 1
_CALLERS = ("noise", "random")  # what the caller of `sample` gives, not the user


def draw_latents(generator: Any, condition: Any, random: SlotRandom, options: Mapping[str, Any]) -> Tensor:
    """Latents (B, C, h, w), one per condition. Raises FAEError for options that there are not, or samples that are lost."""
    z = generator.sample(condition, random=random, **check_options(generator, options))
    return check_samples(z, random)


def check_options(generator: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as `generator.sample` wants them. generator: a Generator or its class.

    Raises InvalidFile, one line: for an unknown one naming those that there are, else saying what is wrong with it.
    """
    own, takes_more = _parameters(generator)
    declared = getattr(generator, "sample_config", None) if takes_more else None
    more = list(declared.model_fields) if declared is not None else []
    if not takes_more or declared is not None:
        require_known(options, [*own, *more], generator)
    for name in {*_CALLERS, "condition"} & options.keys():
        raise InvalidFile(f"{name} is no sampling option: it is given for each sample")
    if declared is not None:
        parse_config(declared, {n: v for n, v in options.items() if n not in own}, "sampling options")
    return {name: _valid(name, value, own[name]) if name in own else value for name, value in options.items()}


def require_known(options: Iterable[str], known: Iterable[str], generator: Any) -> None:
    """Raise InvalidFile for the first option that is not known, naming those that are."""
    known = sorted(known)
    for name in options:
        if name not in known:
            kind = generator if isinstance(generator, type) else type(generator)
            raise InvalidFile(f"unknown sampling option {name!r}; {kind.__name__} takes {', '.join(known) or 'none'}")


def check_samples(z: Tensor, random: SlotRandom | None = None) -> Tensor:
    """z (B, C, h, w) itself. Raises FAEError, one line, where samples are not finite or far from any latent.

    random: whose slots name the samples.
    """
    size = z.float().flatten(1).square().mean(1).sqrt()
    for lost, what in ((~torch.isfinite(z).flatten(1).all(1), "are not finite"), (~(size <= EXPLODED), "exploded")):
        if lost.any():
            first = int(lost.nonzero()[0])
            name = first if random is None else random.slots[first]
            raise FAEError(
                f"{int(lost.sum())} of {len(z)} samples {what} (sample {name} first, root mean square {size[first]:.3g}); "
                "lower the guidance scale, or take more steps or fp32"
            )
    return z


def _parameters(generator: Any) -> tuple[dict[str, Any], bool]:
    """Annotations of the options by name, and whether `sample` takes any others too."""
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
    """What a parameter without a usable annotation takes, by its default."""
    if isinstance(default, bool | str):
        return type(default)
    return int | float if isinstance(default, int | float) else Any


def _valid(name: str, value: Any, annotation: Any) -> Any:
    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    try:
        # In a tuple, because pydantic takes a configuration for no class that can have its own.
        return TypeAdapter(tuple[annotation], config=config).validate_python((value,))[0]
    except ValidationError as error:
        raise InvalidFile(
            f"sampling option {name}: {field_reasons(_within(error), annotation if isinstance(annotation, type) else object)}"
        ) from None
    except PydanticUserError:  # an annotation beyond pydantic
        return value


def _within(error: ValidationError) -> list[dict[str, Any]]:
    """Findings without the place in the tuple."""
    return [{**found, "loc": found["loc"][1:]} for found in error.errors()]
