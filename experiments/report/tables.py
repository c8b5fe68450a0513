"""The tables of a report: scores of arms by task, their aggregates over tasks, their differences, and costs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.report import references, statistics
from experiments.report.content import Comparison
from experiments.report.costs import ByPhase, Cost, TotalCost
from experiments.report.curves import Curve
from experiments.report.differences import Difference, Interval, paired_differences
from experiments.report.references import Reference
from seer_jax.envs import atari_scores

Scores = np.ndarray  # [S], one for each seed; NaN where one is not available
ScoresByArm = Mapping[tuple[str, str], Scores]  # by task and arm

_NOT_AVAILABLE = "not available"
_SCORES_NOTE = (
    "Mean ± sample standard deviation over seeds of the mean return of an evaluation; the number of seeds is in"
    " brackets. Evaluations that only some seeds of an arm reached are left out."
)
_AGGREGATES_NOTE = (
    "0 is the score of random play and 1 that of a human. An arm counts the seeds that it has on every task. Brackets"
    " hold 95% intervals of a stratified bootstrap over seeds, where there are several; with few seeds they are too"
    " narrow."
)
_CUT_SHORT_NOTE = " Scores of evaluations that were cut short are not available, and their seeds are not counted."
_DIFFERENCES_NOTE = (
    "Mean over pairs of the score of an arm minus that of {baseline}; over all tasks, that of human-normalised scores,"
    " with as many pairs on each task. A pair is two runs of the same task and seed. {sharing} Brackets hold 95%"
    " intervals of a bootstrap that draws pairs (paired), or seeds of each arm independently (unpaired). The more alike"
    " the scores of a pair are, the narrower is the paired one. With few seeds both are too narrow; of two pairs, the"
    " paired one only reaches from one difference to the other."
)
_PUBLISHED_NOTE = "Mean ± standard deviation over seeds. The runs on this page have other budgets."
_COSTS_NOTE = (
    "Means over seeds of the finished runs; two values are those of the full and of the frozen phase. MAC are"
    " multiply-accumulates, the unit that fits the FLOPs in the paper's figures, and FLOP are those that XLA counts."
    " Replay is the allocated size; before version 0.3.0 it could be more than the run could fill. Steps per"
    " second and hours depend on what else the machine was running."
)

_TOTAL_COST_NOTE = (
    "Sums over the finished runs. In the table above a fork costs as much as if it had been trained alone; here, what"
    " several runs share with their trunk counts once."
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
      title: what it compares.
      head: a title for each column.
      rows: texts, one for each column.
      note: how to read the table.
      wraps: whether the page may break the lines of a cell.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str
    wraps: bool = False

    def to_markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (self.head, rule, *self.rows))


def score_tables(curves: Sequence[Curve], comparison: Comparison) -> list[Table]:
    """Returns a table of scores by task, and one of aggregates over tasks if all tasks have known human scores.

    Args:
      curves: one for each arm on each task.
      comparison: what to show of them; arms without a curve, whose runs may have failed, are left out.
    """
    arms = comparison.shown_of([curve.arm for curve in curves])
    if not arms:
        return []
    tasks = list(dict.fromkeys(curve.task for curve in curves if curve.arm in arms))
    at = (comparison.x, comparison.budget)
    scores = {(curve.task, curve.arm): curve.scores_at(*at) for curve in curves}
    tables = [_by_task(comparison.title, tasks, arms, scores)]
    if all(task in atari_scores.REFERENCE_SCORES for task in tasks):
        normalized = {(curve.task, curve.arm): curve.scores_at(*at, human_normalized=True) for curve in curves}
        by_arm = _by_seed_and_task(tasks, arms, normalized)
        if any(values.size != 1 for values in by_arm.values()):  # there is something to aggregate
            missing = any(np.isnan(values).any() for values in normalized.values())
            note = _AGGREGATES_NOTE + (_CUT_SHORT_NOTE if missing else "")
            tables.append(_aggregates(comparison.title, by_arm, note))
    return tables


def _by_task(title: str, tasks: Sequence[str], arms: Sequence[str], scores: ScoresByArm) -> Table:
    labels = references.OPEN_LOOP_LABELS
    open_loop = {(r.task, r.method): f"{r.mean:,.1f}" for r in references.read(tasks) if r.method in labels}
    methods = [method for method in labels if any((task, method) in open_loop for task in tasks)]
    return Table(
        title=title,
        head=["task", *arms, *(labels[method] for method in methods)],
        rows=[
            [
                task,
                *(_format_scores(scores.get((task, arm))) for arm in arms),
                *(open_loop.get((task, method), "") for method in methods),
            ]
            for task in tasks
        ],
        note=_SCORES_NOTE,
    )


def _format_scores(scores: Scores | None) -> str:
    if scores is None:
        return ""
    if not len(scores):
        return "not reached"
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return _NOT_AVAILABLE
    mean, std = (float(value[0]) for value in statistics.mean_and_std(scores[:, None]))
    return f"{mean:,.1f} (1)" if np.isnan(std) else f"{mean:,.1f} ± {std:,.1f} ({len(scores)})"


def _by_seed_and_task(tasks: Sequence[str], arms: Sequence[str], scores: ScoresByArm) -> dict[str, np.ndarray]:
    """Returns scores `[num_seeds, num_tasks]` of each arm whose runs were evaluated on every task.

    The statistics need as many seeds on every task: later ones of a task with more seeds are cut, so that there may be
    none where scores are not available.
    """
    found = {}
    for arm in arms:
        by_task = [scores[task, arm] for task in tasks if (task, arm) in scores]
        if len(by_task) == len(tasks) and all(map(len, by_task)):
            available = [column[np.isfinite(column)] for column in by_task]
            num_seeds = min(map(len, available))
            found[arm] = np.array([column[:num_seeds] for column in available]).T
    return found


def _aggregates(title: str, by_arm: Mapping[str, np.ndarray], note: str) -> Table:
    baseline = next((arm for arm, values in by_arm.items() if values.size), next(iter(by_arm)))
    rows = []
    for arm, values in by_arm.items():
        if not values.size:
            rows.append([arm, *[_NOT_AVAILABLE] * 5])
            continue
        row = [arm, f"{values.shape[0]} x {values.shape[1]}"]
        for statistic in (statistics.interquartile_mean, statistics.median, statistics.mean):
            row.append(_format_interval(statistic, values))
        improvement = _format_interval(statistics.probability_of_improvement, values, by_arm[baseline])
        rows.append([*row, "" if arm == baseline else improvement])
    return Table(
        title=f"{title}, human-normalised, over all tasks",
        head=["arm", "seeds x tasks", "interquartile mean", "median", "mean", f"P(better than {baseline})"],
        rows=rows,
        note=note,
    )


def _format_interval(statistic: Callable[..., np.ndarray], *arms: np.ndarray) -> str:
    estimate = f"{float(statistic(*arms)):.3f}"
    if any(len(values) == 1 for values in arms):
        return estimate
    low, high = statistics.confidence_interval(statistic, *arms)
    return f"{estimate} [{float(low):.3f}, {float(high):.3f}]"


def comparison_tables(curves: Sequence[Curve], comparison: Comparison) -> list[Table]:
    """Returns the tables of scores and, where there are pairs of runs, the one of differences."""
    differences = difference_table(curves, comparison)
    return [*score_tables(curves, comparison), *([differences] if differences else [])]


def difference_table(curves: Sequence[Curve], comparison: Comparison) -> Table | None:
    """Returns a row for each arm and task with the difference to the baseline over pairs; None if there are too few."""
    found = paired_differences(curves, comparison)
    if found is None:
        return None
    rows = [
        [
            row.arm,
            row.task or "all, human-normalised",
            str(row.num_pairs),
            _format_difference(row, row.mean),
            *(_format_difference(row, interval) for interval in (row.paired, row.unpaired)),
        ]
        for row in found.rows
    ]
    return Table(
        title=f"{comparison.title}, differences to {found.baseline}",
        head=["arm", "task", "pairs", "difference", "paired interval", "unpaired interval"],
        rows=rows,
        note=_DIFFERENCES_NOTE.format(baseline=found.baseline, sharing=_format_sharing(found.rows)),
    )


def _format_difference(row: Difference, values: float | Interval | None) -> str:
    digits = 3 if row.task is None else 1
    if isinstance(values, Interval):
        return f"[{', '.join(f'{value:+,.{digits}f}' for value in values)}]"
    return "" if values is None else f"{values:+,.{digits}f}"


def _format_sharing(rows: Sequence[Difference]) -> str:
    """Returns a sentence that says how many pairs share a trunk."""
    by_task = [row for row in rows if row.task is not None]
    sharing, num_pairs = sum(row.sharing for row in by_task), sum(row.num_pairs for row in by_task)
    if not sharing:
        return "No pair here shares a trunk: its runs have the random seed in common, and were trained separately."
    count = "All" if sharing == num_pairs else f"{sharing} of {num_pairs}"
    return f"{count} pairs here share a trunk: the runs of such a pair are the same up to the fork."


def published_table(published: Sequence[Reference]) -> Table:
    """Returns a row for each published method and setting, with its score on each task; without open-loop policies."""
    shown = [reference for reference in published if reference.method not in references.OPEN_LOOP_LABELS]
    tasks = list(dict.fromkeys(reference.task for reference in shown))
    scores = {(r.label, r.task): f"{r.mean:,.1f}" if r.std is None else f"{r.mean:,.1f} ± {r.std:,.1f}" for r in shown}
    rows = [
        [label, *(scores.get((label, task), "") for task in tasks)] for label in dict.fromkeys(r.label for r in shown)
    ]
    return Table("Published scores", ["method, setting, source", *tasks], rows, _PUBLISHED_NOTE)


def cost_table(costs: Sequence[Cost]) -> Table:
    """Returns a row for each cost; two values in a cell are those of the full and of the frozen phase."""
    columns: dict[str, Callable[[Cost], str]] = {
        "task": lambda cost: cost.task,
        "arm": lambda cost: cost.arm,
        "steps/s": lambda cost: _format_phases(cost.steps_per_second),
        "MMAC per step": lambda cost: _format_phases(cost.macs_per_step, unit=1e6, digits=1),
        "replay rows": lambda cost: _format_phases(cost.replay_rows),
        "replay MB": lambda cost: _format_phases(cost.replay_bytes, unit=1e6),
        "agent steps": lambda cost: f"{cost.env_steps:,.0f}",
        "TMAC": lambda cost: f"{cost.macs / 1e12:,.2f}",
        "TFLOP": lambda cost: f"{cost.flops / 1e12:,.2f}",
        "hours": lambda cost: f"{cost.seconds / 3600:,.2f}",
    }
    rows = [[cell(cost) for cell in columns.values()] for cost in costs]
    return Table(title="Costs", head=list(columns), rows=rows, note=_COSTS_NOTE)


def cost_tables(costs: Sequence[Cost], total: TotalCost | None) -> list[Table]:
    """Returns the table of costs if there is one, and that of the cost of all runs if they share a part of it."""
    return [*([cost_table(costs)] if costs else []), *([total_cost_table(total)] if total else [])]


def total_cost_table(total: TotalCost) -> Table:
    """Returns a row for the cost of all runs with trunks shared, and one for what they would have cost without."""
    rows = [
        [label, f"{macs / 1e12:,.2f}", f"{seconds / 3600:,.2f}"]
        for label, macs, seconds in (
            ("with shared trunks, as trained", total.macs, total.seconds),
            ("if each run had been trained alone", total.macs_alone, total.seconds_alone),
        )
    ]
    return Table("Cost of all runs", ["all runs", "TMAC", "hours"], rows, _TOTAL_COST_NOTE)


def _format_phases(values: ByPhase, *, unit: float = 1.0, digits: int = 0) -> str:
    return " / ".join(f"{value / unit:,.{digits}f}" for value in values.values() if value is not None)
