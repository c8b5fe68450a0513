"""What a field of a configuration means and may hold, for the checks and for the reference in `docs/`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

MANY = 2**31 - 1


class ConfigError(ValueError):
    """A value, or values together, that cannot run. The message says which, and what would."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A whole number if its bounds are, else any.

    Attributes:
      meaning: one line, with the unit.
      least, greatest: that is allowed.
    """

    meaning: str
    least: float
    greatest: float

    @property
    def allowed(self) -> str:
        if self.greatest == MANY:
            return f"{self.least:,} and more"
        return f"{self.least:,} to {self.greatest:,}"

    def check(self, name: str, value: Any) -> None:
        whole = isinstance(self.least, int)
        is_number = isinstance(value, int) or (isinstance(value, float) and not whole)
        if isinstance(value, bool) or not is_number:
            raise ConfigError(f"{name}={value!r} is not {'an integer' if whole else 'a number'}")
        if not self.least <= value <= self.greatest:
            raise ConfigError(f"{name}={value} is out of range; it lies between {self.least} and {self.greatest}")


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    meaning: str

    @property
    def allowed(self) -> str:
        return "True, False"

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigError(f"{name}={value!r} is neither True nor False")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some names."""

    meaning: str
    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(self.options)

    def check(self, name: str, value: Any) -> None:
        if value not in self.options:
            raise ConfigError(f"{name}={value!r} is unknown; it is one of {', '.join(self.options)}")


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that only its user knows to be right; None if it may be left open."""

    meaning: str
    optional: bool = False

    @property
    def allowed(self) -> str:
        return "a name, or unset" if self.optional else "a name"

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, str) and not (value is None and self.optional):
            raise ConfigError(f"{name}={value!r} is not a name")


Field = Number | Flag | Choice | Name
Fields = Mapping[str, Field]  # by dotted name


def check(config: ConfigDict, fields: Fields, *kinds: type[Field]) -> None:
    """Raises ConfigError unless every field of one of these kinds is there and holds what it may."""
    for name, field in fields.items():
        if isinstance(field, kinds):
            field.check(name, get(config, name))


def get(config: ConfigDict, name: str) -> Any:
    """Returns the value of a field by dotted name.

    Raises:
      ConfigError: there is no such field.
    """
    for part in name.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            raise ConfigError(f"{name} is missing; start from a file in configs/")
        config = config[part]
    return config
