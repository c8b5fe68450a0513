"""What a field of a configuration may hold and means: declared once, read by checks, defaults and documentation.

A section of a configuration is a frozen dataclass. Its fields are declared with the functions below:

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class AgentConfig:
        batch_size: int = integer(32, "transitions of an update", low=1, high=65_536)

A subclass that gives a field another default, `batch_size: int = 128`, keeps its bounds and its meaning.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

MANY = 2**31 - 1
UNSET: Any = None  # default of a field whose value follows from others
_FIELD, _FORMER, _EARLIER = "field", "former name", "earlier value"  # keys of a field's metadata


class ConfigError(ValueError):
    """A value, or values together, that cannot run. The message names them and what would run."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A number between two bounds.

    Attributes:
      meaning: one line, with the unit.
      low: lower bound, allowed.
      high: upper bound, allowed.
      kind: int or float.
      word: what may stand in place of a number; None for nothing.
    """

    meaning: str
    low: float
    high: float
    kind: type
    word: str | None = None

    @property
    def allowed(self) -> str:
        numbers = f"{self.low:,} or more" if self.high == MANY else f"{self.low:,} to {self.high:,}"
        return numbers if self.word is None else f"{numbers}; {self.word}"

    def check(self, name: str, value: Any) -> Any:
        """Returns the value; raises ConfigError if it is neither a number nor the word, or out of bounds."""
        if self.word is not None and value == self.word:
            return value
        is_number = isinstance(value, int) or (isinstance(value, float) and self.kind is float)
        if isinstance(value, bool) or not is_number:
            word = f" or {self.word!r}" if self.word else ""
            raise ConfigError(f"{name}={value!r} is not {'an integer' if self.kind is int else 'a number'}{word}")
        if not self.low <= value <= self.high:
            raise ConfigError(f"{name}={value} is out of range; it lies between {self.low} and {self.high}")
        return self.kind(value)


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    meaning: str
    kind: type = bool

    @property
    def allowed(self) -> str:
        return "True, False"

    def check(self, name: str, value: Any) -> Any:
        """Returns the value; raises ConfigError if it is neither True nor False."""
        if not isinstance(value, bool):
            raise ConfigError(f"{name}={value!r} is neither True nor False")
        return value


@dataclasses.dataclass(frozen=True)
class Text:
    """A name.

    Attributes:
      meaning: one line.
      options: the names that are allowed; empty if the field's owner checks it.
      optional: whether it may be unset.
    """

    meaning: str
    options: Sequence[str] = ()
    optional: bool = False
    kind: type = str

    @property
    def allowed(self) -> str:
        if self.options:
            return ", ".join(self.options)
        return "a name, or unset" if self.optional else "a name"

    def check(self, name: str, value: Any) -> Any:
        """Returns the value; raises ConfigError if it is no name, or none of the options."""
        if value is None and self.optional:
            return value
        if self.options and value not in self.options:
            raise ConfigError(f"{name}={value!r} is unknown; choose one of {', '.join(self.options)}")
        if not isinstance(value, str):
            raise ConfigError(f"{name}={value!r} is not a name")
        if not value and self.optional:
            raise ConfigError(f"{name} is empty; give it a value, or leave it unset")
        return value


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Whole numbers in rising order, maybe none.

    Attributes:
      meaning: one line, with the unit.
      low: lower bound of each, allowed.
    """

    meaning: str
    low: int
    kind: type = tuple

    @property
    def allowed(self) -> str:
        return f"numbers in rising order, {self.low:,} or more"

    def check(self, name: str, value: Any) -> Any:
        """Returns the numbers as a tuple; raises ConfigError if they are none, out of bounds or out of order."""
        if not isinstance(value, list | tuple) or not all(type(each) is int for each in value):
            raise ConfigError(f"{name}={value!r} does not hold integers; write it like {name}=5000,10000")
        if any(not self.low <= each <= MANY for each in value) or any(a >= b for a, b in itertools.pairwise(value)):
            raise ConfigError(
                f"{name}={','.join(map(str, value))} must hold numbers of {self.low} to {MANY} in rising order"
            )
        return tuple(value)


Field = Number | Numbers | Flag | Text


def integer(
    default: int | str | None,
    meaning: str,
    *,
    low: int = 0,
    high: int = MANY,
    former: str | None = None,
    word: str | None = None,
    earlier: int | None = None,
) -> Any:
    """Declares a field that holds a whole number, or `word`; `former` is its name in an earlier version.

    Runs of versions without the field were as if it held `earlier`.
    """
    return _declare(default, Number(meaning, low, high, int, word), former, earlier)


def integers(meaning: str, *, low: int = 0) -> Any:
    """Declares a field that holds whole numbers in rising order; its default is none."""
    return _declare((), Numbers(meaning, low))


def real(default: float | None, meaning: str, *, low: float, high: float) -> Any:
    """Declares a field that holds a real number."""
    return _declare(default, Number(meaning, low, high, float))


def flag(default: bool | None, meaning: str, *, earlier: bool | None = None) -> Any:
    """Declares a field that is True or False; runs of versions without the field were as if it held `earlier`."""
    return _declare(default, Flag(meaning), earlier=earlier)


def text(
    default: str | None,
    meaning: str,
    *,
    options: Sequence[str] = (),
    optional: bool = False,
    earlier: str | None = None,
) -> Any:
    """Declares a field that holds a name: one of `options`, or any that its owner accepts if there are none.

    Runs of versions without the field were as if it held `earlier`.
    """
    return _declare(default, Text(meaning, tuple(options), optional), earlier=earlier)


def _declare(default: Any, field: Field, former: str | None = None, earlier: Any = None) -> Any:
    return dataclasses.field(default=default, metadata={_FIELD: field, _FORMER: former, _EARLIER: earlier})


def fields_of(section: type) -> dict[str, Field]:
    """Returns the declared fields of a section by name; one that a subclass defines anew keeps its declaration."""
    return {name: metadata[_FIELD] for name, metadata in _metadata_of(section).items()}


def former_names(section: type) -> dict[str, str]:
    """Returns the name of today of each field of a section that had another name in an earlier version."""
    former = {metadata[_FORMER]: name for name, metadata in _metadata_of(section).items()}
    return {old: name for old, name in former.items() if old is not None}


def earlier_values(section: type) -> dict[str, Any]:
    """Returns the value of each field that runs of versions without the field were as if it held."""
    earlier = {name: metadata[_EARLIER] for name, metadata in _metadata_of(section).items()}
    return {name: value for name, value in earlier.items() if value is not None}


def _metadata_of(section: type) -> dict[str, Mapping[str, Any]]:
    """Returns the metadata of each declared field; a field that a subclass defines anew keeps its own."""
    found: dict[str, Mapping[str, Any]] = {}
    for base in reversed(section.__mro__):
        for field in dataclasses.fields(base) if dataclasses.is_dataclass(base) else ():
            if _FIELD in field.metadata:
                found[field.name] = field.metadata
    return found


def defaults_of(section: type) -> dict[str, Any]:
    """Returns the default of each declared field of a section; `UNSET` where a value follows from others."""
    declared = fields_of(section)
    return {field.name: field.default for field in dataclasses.fields(section) if field.name in declared}


def unknown_field(name: str, known: Sequence[str]) -> str:
    """Returns the sentence about a field that does not exist, with the field that was probably meant.

    Args:
      name: dotted name.
      known: dotted names of the fields that exist.
    """
    leaves = {field: field.rpartition(".")[2] for field in known}
    leaf = name.rpartition(".")[2]
    near = [field for field in known if leaves[field] == leaf]
    if not near:
        near_leaves = difflib.get_close_matches(leaf, set(leaves.values()), n=1)
        near = [field for field in known if leaves[field] in near_leaves]
    hint = f"did you mean {' or '.join(near)}?" if near else "docs/configuration.md lists all fields"
    return f"there is no field {name}; {hint}"
