"""Differences between arms over pairs of runs, which have the same task and seed and may be forks of one trunk."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.report import statistics
from experiments.report.content import Comparison
from experiments.report.curves import Curve
from seer_jax.envs import atari_scores


class Interval(NamedTuple):
    """A 95% interval, in the unit of the scores."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """Scores of an arm minus those of the baseline, from pairs of runs.

    Attributes:
      task: of the pairs; None for human-normalised scores over all tasks of the comparison.
      arm: the arm that is compared with the baseline.
      num_pairs: pairs of runs, of each task where there are several.
      sharing: pairs whose runs began as the same run, over all tasks.
      mean: over pairs and tasks.
      paired: interval by a bootstrap of pairs; None for a single pair.
      unpaired: interval by a bootstrap of the runs of each arm independently; None for a single pair.
    """

    task: str | None
    arm: str
    num_pairs: int
    sharing: int
    mean: float
    paired: Interval | None
    unpaired: Interval | None


@dataclasses.dataclass(frozen=True)
class Differences:
    """Differences of the arms of a comparison to its first one.

    Attributes:
      baseline: label of the first arm.
      rows: of each other arm those of its tasks, and then the one over all tasks.
    """

    baseline: str
    rows: list[Difference]


class _Pairs(NamedTuple):
    scores: np.ndarray  # [num_pairs, 2], of the arm and of the baseline
    sharing: np.ndarray  # [num_pairs], whether both began as the same run


def paired_differences(curves: Sequence[Curve], comparison: Comparison) -> Differences | None:
    """Returns the differences of each arm to the baseline at the budget of a comparison.

    Args:
      curves: one for each arm on each task.
      comparison: which arms to compare, and where.

    Returns:
      The differences; None if no arm has several pairs on a task, so that there is no interval to show.
    """
    arms = comparison.shown_of([curve.arm for curve in curves])
    by_arm = {arm: {curve.task: curve for curve in curves if curve.arm == arm} for arm in arms}
    tasks = list(dict.fromkeys(curve.task for curve in curves if curve.arm in arms))
    rows = [row for arm in arms[1:] for row in _rows(arm, by_arm[arm], by_arm[arms[0]], tasks, comparison)]
    return Differences(arms[0], rows) if any(row.paired for row in rows) else None


def _rows(
    arm: str, curves: Mapping[str, Curve], baselines: Mapping[str, Curve], tasks: Sequence[str], comparison: Comparison
) -> list[Difference]:
    """Returns the differences on each task that has pairs, and the one over all tasks if each of several has."""
    both = [task for task in tasks if task in curves and task in baselines]
    pairs = {task: _pairs(curves[task], baselines[task], comparison) for task in both}
    rows = [_difference(task, arm, [of_task]) for task, of_task in pairs.items() if len(of_task.scores)]
    if len(tasks) > 1 and both == tasks and all(task in atari_scores.REFERENCE_SCORES for task in tasks):
        normalized = [_pairs(curves[task], baselines[task], comparison, human_normalized=True) for task in tasks]
        if all(len(of_task.scores) for of_task in normalized):
            rows.append(_difference(None, arm, normalized))
    return rows


def _pairs(curve: Curve, baseline: Curve, comparison: Comparison, *, human_normalized: bool = False) -> _Pairs:
    """Returns the pairs of two arms on a task; those with a score that is not available are left out."""
    x, y = (
        each.scores_by_seed(comparison.x, comparison.budget, human_normalized=human_normalized)
        for each in (curve, baseline)
    )
    seeds = [seed for seed in y if seed in x and np.isfinite([x[seed], y[seed]]).all()]
    origins = [dict(zip(each.seeds, each.origins, strict=True)) for each in (curve, baseline)]
    return _Pairs(
        scores=np.array([[x[seed], y[seed]] for seed in seeds]).reshape(-1, 2),
        sharing=np.array([origins[0][seed] == origins[1][seed] for seed in seeds], bool),
    )


def _difference(task: str | None, arm: str, pairs: Sequence[_Pairs]) -> Difference:
    """Returns the difference over pairs of each task; the statistics need as many on every task, so more are cut."""
    num_pairs = min(len(of_task.scores) for of_task in pairs)
    x, y = np.stack([of_task.scores[:num_pairs] for of_task in pairs], axis=1).transpose(2, 0, 1)
    intervals: list[Interval | None] = [None, None]
    if num_pairs > 1:
        intervals = [_interval(x, y, paired=paired) for paired in (True, False)]
    return Difference(
        task=task,
        arm=arm,
        num_pairs=num_pairs,
        sharing=sum(int(of_task.sharing[:num_pairs].sum()) for of_task in pairs),
        mean=float(statistics.paired_difference(x, y)),
        paired=intervals[0],
        unpaired=intervals[1],
    )


def _interval(x: np.ndarray, y: np.ndarray, *, paired: bool) -> Interval:
    low, high = statistics.confidence_interval(statistics.paired_difference, x, y, paired=paired)
    return Interval(float(low), float(high))
