"""Statistics of the scores of several runs on several tasks, one score for each run, which the caller chooses.

The definitions are those of rliable (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264). To compare tasks whose
scores have different scales, normalise first (`seer_jax.envs.atari_scores.human_normalized`); only
`probability_of_improvement` needs no common scale.

All functions take scores of shape `[..., num_runs, num_tasks]` and raise `ValueError` if there is no run or no task, or
a score is not finite. Leading axes are a batch, such as of bootstrap resamples.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def mean_and_std(scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over the runs of each task.

    The SEER paper (Chen et al. 2021) reports both and does not say which deviation; the sample's (n - 1 in the
    denominator) is taken here.

    Returns:
      `[..., num_tasks]` means, and standard deviations of the same shape, NaN where there is only one run.
    """
    scores = _validated(scores)
    means = scores.mean(axis=-2)
    if scores.shape[-2] == 1:
        return means, np.full_like(means, np.nan)
    return means, scores.std(axis=-2, ddof=1)


def interquartile_mean(scores: ArrayLike) -> np.ndarray:
    """Mean of the middle half of the scores of all runs on all tasks.

    A quarter of the scores, rounded down, is cut at each end; with fewer than four scores nothing is cut.

    Returns:
      `[...]`, in the unit of the scores.
    """
    scores = _validated(scores)
    return np.asarray(stats.trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1))


def median(scores: ArrayLike) -> np.ndarray:
    """Median over the tasks of each task's mean over runs; `[...]`, in the unit of the scores."""
    return np.median(_validated(scores).mean(axis=-2), axis=-1)


def mean(scores: ArrayLike) -> np.ndarray:
    """Mean over all runs and tasks; `[...]`, in the unit of the scores."""
    return _validated(scores).mean(axis=(-2, -1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Probability that a run of X scores higher than a run of Y on the same task, averaged over the tasks.

    On each task it is the Mann-Whitney U statistic divided by the number of pairs of runs; a tie counts as one half.

    Args:
      x: `[..., num_runs_x, num_tasks]` scores of one algorithm.
      y: `[..., num_runs_y, num_tasks]` scores of the other on the same tasks.

    Returns:
      `[...]`, between 0 and 1.

    Raises:
      ValueError: also if `x` and `y` differ in their number of tasks.
    """
    x, y = _validated(x), _validated(y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x has {x.shape[-1]} tasks and y has {y.shape[-1]}: give both the same tasks, in one order")
    # Only U is used. `method` chooses how the unused p-value is computed; the exact method is slow.
    u, _ = stats.mannwhitneyu(x, y, axis=-2, method="asymptotic")  # [..., num_tasks]
    return (u / (x.shape[-2] * y.shape[-2])).mean(axis=-1)


def paired_difference(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Mean over pairs and tasks of the score of X minus that of Y.

    A pair is the runs of one position, such as those of one random seed. The mean is that of X minus that of Y; only
    the interval depends on the pairs.

    Args:
      x: `[..., num_pairs, num_tasks]` scores of one algorithm.
      y: `[..., num_pairs, num_tasks]` scores of the other, in the same order.

    Returns:
      `[...]`, in the unit of the scores.

    Raises:
      ValueError: also if `x` and `y` differ in their number of runs or tasks.
    """
    x, y = _validated(x), _validated(y)
    _check_pairs(x, y)
    return (x - y).mean(axis=(-2, -1))


def confidence_interval(
    statistic: Callable[..., np.ndarray],
    *arms: ArrayLike,
    paired: bool = False,
    seed: int = 0,
    num_resamples: int = 2000,
) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval of a statistic by stratified bootstrap over runs; the tasks are fixed.

    Runs are drawn with replacement, independently for each task. Those of several arms are drawn independently, as by
    rliable's `StratifiedIndependentBootstrap`, or in pairs, as by its `StratifiedBootstrap`. With few runs the interval
    is too narrow; with one run its width is 0.

    Args:
      statistic: maps a batch of each arm's scores to one array; any function above that returns one array will do.
      *arms: `[..., num_runs, num_tasks]` scores of each algorithm that the statistic needs.
      paired: whether runs of one position are a pair, so that the same positions are drawn for all arms.
      seed: random seed of the resampling.
      num_resamples: number of resamples; all are in memory at once, each as large as the scores.

    Returns:
      Lower and upper end, each of the shape and unit that the statistic has on the scores themselves.

    Raises:
      ValueError: also if the arms are paired and differ in their shape.
    """
    all_scores = [_validated(scores) for scores in arms]
    if paired:
        _check_pairs(*all_scores)
    rng, resamples = np.random.default_rng(seed), []
    for scores in all_scores:
        if paired:
            rng = np.random.default_rng(seed)  # draws the same for each arm
        runs = rng.integers(scores.shape[-2], size=(num_resamples, *scores.shape))
        resamples.append(np.take_along_axis(scores[None], runs, axis=-2))  # [num_resamples, ..., num_runs, num_tasks]
    low, high = np.percentile(statistic(*resamples), [2.5, 97.5], axis=0)
    return low, high


def _check_pairs(*arms: np.ndarray) -> None:
    shapes = {scores.shape for scores in arms}
    if len(shapes) > 1:
        raise ValueError(
            f"scores have shapes {' and '.join(map(str, sorted(shapes)))}: give pairs, the same runs and tasks of each"
        )


def _validated(scores: ArrayLike) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim < 2 or scores.size == 0:
        raise ValueError(f"scores have shape {scores.shape}: give [num_runs, num_tasks], at least one of each")
    finite = np.isfinite(scores)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"scores[{', '.join(map(str, where))}] is {scores[where]}, and {(~finite).sum()} scores in all are not"
            " finite: repeat the run, or leave it out on every task"
        )
    return scores
