"""Runs with SEER that differ in one field, of both algorithms: what the ablations share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.paper import curl, rainbow
from experiments.spec import Run

Values = Mapping[str, Sequence[Any]]  # by scale


def of_rainbow(scale: str, field: str, values: Values, arm: str, **changes: Any) -> list[Run]:
    """Returns runs to the scale's budget on a few games.

    Args:
      scale: smoke, cpu or paper.
      field: dotted name.
      values: of the field.
      arm: label, which formats the value.
      changes: overrides beside, dots as __.
    """
    return [
        run
        for task in rainbow.FEW_TASKS[scale]
        for seed in rainbow.SEEDS[scale]
        for run in _variants(
            functools.partial(rainbow.make_run, scale, task, seed, preset="paper", to_budget=True, **changes),
            rainbow.seer(scale, task, seed),
            field,
            values[scale],
            arm,
        )
    ]


def of_curl(scale: str, field: str, values: Values, arm: str) -> list[Run]:
    """Returns runs as `of_rainbow` does, on one task of Control and as long as those with SEER are."""
    task = curl.TASKS[scale][0]
    return [
        run
        for seed in curl.FEW_SEEDS[scale]
        for run in _variants(
            functools.partial(curl.make_run, scale, task, seed, preset="paper", **curl.LONGER[scale]),
            curl.seer(scale, task, seed),
            field,
            values[scale],
            arm,
        )
    ]


def _variants(make: Callable[..., Run], base: Run, field: str, values: Sequence[Any], arm: str) -> list[Run]:
    """Returns a run for each value; the one that is as in `base` is `base` itself, which is not trained twice."""
    *path, leaf = field.split(".")
    as_it_is = functools.reduce(getattr, path, dataclasses.replace(base, budget=None).load())[leaf]
    return [
        dataclasses.replace(base, arm=arm.format(value))
        if value == as_it_is
        else make(name=f"{leaf}-{value}", arm=arm.format(value), **{field.replace(".", "__"): value})
        for value in values
    ]
