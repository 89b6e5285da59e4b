"""The base class of every configuration, and parsing with one-line errors for wrong names and values."""

from __future__ import annotations

from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fae_core.config.limits import beyond
from fae_core.errors import InvalidSettings, field_reasons, is_unknown_name


class Config(BaseModel):
    """Base of every configuration: frozen and typed; unknown keys and numbers beyond `limits` are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        problem = beyond(dict(self))
        if problem is not None:
            raise ValueError(problem)
        return self

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


def require_fields(config_class: type[Config], fields: dict[str, Any], where: str) -> None:
    """Raise InvalidSettings for unknown names, at any depth; for settings of which some values are not known yet.

    Args:
        config_class: The class of the configuration.
        fields: Values by name.
        where: What the error message calls their source.
    """
    try:
        config_class.model_validate(fields)
    except ValidationError as error:
        unknown = [found for found in error.errors() if is_unknown_name(found)]
        if unknown:
            raise InvalidSettings(f"{where}: {field_reasons(unknown, config_class)}") from None
