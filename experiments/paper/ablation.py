"""The runs of an ablation: with SEER, and different in one field of the configuration."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.paper import curl, rainbow
from experiments.runner.spec import Run

Values = Mapping[str, Sequence[Any]]  # values of the field, by scale


def of_rainbow(
    scale: str, field: str, values: Values, arm: str, *, starts_alike: bool = True, **changes: Any
) -> list[Run]:
    """Returns runs of Rainbow on a few games, each to the budget of the scale, and the trunks that they fork.

    Args:
      scale: smoke, cpu or paper.
      field: dotted name.
      values: of the field, by scale.
      arm: label with a placeholder for the value.
      starts_alike: whether the field changes nothing before the freeze, so that all values fork one trunk.
      changes: other overrides, with __ for dots.
    """
    found = []
    for task in rainbow.FEW_TASKS[scale]:
        for seed in rainbow.SEEDS[scale]:
            trunk = rainbow.baseline(scale, task, seed)
            make = functools.partial(
                rainbow.make_run,
                scale,
                task,
                seed,
                preset="paper",
                to_budget=True,
                trunk=trunk if starts_alike else None,
                **changes,
            )
            found += [trunk, *_variants(make, rainbow.seer(scale, task, seed), field, values[scale], arm)]
    return found


def of_curl(scale: str, field: str, values: Values, arm: str) -> list[Run]:
    """Returns runs of CURL on one task of DeepMind Control, and the trunks that they fork.

    Args:
      scale: smoke, cpu or paper.
      field: dotted name of a field that changes nothing before the freeze.
      values: of the field, by scale.
      arm: label with a placeholder for the value.
    """
    found, task = [], curl.TASKS[scale][0]
    for seed in curl.FEW_SEEDS[scale]:
        trunk = curl.baseline(scale, task, seed)
        make = functools.partial(curl.make_run, scale, task, seed, preset="paper", trunk=trunk, **curl.LONGER[scale])
        found += [trunk, *_variants(make, curl.seer(scale, task, seed), field, values[scale], arm)]
    return found


def _variants(make: Callable[..., Run], base: Run, field: str, values: Sequence[Any], arm: str) -> list[Run]:
    """Returns a run for each value; for the value that `base` has, `base` itself, so that it is not trained twice."""
    leaf = field.rpartition(".")[2]
    value_of_base = _field_value(base.config, tuple(sorted((dict(base.overrides) | {"seed": 0}).items())), field)
    return [
        dataclasses.replace(base, arm=arm.format(value))
        if value == value_of_base
        else make(name=f"{leaf}-{value}", arm=arm.format(value), **{field.replace(".", "__"): value})
        for value in values
    ]


@functools.cache  # the same for all seeds
def _field_value(config_file: str, overrides: tuple[tuple[str, Any], ...], field: str) -> Any:
    """Returns the value of a field, by dotted name, in a resolved configuration."""
    return operator.attrgetter(field)(Run("", "", config_file, dict(overrides)).load())
