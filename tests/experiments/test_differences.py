"""Differences between arms over pairs of runs, in tables and as a figure."""

import numpy as np
import pytest
from PIL import Image

from experiments.report import figures, page, statistics
from experiments.report.content import Comparison
from experiments.report.curves import learning_curves
from experiments.report.differences import paired_differences
from experiments.report.tables import difference_table
from seer_jax.envs import atari_scores
from tests.helpers.record_factories import make_fork, make_records

TASKS = ("krull", "qbert")
BASELINES = np.array([[2000.0, 300.0], [2500.0, 900.0], [3000.0, 700.0]])  # [seeds, tasks]
GAINS = np.array([[100.0, 10.0], [300.0, 40.0], [200.0, -20.0]])


def make_runs(arm, scores, *, seeds=(0, 1, 2), tasks=TASKS):
    return [
        make_records(arm, {100: 0.0, 200: row[i]}, task=task, seed=seed)
        for i, task in enumerate(tasks)
        for seed, row in zip(seeds, scores, strict=True)
    ]


def find(runs, **comparison):
    found = paired_differences(learning_curves(runs), Comparison(**comparison))
    assert found is not None
    return found


def test_difference_is_that_of_runs_of_the_same_seed_in_any_order():
    runs = [*make_runs("A", BASELINES), *make_runs("B", (BASELINES + GAINS)[::-1], seeds=(2, 1, 0))]
    found = find(runs)
    assert found.baseline == "A"
    assert [(row.arm, row.task, row.num_pairs, row.sharing) for row in found.rows] == [
        ("B", "krull", 3, 0),
        ("B", "qbert", 3, 0),
        ("B", None, 3, 0),
    ]
    for i, row in enumerate(found.rows[:2]):
        x, y = (BASELINES + GAINS)[:, [i]], BASELINES[:, [i]]
        assert row.mean == pytest.approx(GAINS[:, i].mean())
        for interval, paired in ((row.paired, True), (row.unpaired, False)):
            assert interval == statistics.confidence_interval(statistics.paired_difference, x, y, paired=paired)
    ranges = [atari_scores.human_normalized(t, 1.0) - atari_scores.human_normalized(t, 0.0) for t in TASKS]
    assert found.rows[2].mean == pytest.approx((GAINS * ranges).mean())


def test_pairing_narrows_the_interval_of_scores_that_are_alike():
    for row in find([*make_runs("A", BASELINES), *make_runs("B", BASELINES + GAINS)]).rows:
        assert row.paired is not None
        assert row.unpaired is not None
        assert np.ptp(row.paired) < np.ptp(row.unpaired)
        assert row.unpaired.low < row.paired.low <= row.mean <= row.paired.high < row.unpaired.high


def test_pairs_are_at_the_budget_and_without_seeds_that_did_not_reach_it_or_have_no_score():
    runs = [*make_runs("A", BASELINES), *make_runs("B", BASELINES + GAINS)]
    runs[0].of_kind("eval")[1]["env_steps"] = 150  # krull, seed 0
    runs[-1].of_kind("eval")[1]["eval_return_mean"] = None  # qbert, seed 2
    rows = find(runs, x="env_steps", budget=210).rows
    assert [(row.task, row.num_pairs, row.mean) for row in rows[:2]] == [("krull", 2, 250.0), ("qbert", 2, 25.0)]
    assert (rows[2].task, rows[2].num_pairs) == (None, 2)
    rows = find(runs, x="env_steps", budget=100).rows
    assert [(row.num_pairs, row.mean) for row in rows] == [(3, 0.0)] * 3


def test_evaluations_that_were_cut_short_are_no_pairs_over_all_tasks():
    runs = [*make_runs("A", BASELINES), *make_runs("B", BASELINES + GAINS)]
    for line in runs[0].of_kind("eval"):
        line |= {"human_normalized": None}
    assert [row.num_pairs for row in find(runs).rows] == [3, 3, 2]


def test_tasks_without_human_scores_and_single_tasks_have_rows_of_their_own_alone():
    runs = [*make_runs("A", BASELINES, tasks=("krull", "walker-walk")), *make_runs("B", GAINS, tasks=("walker-walk",))]
    assert [row.task for row in find(runs).rows] == ["walker-walk"]
    runs += make_runs("B", GAINS, tasks=("krull",))
    assert [row.task for row in find(runs).rows] == ["krull", "walker-walk"]
    assert [row.task for row in find([run for run in runs if run.task == "krull"]).rows] == ["krull"]


def test_arms_without_two_pairs_on_a_task_have_no_differences():
    other_seeds = make_runs("B", GAINS, seeds=(2, 3, 4))
    for runs in (make_runs("A", BASELINES), [*make_runs("A", BASELINES), *other_seeds]):
        curves = learning_curves(runs)
        assert paired_differences(curves, Comparison()) is None
        assert difference_table(curves, Comparison()) is None
        assert figures.difference_section(curves, Comparison()) is None
    assert paired_differences(learning_curves(runs), Comparison(arms=("C",))) is None


def test_table_has_both_intervals_and_says_how_many_pairs_share_a_trunk():
    trunks = make_runs("A", BASELINES)
    single = make_records("C", {200: 2100.0})
    forks = [make_fork(run, 100, "B", {200: score}) for run, score in zip(trunks, range(6), strict=True)]
    table = difference_table(learning_curves([*trunks, *forks, single]), Comparison("Scores"))
    assert table is not None
    assert table.title == "Scores, differences to A"
    assert table.head == ["arm", "task", "pairs", "difference", "paired interval", "unpaired interval"]
    assert [row[:3] for row in table.rows] == [
        ["B", "krull", "3"],
        ["B", "qbert", "3"],
        ["B", "all, human-normalised", "3"],
        ["C", "krull", "1"],
    ]
    assert table.rows[0][3:5] == ["-2,499.0", "[-2,998.0, -2,000.0]"]
    assert table.rows[3][3:] == ["+100.0", "", ""]
    assert "6 of 7 pairs here share a trunk" in table.note
    for runs, sentence in (
        ([*trunks, *forks], "All pairs"),
        ([*trunks, *make_runs("C", GAINS)], "No pair here shares"),
    ):
        table = difference_table(learning_curves(runs), Comparison())
        assert table is not None
        assert sentence in table.note


def test_forks_of_a_trunk_that_is_not_shown_share_it():
    trunks = make_runs("A", BASELINES)
    forks = [make_fork(run, 100, arm, {200: 1.0}) for arm in "BC" for run in trunks]
    assert [row.sharing for row in find(forks).rows] == [3, 3, 6]


def test_page_has_the_table_and_the_figure(tmp_path):
    runs = [*make_runs("A", BASELINES), *make_runs("B", BASELINES + GAINS)]
    page.write(tmp_path / "x.html", runs, title="", command="", comparisons=[Comparison("Scores")])
    html = (tmp_path / "x.html").read_text()
    assert "<h2>Scores, differences to A</h2>" in html
    assert "<h2>Scores, paired differences</h2>" in html
    assert "| B | krull | 3 | +200.0 | [" in (tmp_path / "x.md").read_text()
    with Image.open(tmp_path / "x-scores-paired-differences-1.png") as image:
        assert image.info["Title"] == "Scores, paired differences, differences to A"
