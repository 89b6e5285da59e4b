"""The options of a generator's `sample`, checked before anything is loaded or written.

They are the keyword parameters of `sample` beside noise, random and observe, with their annotations
(`Annotated[float, pydantic.Field(ge=0)]` gives a range). A generator that takes `**options` names their fields in a
class attribute `sample_config`, a Config; without one it must check them itself.

A package that names a Config of all options as MODEL_TYPE.sample under the entry-point group "fae.configs" has them
checked by the commands before torch is imported.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Mapping
from types import GenericAlias
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from fae_core.config import Config, require_fields
from fae_core.errors import FAEError, InvalidSettings, field_reasons, nearest
from fae_core.models.stored import StoredModel
from fae_core.plugins import load_plugins

_CALLERS = ("noise", "random", "observe")  # parameters of `sample` that the program sets, not the user


def check_early(
    model_type: str,
    options: Mapping[str, Any],
    model: StoredModel | None = None,
) -> None:
    """Check options for a type of generator, where its package names their Config; others are not checked.

    Args:
        model_type: Of the generator.
        options: Values by name.
        model: The generator, which may not know every way to sample; None where only its type is known.

    Raises:
        InvalidSettings: As `check_options`.
        FAEError: The generator cannot sample so.
    """
    declared = load_plugins("fae.configs").get(f"{model_type}.sample")
    if declared is None:
        return
    config_class: type[Config] = declared.load()
    require_known(options, config_class.model_fields, load_plugins("fae.generators")[model_type].attr)
    require_fields(config_class, dict(options), "sampling options")  # what is lacking may be the generator's own
    if model is not None:
        resolved_options(model.config, options, model)


def with_guidance(guidance: float | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `sample` with the scale of `--guidance` among them, beside other fields of guidance.

    Args:
        guidance: The scale; None where only the options say it, or the generator.
        options: Values by name.

    Raises:
        FAEError: The options say how strong guidance is, too.
    """
    if guidance is None or "guidance" not in options:
        return {**({} if guidance is None else {"guidance": guidance}), **options}
    given = options["guidance"]
    if not isinstance(given, Mapping) or given.keys() & {"scale", "parts"}:
        raise FAEError(f"guidance is given twice, as {guidance:g} and by the option guidance ({str(given)[:60]})")
    return {**options, "guidance": {"scale": guidance, **given}}


def without_speed(record: Mapping[str, Any], generator: Any) -> dict[str, Any]:
    """What decided samples, whose `options` are without those that change how fast a generator draws, not what.

    Args:
        record: By name; `options` is a mapping of options of `sample`, where it is there.
        generator: A Generator, or its model_type, whose package may name the Config that says which these are.
    """
    config, options = getattr(generator, "sample_config", None), record.get("options")
    if config is None:
        model_type = generator if isinstance(generator, str) else getattr(generator, "model_type", None)
        declared = load_plugins("fae.configs").get(f"{model_type}.sample")
        config = None if declared is None else declared.load()
    if config is None or not isinstance(options, Mapping):
        return dict(record)
    return {**record, "options": {name: value for name, value in options.items() if name not in config.speed_only}}


def resolved_options(config: Any, options: Mapping[str, Any], model: StoredModel | None = None) -> dict[str, Any]:
    """What decides samples beside weights and noise: a generator's own settings with some options over them.

    A config with a method `sampling_settings(options, model)`, which gives the Config of all settings, resolves them
    itself, and refuses what its generator cannot do; for others the options stand for themselves.

    Args:
        config: Of the generator, or None.
        options: Of its `sample`, which are known to be valid.
        model: The generator, with which a model among the options is compared; None compares nothing.

    Raises:
        FAEError: A generator of this config cannot sample so.
    """
    resolve = getattr(config, "sampling_settings", None)
    if resolve is None:
        return dict(options)
    resolved: Config = resolve(options, model)
    known = {*type(resolved).model_fields, "sampling"}  # a name of settings is resolved, too
    return {**resolved.deciding(), **{name: value for name, value in options.items() if name not in known}}


def check_options(generator: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, validated and converted to the types that `generator.sample` declares.

    Args:
        generator: A Generator or its class.
        options: Values by name.

    Raises:
        InvalidSettings: For an unknown option, naming those that exist, and for a wrong value.
        FAEError: The generator's own settings leave it no way to sample so.
    """
    own, takes_more = _parameters(generator)
    declared = getattr(generator, "sample_config", None) if takes_more else None
    more = list(declared.model_fields) if declared is not None else []
    if not takes_more or declared is not None:
        require_known(options, [*own, *more], generator)
    for name in {*_CALLERS, "condition"} & options.keys():
        raise InvalidSettings(f"{name} is no sampling option: it is given for each sample")
    if declared is not None:
        require_fields(declared, {n: v for n, v in options.items() if n not in own}, "sampling options")
    valid = {name: _valid(name, value, own[name]) if name in own else value for name, value in options.items()}
    if not isinstance(generator, type):
        resolved_options(getattr(generator, "config", None), valid)
    return valid


def require_known(options: Iterable[str], known: Iterable[str], generator: Any) -> None:
    """Raise InvalidSettings for the first option that is not known, naming the nearest ones, or all that are.

    Args:
        options: Names that were given.
        known: Names that exist.
        generator: The Generator, its class, or the class's name, for the message.
    """
    known = list(known)
    for name in options:
        if name not in known:
            kind = generator if isinstance(generator, type | str) else type(generator)
            whose = kind if isinstance(kind, str) else kind.__name__
            raise InvalidSettings(f"unknown sampling option {name!r} of {whose}; {nearest(name, known)}")


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
