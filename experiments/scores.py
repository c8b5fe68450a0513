"""Scores of arms at equal budgets: the tables of the report, and published scores beside them."""

import csv
import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from experiments import statistics
from experiments.curves import Curve
from seer_jax.envs import atari_scores

_REFERENCES = pathlib.Path(__file__).parent / "reference_scores.csv"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A published score.

    Attributes:
      task: that it was reached on.
      label: method, setting and source.
      mean: the score.
    """

    task: str
    label: str
    mean: float


@dataclasses.dataclass(frozen=True)
class Table:
    """A table to show.

    Attributes:
      title: what it compares.
      head: a title for each column.
      rows: texts, as many as in the head.
      note: what a reader must know.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str


def read_references(tasks: Iterable[str]) -> list[Reference]:
    """Returns published scores on some tasks."""
    tasks = set(tasks)
    with _REFERENCES.open(newline="") as f:
        return [
            Reference(
                row["task"],
                f"{row['method']}, {row['setting']} ({row['source']})",
                float(row["mean"]),
            )
            for row in csv.DictReader(f)
            if row["task"] in tasks
        ]


def tables(lines: Sequence[Curve], x: str, budget: float | None) -> list[Table]:
    """Returns scores by task, and their aggregates where tasks have a common scale.

    Args:
      lines: one for each arm on each task.
      x: field of `curves.AXES` that the budget is a value of.
      budget: at which scores are compared; None compares at the end.
    """
    return [_by_task(lines, x, budget), *_aggregates(lines, x, budget)]


def _by_task(lines: Sequence[Curve], x: str, budget: float | None) -> Table:
    arms = list(dict.fromkeys(line.arm for line in lines))
    rows = []
    for task in dict.fromkeys(line.task for line in lines):
        row = [task]
        for arm in arms:
            found = [line.at(x, budget) for line in lines if (line.task, line.arm) == (task, arm)]
            row.append(_told(found[0]) if found else "")
        rows.append(row)
    return Table(
        title="Scores",
        head=["task", *arms],
        rows=rows,
        note="Mean ± sample standard deviation over seeds of the mean return of an evaluation.",
    )


def _told(scores: np.ndarray) -> str:
    mean, std = (float(value[0]) for value in statistics.mean_and_std(scores[:, None]))
    return f"{mean:,.1f}" if np.isnan(std) else f"{mean:,.1f} ± {std:,.1f}"


def _aggregates(lines: Sequence[Curve], x: str, budget: float | None) -> list[Table]:
    """Returns nothing unless all tasks are games with known human scores, in which case scores are normalised."""
    tasks = list(dict.fromkeys(line.task for line in lines))
    if not all(task in atari_scores.REFERENCE_SCORES for task in tasks):
        return []
    normalised = {}
    for arm in dict.fromkeys(line.arm for line in lines):
        by_task = {line.task: line.at(x, budget) for line in lines if line.arm == arm}
        if by_task.keys() != set(tasks):
            continue  # nothing to compare the others with
        runs = min(map(len, by_task.values()))  # a rectangle, as the statistics want it
        normalised[arm] = np.array(
            [[atari_scores.human_normalized(task, score) for score in by_task[task][:runs]] for task in tasks]
        ).T
    if not normalised:
        return []
    first = next(iter(normalised))
    rows = []
    for arm, values in normalised.items():
        row = [arm, f"{values.shape[0]} x {values.shape[1]}"]
        for statistic in (statistics.interquartile_mean, statistics.median, statistics.mean):
            row.append(_interval(statistic, values))
        row.append("" if arm == first else _interval(statistics.probability_of_improvement, values, normalised[first]))
        rows.append(row)
    return [
        Table(
            title="Human-normalised scores over all tasks",
            head=["arm", "seeds x tasks", "interquartile mean", "median", "mean", f"P(better than {first})"],
            rows=rows,
            note=(
                "0 is random play and 1 a human's score. In brackets 95% intervals of a stratified bootstrap over"
                " seeds; of few seeds they are too narrow."
            ),
        )
    ]


def _interval(statistic, *arms: np.ndarray) -> str:
    low, high = statistics.confidence_interval(statistic, *arms)
    return f"{float(statistic(*arms)):.3f} [{float(low):.3f}, {float(high):.3f}]"
