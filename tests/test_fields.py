"""What a field of a configuration accepts, and how a section declares it."""

import dataclasses

import pytest

from seer_jax import fields
from seer_jax.fields import ConfigError, flag, integer, real, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    count: int = integer(3, "a count", low=1, high=9)
    rate: float = real(0.5, "a rate", low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section(Base):
    count: int = 5
    kind: str = text("a", "a kind", options=("a", "b"))
    note: str | None = text(fields.UNSET, "a note", optional=True)
    on: bool = flag(fields.UNSET, "a flag")
    often: int = integer(2, "renamed", former="often_before")
    times: tuple[int, ...] = fields.integers("times", low=1)


def test_subclass_that_changes_a_default_keeps_bounds_and_meaning():
    declared = fields.fields_of(Section)
    assert declared["count"] == fields.Number("a count", 1, 9, int)
    assert list(declared) == ["count", "rate", "kind", "note", "on", "often", "times"]
    assert fields.defaults_of(Section) == {
        "count": 5,
        "rate": 0.5,
        "kind": "a",
        "note": None,
        "on": None,
        "often": 2,
        "times": (),
    }


def test_former_name_leads_to_the_name_of_today():
    assert fields.former_names(Section) == {"often_before": "often"}
    assert fields.former_names(Base) == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "x=0 is out of range; it lies between 1 and 9"),
        ("count", 10, "x=10 is out of range"),
        ("count", 2.0, "x=2.0 is not an integer"),
        ("count", True, "x=True is not an integer"),
        ("count", None, "x=None is not an integer"),
        ("rate", float("nan"), "x=nan is out of range"),
        ("rate", "1", "x='1' is not a number"),
        ("kind", "c", "x='c' is unknown; choose one of a, b"),
        ("kind", ["a"], r"x=\['a'\] is unknown"),
        ("note", 3, "x=3 is not a name"),
        ("on", 1, "x=1 is neither True nor False"),
        ("on", None, "x=None is neither True nor False"),
        ("times", 3, r"x=3 does not hold integers; write it like x=5000,10000"),
        ("times", [3, 4.0], r"x=\[3, 4.0\] does not hold integers"),
        ("times", [0, 4], r"x=0,4 must hold numbers of 1 to 2147483647 in rising order"),
        ("times", [5, 5], r"x=5,5 must hold numbers of 1 to 2147483647 in rising order"),
    ],
)
def test_bad_value_is_refused_with_what_is_allowed(name, value, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        fields.fields_of(Section)[name].check("x", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 1), ("count", 9), ("rate", 0.25), ("kind", "b"), ("note", None), ("on", False), ("times", (1, 5))],
)
def test_good_value_is_returned(name, value):
    assert fields.fields_of(Section)[name].check("x", value) == value


def test_whole_number_is_a_real_number():
    value = fields.fields_of(Section)["rate"].check("x", 1)
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("count", "1 to 9"),
        ("often", "0 or more"),
        ("kind", "a, b"),
        ("on", "True, False"),
        ("times", "numbers in rising order, 1 or more"),
    ],
)
def test_allowed_values_are_described(name, allowed):
    assert fields.fields_of(Section)[name].allowed == allowed


def test_values_of_versions_without_a_field_are_kept_where_a_subclass_changes_its_default():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Base:
        old: int = fields.integer(1, "there from the beginning")
        new: str = fields.text("a", "added", options=("a", "b"), earlier="a")
        on: bool = fields.flag(True, "added", earlier=False)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Derived(Base):
        new: str = "b"

    assert fields.earlier_values(Derived) == {"new": "a", "on": False}
    assert fields.defaults_of(Derived) == {"old": 1, "new": "b", "on": True}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("seer.freze_step", "did you mean seer.freeze_step?"),
        ("freeze_step", "did you mean seer.freeze_step?"),
        ("agent.name", "did you mean env.name or encoder.name?"),
        ("agent.lr", "docs/configuration.md lists all fields"),
    ],
)
def test_unknown_field_is_compared_with_known_ones_by_its_last_part(name, hint):
    known = ["seed", "env.name", "encoder.name", "agent.learning_rate", "seer.freeze_step"]
    assert fields.unknown_field(name, known) == f"there is no field {name}; {hint}"
