"""What a report says in numbers: scores of arms, their aggregates, and costs, as tables of text."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import references, statistics
from experiments.curves import Cost, Curve
from experiments.spec import Comparison
from seer_jax.envs import atari_scores

Scores = np.ndarray  # [S], one for each seed


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

    def to_markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (self.head, rule, *self.rows))


def scores(lines: Sequence[Curve], comparison: Comparison) -> list[Table]:
    """Returns scores by task, and their aggregates where tasks have a common scale.

    Args:
      lines: one for each arm on each task.
      comparison: what to show of them; arms without a line, whose runs may have failed, are left out.
    """
    evaluated = list(dict.fromkeys(line.arm for line in lines))
    arms = [arm for arm in comparison.arms or evaluated if arm in evaluated]
    tasks = list(dict.fromkeys(line.task for line in lines if line.arm in arms))
    found = {(line.task, line.arm): line.at(comparison.x, comparison.budget) for line in lines}
    if not arms:
        return []
    return [_by_task(comparison.title, tasks, arms, found), *_aggregates(comparison.title, tasks, arms, found)]


def _by_task(title: str, tasks: Sequence[str], arms: Sequence[str], found: Mapping[tuple[str, str], Scores]) -> Table:
    blind = {(r.task, r.method): f"{r.mean:,.1f}" for r in references.read(tasks) if r.method in references.BLIND}
    methods = [method for method in references.BLIND if any((task, method) in blind for task in tasks)]
    return Table(
        title=title,
        head=["task", *arms, *(references.BLIND[method] for method in methods)],
        rows=[
            [
                task,
                *(_told(found.get((task, arm))) for arm in arms),
                *(blind.get((task, method), "") for method in methods),
            ]
            for task in tasks
        ],
        note=(
            "Mean ± sample standard deviation over seeds, in brackets how many, of the mean return of an evaluation, as"
            " far as all seeds of an arm went."
        ),
    )


def _told(scores: Scores | None) -> str:
    if scores is None:
        return ""
    if not len(scores):
        return "not reached"
    mean, std = (float(value[0]) for value in statistics.mean_and_std(scores[:, None]))
    return f"{mean:,.1f} (1)" if np.isnan(std) else f"{mean:,.1f} ± {std:,.1f} ({len(scores)})"


def _aggregates(
    title: str, tasks: Sequence[str], arms: Sequence[str], found: Mapping[tuple[str, str], Scores]
) -> list[Table]:
    """Returns nothing unless all tasks are games with known human scores, in which case scores are normalised."""
    if not all(task in atari_scores.REFERENCE_SCORES for task in tasks):
        return []
    normalised = {}
    for arm in arms:
        by_task = [found[task, arm] for task in tasks if (task, arm) in found]
        runs = min(map(len, by_task), default=0)  # a rectangle, as the statistics want it
        if len(by_task) < len(tasks) or not runs:
            continue  # nothing to compare the others with
        normalised[arm] = np.array(
            [
                [atari_scores.human_normalized(task, score) for score in scores[:runs]]
                for task, scores in zip(tasks, by_task, strict=True)
            ]
        ).T
    if all(values.size == 1 for values in normalised.values()):
        return []  # no aggregates
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
            title=f"{title}, human-normalised, over all tasks",
            head=["arm", "seeds x tasks", "interquartile mean", "median", "mean", f"P(better than {first})"],
            rows=rows,
            note=(
                "0 is random play and 1 a human's score. Seeds are those that an arm has on every task. In brackets"
                " 95% intervals of a stratified bootstrap over seeds, where there are several; of few they are too"
                " narrow."
            ),
        )
    ]


def _interval(statistic, *arms: np.ndarray) -> str:
    told = f"{float(statistic(*arms)):.3f}"
    if any(len(values) == 1 for values in arms):
        return told
    low, high = statistics.confidence_interval(statistic, *arms)
    return f"{told} [{float(low):.3f}, {float(high):.3f}]"


def costs(found: Sequence[Cost]) -> Table:
    """Returns what runs cost; two values in a cell are of the full and of the frozen phase."""
    return Table(
        title="Costs",
        head=[
            "task",
            "arm",
            "steps/s",
            "MMAC per step",
            "replay rows",
            "replay MB",
            "agent steps",
            "TMAC",
            "TFLOP",
            "hours",
        ],
        rows=[
            [
                cost.task,
                cost.arm,
                _by_phase(cost.steps_per_second),
                _by_phase(cost.macs_per_step, 1e6, 1),
                _by_phase(cost.replay_rows),
                _by_phase(cost.replay_bytes, 1e6),
                f"{cost.env_steps:,.0f}",
                f"{cost.macs / 1e12:,.2f}",
                f"{cost.flops / 1e12:,.2f}",
                f"{cost.seconds / 3600:,.2f}",
            ]
            for cost in found
        ],
        note=(
            "Means over seeds of the runs that came to their end; two values are of the full and of the frozen phase."
            " MAC are multiply-accumulates, which the paper's FLOPs are by all that fits its figures, and FLOP those"
            " that XLA counts. Replay is as allocated: what the run can fill with SEER, all that is configured without."
            " Steps per second and hours are of whatever else the machine did."
        ),
    )


def _by_phase(values: Mapping[str, float | None], unit: float = 1, digits: int = 0) -> str:
    return " / ".join(f"{value / unit:,.{digits}f}" for value in values.values() if value is not None)
