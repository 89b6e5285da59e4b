"""The base class of every configuration, and parsing with one-line errors for wrong names and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fae_core.config.limits import beyond
from fae_core.errors import InvalidSettings, field_reasons


class Config(BaseModel):
    """Base of every configuration: frozen and typed; unknown keys and numbers beyond `limits` are refused.

    Attributes:
        stage_configs: Of a model's: the stages that train it, as a preset's section -> "module:class".
        follows_data: Fields of a model's that training takes from its data unless they are set, such as `classes`.
        speed_only: Fields that change how fast a result is had, not the result: no part of an identity.
    """

    stage_configs: ClassVar[Mapping[str, str]] = {}
    follows_data: ClassVar[frozenset[str]] = frozenset()
    speed_only: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        problem = beyond(dict(self))
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def places(self) -> frozenset[str]:
        """Fields that say where something was found which is known by its content: no part of an identity."""
        return frozenset()

    def deciding(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """The fields that decide results, as JSON can hold them: all but `speed_only` and `places`, at every depth.

        Args:
            exclude_defaults: Without defaults, so that fields which later versions add change nothing.
        """
        found = self.model_dump(mode="json", exclude_defaults=exclude_defaults)
        for name in list(found):
            value = getattr(self, name)
            if name in self.speed_only | self.places:
                del found[name]
            elif isinstance(value, Config):
                inner = value.deciding(exclude_defaults=exclude_defaults)
                if not inner and found[name].keys() - value.places:  # all else that is no default is about speed
                    del found[name]
                else:
                    found[name] = inner
        return found

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them: the method by which peft and others read a model's `config`."""
        return self.model_dump(mode="json")


ConfigT = TypeVar("ConfigT", bound=Config)


def parse_config(config_class: type[ConfigT], fields: dict[str, Any], where: str) -> ConfigT:
    """A validated configuration.

    Args:
        config_class: Its class.
        fields: Values by name.
        where: What the error message calls their source.

    Raises:
        InvalidSettings: One line that names each wrong field.
    """
    try:
        return config_class.model_validate(fields)
    except ValidationError as error:
        raise InvalidSettings(f"{where}: {field_reasons(error.errors(), config_class)}") from None


def require_fields(config_class: type[Config], fields: dict[str, Any], where: str, later: Collection[str] = ()) -> None:
    """Check settings of which some are not known yet, as far as they are known.

    Args:
        config_class: The class of the configuration.
        fields: Values by name.
        where: What the error message calls their source.
        later: Fields whose values here will be replaced; with some, how values fit together is not looked at.

    Raises:
        InvalidSettings: A name is unknown, at any depth, or a value is out of range.
    """
    try:
        config_class.model_validate(fields)
    except ValidationError as error:
        found = [one for one in error.errors() if one["type"] != "missing" and (one["loc"] or not later)]
        if found:
            raise InvalidSettings(f"{where}: {field_reasons(found, config_class)}") from None
    if (problem := beyond(fields)) is not None:
        raise InvalidSettings(f"{where}: {problem}")
