"""The table of the settings in which the arms of a report differ, from the configurations of their runs."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.report.records import RunRecords
from experiments.report.tables import Table
from seer_jax.run import resolve

_NOTE = (
    "Fields of the runs' configurations (config.json) that are not the same for all arms; several values are those of"
    " an arm's tasks and seeds. An empty cell means that the arm has no such field."
)


def settings_table(runs: Sequence[RunRecords]) -> Table | None:
    """Returns a row for each field of the configuration in which arms differ; None if there is none."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(resolve.flat(run.config))
    rows = []
    for name in sorted({name for configs in by_arm.values() for config in configs for name in config}):
        values = [_distinct(config[name] for config in configs if name in config) for configs in by_arm.values()]
        if any(set(each) != set(values[0]) for each in values):
            rows.append([name, *map(", ".join, values)])
    return Table("Settings that differ", ["field", *by_arm], rows, _NOTE, wraps=True) if rows else None


def _distinct(values: Iterable[Any]) -> list[str]:
    """Returns the different values as texts, in order of their appearance."""
    return list(dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in values))
