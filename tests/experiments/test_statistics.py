"""Statistics of scores against values computed by hand, by loops, exactly, analytically, and by rliable."""

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.report import statistics

AGGREGATES = [statistics.interquartile_mean, statistics.median, statistics.mean]

# Inputs of the values of rliable below: gamma of shapes 1.0 and 0.7, rounded to tenths so that there are ties.
X = np.array(
    [[0.7, 1.0, 0.0, 0.0], [0.6, 1.6, 0.7, 0.8], [2.8, 6.1, 3.3, 0.0], [2.3, 0.1, 1.1, 0.8], [3.1, 0.4, 0.3, 1.5]]
)
Y = np.array([[0.0, 0.8, 0.6, 7.7], [0.8, 0.8, 0.1, 0.5], [0.4, 0.5, 0.6, 0.3]])


def test_mean_and_std_are_over_runs_of_each_task():
    mean, std = statistics.mean_and_std([[1.0, 10.0], [3.0, 10.0], [8.0, 40.0]])
    np.testing.assert_allclose(mean, [4.0, 20.0])
    np.testing.assert_allclose(std, [np.sqrt((9 + 1 + 16) / 2), np.sqrt((100 + 100 + 400) / 2)])


def test_std_of_one_run_is_nan():
    mean, std = statistics.mean_and_std([[1.0, 10.0]])
    np.testing.assert_array_equal(mean, [1.0, 10.0])
    np.testing.assert_array_equal(std, [np.nan, np.nan])


def test_aggregates_equal_values_computed_by_hand():
    """Task means are 3, 6 and 100; of the six scores the lowest and the highest are cut."""
    scores = [[0.0, 4.0, 2.0], [6.0, 8.0, 198.0]]
    np.testing.assert_allclose(statistics.median(scores), 6.0)
    np.testing.assert_allclose(statistics.mean(scores), (3.0 + 6.0 + 100.0) / 3)
    np.testing.assert_allclose(statistics.interquartile_mean(scores), (2.0 + 4.0 + 6.0 + 8.0) / 4)


def test_probability_of_improvement_equals_value_computed_by_hand():
    """On the first task X is higher in three of four pairs and ties in one; on the second it is never higher."""
    x, y = [[2.0, 0.0], [4.0, 0.0]], [[1.0, 5.0], [2.0, 5.0]]
    np.testing.assert_allclose(statistics.probability_of_improvement(x, y), ((3 + 0.5) / 4 + 0) / 2)
    np.testing.assert_allclose(statistics.probability_of_improvement(y, x), 1 - ((3 + 0.5) / 4 + 0) / 2)
    np.testing.assert_allclose(statistics.probability_of_improvement(x, x), 0.5)


def test_paired_difference_equals_value_computed_by_hand():
    x, y = [[2.0, 0.0], [4.0, 1.0]], [[1.0, 5.0], [2.0, 5.0]]
    np.testing.assert_allclose(statistics.paired_difference(x, y), ((1 + 2) / 2 + (-5 - 4) / 2) / 2)
    np.testing.assert_allclose(statistics.paired_difference(x, x), 0.0)


def naive_aggregates(scores):
    num_runs, num_tasks = len(scores), len(scores[0])
    flat = sorted(score for run in scores for score in run)
    cut = len(flat) // 4
    middle = flat[cut : len(flat) - cut]
    means = sorted(sum(run[task] for run in scores) / num_runs for task in range(num_tasks))
    return (
        sum(middle) / len(middle),
        (means[(num_tasks - 1) // 2] + means[num_tasks // 2]) / 2,
        sum(means) / num_tasks,
    )


def naive_probability_of_improvement(x, y):
    total = 0.0
    for task in range(len(x[0])):
        for run_x, run_y in itertools.product(x, y):
            total += 1.0 if run_x[task] > run_y[task] else 0.5 if run_x[task] == run_y[task] else 0.0
    return total / (len(x) * len(y) * len(x[0]))


def naive_paired_difference(x, y):
    total = 0.0
    for run_x, run_y in zip(x, y, strict=True):
        for score_x, score_y in zip(run_x, run_y, strict=True):
            total += score_x - score_y
    return total / (len(x) * len(x[0]))


@pytest.mark.parametrize(
    ("num_runs", "num_runs_y", "num_tasks"), [(1, 1, 1), (1, 3, 2), (2, 1, 1), (3, 3, 7), (5, 10, 26)]
)
def test_statistics_equal_those_of_loops(num_runs, num_runs_y, num_tasks):
    """Scores are small integers, so that there are ties, in a batch of two."""
    rng = np.random.default_rng(num_runs)
    x = rng.integers(-3, 4, size=(2, num_runs, num_tasks))
    y = rng.integers(-3, 4, size=(2, num_runs_y, num_tasks))
    for aggregate, expected in zip(AGGREGATES, zip(*map(naive_aggregates, x), strict=True), strict=True):
        np.testing.assert_allclose(aggregate(x), expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(aggregate(x[1]), expected[1], rtol=1e-12, atol=1e-12)
    expected = [naive_probability_of_improvement(*pair) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(statistics.probability_of_improvement(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(statistics.probability_of_improvement(x[1], y[1]), expected[1], rtol=1e-12)
    pairs = min(num_runs, num_runs_y)
    expected = [naive_paired_difference(*pair) for pair in zip(x[:, :pairs], y[:, :pairs], strict=True)]
    np.testing.assert_allclose(statistics.paired_difference(x[:, :pairs], y[:, :pairs]), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("statistic", "arms", "estimate", "interval"),
    [
        (statistics.interquartile_mean, (X,), 0.92, (0.53, 1.60)),
        (statistics.median, (X,), 1.46, (0.62, 2.01)),
        (statistics.mean, (X,), 1.36, (0.81, 2.005)),
        (statistics.probability_of_improvement, (X, Y), 19 / 30, (13 / 30, 25 / 30)),
    ],
)
def test_statistics_equal_those_of_rliable(statistic, arms, estimate, interval):
    """Expected values are those of rliable 1.2.0, with random intervals of 50,000 resamples."""
    np.testing.assert_allclose(statistic(*arms), estimate, rtol=1e-12)
    np.testing.assert_allclose(
        statistics.confidence_interval(statistic, *arms, num_resamples=50_000), interval, atol=0.02
    )


def every_resample(scores):
    """All equally likely resamples, `[num_runs ** (num_runs * num_tasks), num_runs, num_tasks]`."""
    columns = [list(itertools.product(column, repeat=len(column))) for column in scores.T]
    return np.array([np.stack(resample, axis=-1) for resample in itertools.product(*columns)])


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_interval_equals_that_of_all_resamples(aggregate):
    scores = np.random.default_rng(3).normal(size=(3, 2))
    exact = np.percentile(aggregate(every_resample(scores)), [2.5, 97.5])
    interval = statistics.confidence_interval(aggregate, scores, num_resamples=50_000)
    np.testing.assert_allclose(interval, exact, atol=0.05)


def test_interval_resamples_each_arm_independently():
    """An arm is compared with itself: the same resamples for both would always tie."""
    scores = np.array([[0.0], [2.0], [5.0]])
    x, y = map(np.array, zip(*itertools.product(every_resample(scores), repeat=2), strict=True))
    exact = np.percentile(statistics.probability_of_improvement(x, y), [2.5, 97.5])
    np.testing.assert_allclose(exact, [1 / 18, 17 / 18])
    interval = statistics.confidence_interval(
        statistics.probability_of_improvement, scores, scores, num_resamples=20_000
    )
    np.testing.assert_allclose(interval, exact)


def test_paired_interval_equals_that_of_all_resamples_of_pairs():
    """Of pairs `[num_pairs, num_tasks]`, each task draws its own."""
    x, y = np.random.default_rng(3).normal(size=(2, 3, 2))
    differences = [
        [score_x - score_y for score_x, score_y in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)
    ]
    exact = np.percentile(every_resample(np.array(differences)).mean(axis=(1, 2)), [2.5, 97.5])
    interval = statistics.confidence_interval(statistics.paired_difference, x, y, paired=True, num_resamples=50_000)
    np.testing.assert_allclose(interval, exact, atol=0.05)


def test_paired_interval_is_as_much_narrower_as_scores_of_pairs_are_alike():
    """Of two scores with correlation r and the same deviation, the difference has the variance 2 (1 - r)."""
    rng = np.random.default_rng(2)
    shared, own = rng.normal(size=(40, 1)), rng.normal(size=(2, 40, 1))
    x, y = 2.0 * shared + own  # correlation 0.8
    widths = [
        np.subtract(*statistics.confidence_interval(statistics.paired_difference, x, y, paired=paired))
        for paired in (True, False)
    ]
    expected = np.sqrt((x - y).var() / (x.var() + y.var()))
    np.testing.assert_allclose(widths[0] / widths[1], expected, rtol=0.06)
    assert expected < 0.6


def test_paired_interval_of_equal_differences_has_no_width():
    x = X[:, :2]
    interval = statistics.confidence_interval(statistics.paired_difference, x + 2.5, x, paired=True)
    np.testing.assert_allclose(interval, [2.5, 2.5])


def test_interval_of_a_mean_of_many_runs_equals_the_normal_interval():
    """The bootstrap variance of a mean over n runs has n, not n - 1, in the denominator."""
    scores = np.random.default_rng(1).normal(5.0, 2.0, size=(30, 6))
    standard_error = np.sqrt(np.sum(scores.var(axis=0) / 30)) / 6
    expected = scores.mean() + stats.norm.ppf([0.025, 0.975]) * standard_error
    interval = statistics.confidence_interval(statistics.mean, scores, num_resamples=20_000)
    np.testing.assert_allclose(interval, expected, atol=0.02)


@pytest.mark.parametrize(("num_runs", "num_tasks"), [(2, 8), (3, 8), (10, 4)])
def test_interval_of_a_mean_covers_it_as_often_as_theory_predicts(num_runs, num_tasks):
    """Coverage is 95% only for many runs: 80% for two, 87% for three and 93% for ten. 300 experiments in one batch."""
    scores = np.random.default_rng(1).normal(5.0, 2.0, size=(300, num_runs, num_tasks))
    low, high = statistics.confidence_interval(statistics.mean, scores, num_resamples=400)
    student = stats.t(num_tasks * (num_runs - 1))
    expected = 2 * student.cdf(stats.norm.ppf(0.975) * np.sqrt((num_runs - 1) / num_runs)) - 1
    np.testing.assert_allclose(np.mean((low < 5.0) & (high > 5.0)), expected, atol=0.04)


def test_interval_of_one_run_has_no_width():
    np.testing.assert_allclose(statistics.confidence_interval(statistics.mean, [[1.0, 3.0]]), [2.0, 2.0])


def test_interval_is_determined_by_the_seed():
    first, again, other = (statistics.confidence_interval(statistics.mean, X, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_interval_of_a_statistic_with_one_value_for_each_task():
    low, high = statistics.confidence_interval(lambda scores: scores.mean(axis=-2), [[0.0, 5.0], [1.0, 5.0]])
    np.testing.assert_array_equal(low, [0.0, 5.0])
    np.testing.assert_array_equal(high, [1.0, 5.0])


CALLS = [
    statistics.mean_and_std,
    *AGGREGATES,
    lambda scores: statistics.probability_of_improvement(X, scores),
    lambda scores: statistics.probability_of_improvement(scores, X),
    lambda scores: statistics.paired_difference(X, scores),
    lambda scores: statistics.paired_difference(scores, X),
    lambda scores: statistics.confidence_interval(np.mean, scores),
    lambda scores: statistics.confidence_interval(statistics.paired_difference, X, scores, paired=True),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_non_finite_scores_raise_with_their_index(call, missing):
    scores = X.copy()
    scores[2, 1] = scores[3, 0] = missing
    with pytest.raises(
        ValueError, match=rf"scores\[2, 1\] is {missing}, and 2 scores in all .* leave it out on every task"
    ):
        call(scores)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("scores", [1.0, [1.0, 2.0], np.zeros((0, 4)), np.zeros((3, 0))])
def test_scores_without_runs_or_tasks_raise(call, scores):
    with pytest.raises(ValueError, match=r"scores have shape .*: give \[num_runs, num_tasks\]"):
        call(scores)


def test_arms_with_different_numbers_of_tasks_raise():
    with pytest.raises(ValueError, match="x has 4 tasks and y has 1: give both the same tasks"):
        statistics.probability_of_improvement(X, Y[:, :1])


def test_arms_without_pairs_raise():
    message = r"scores have shapes \(3, 4\) and \(5, 4\): give pairs"
    with pytest.raises(ValueError, match=message):
        statistics.paired_difference(X, Y)
    with pytest.raises(ValueError, match=message):
        statistics.confidence_interval(statistics.mean, X, Y, paired=True)
