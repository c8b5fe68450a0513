"""Records, curves, costs and tables of a report."""

import dataclasses
import pathlib

import numpy as np
import pytest

from experiments.report import records
from experiments.report.content import Comparison
from experiments.report.costs import mean_costs
from experiments.report.curves import learning_curves
from experiments.report.tables import cost_table, score_tables
from tests.helpers.record_factories import make_line, make_records, write_run_dir


def test_run_directory_is_read_without_its_incomplete_last_line(tmp_path):
    lines = [make_line("eval", 1, 2.0), {"kind": "episode", "return": 1.0}, {"kind": "end"}]
    write_run_dir(tmp_path / "krull-s0", lines)
    with (tmp_path / "krull-s0" / "metrics.jsonl").open("a") as f:
        f.write('{"kind": "tra')
    read = records.read(tmp_path / "krull-s0")
    assert (read.name, read.arm, read.task, read.seed) == ("krull-s0", "Rainbow + SEER", "krull", 0)
    assert read.lines == lines
    assert read.end == {"kind": "end"}


def test_saved_records_are_read_back_without_single_episodes(tmp_path):
    signal = make_line("signal", 1, None, drift_untrained=0.5, measure_seconds=0.1)
    lines = [make_line("eval", 1, 2.0), {"kind": "episode", "return": 1.0}, signal, {"kind": "end"}]
    write_run_dir(tmp_path / "krull-s0", lines)
    read = records.read(tmp_path / "krull-s0")
    read.save(tmp_path / "kept" / "krull-s0.jsonl")
    kept = records.read(tmp_path / "kept" / "krull-s0.jsonl")
    assert kept.lines == [lines[0], *lines[2:]]
    assert (kept.name, kept.arm, kept.config, kept.manifest) == (read.name, read.arm, read.config, read.manifest)


def test_arm_given_to_the_reader_replaces_the_one_in_the_file(tmp_path):
    make_records("A", {100: 1.0}).save(tmp_path / "a.jsonl")
    assert records.read(tmp_path / "a.jsonl").arm == "A"
    assert records.read(tmp_path / "a.jsonl", "B").arm == "B"


def test_records_of_an_earlier_version_have_today_s_names_of_fields(tmp_path):
    """Otherwise two runs of one configuration would seem to differ in fields that only one of them has."""
    sections = {"env": {"task": "walker-walk"}, "seer": {"enabled": True}, "seed": 0}
    former = sections | {"agent": {"name": "curl_sac", "actor_update_every": 3, "target_update_every": 2}}
    today = sections | {"agent": {"name": "curl_sac", "updates_per_actor_update": 3, "updates_per_target_update": 2}}
    kept = dataclasses.replace(make_records("A", {100: 1.0}), config=former)
    kept.save(tmp_path / "kept.jsonl")
    write_run_dir(tmp_path / "former", kept.lines, former)
    write_run_dir(tmp_path / "today", kept.lines, today)
    runs = [records.read(tmp_path / name) for name in ("kept.jsonl", "former", "today")]
    assert records.differing_fields(runs) == []
    assert runs[0].config == today


def test_records_of_an_earlier_version_have_the_values_that_it_implied():
    kept = next((pathlib.Path(records.__file__).parents[1] / "results" / "runs").glob("krull-rainbow-*.jsonl"))
    assert "resize" not in kept.read_text()
    assert records.read(kept).config["env"]["resize"] == "area"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"kind": "run"}'])
def test_file_without_records_raises(content, tmp_path):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(records.RecordsError, match="neither a run directory nor"):
        records.read(tmp_path / "x.jsonl")


def test_curve_is_the_mean_over_seeds_up_to_the_last_common_evaluation():
    first, second, third = learning_curves(
        [
            make_records("A", {100: 1.0, 200: 3.0, 300: 9.0}, seed=0),
            make_records("A", {102: 3.0, 200: 7.0}, seed=1),
            make_records("B", {100: 5.0}, freeze=50),
            make_records("A", {100: 6.0}, task="qbert"),
        ]
    )
    assert (first.task, first.arm, first.seeds) == ("krull", "A", [0, 1])
    np.testing.assert_array_equal(first.mean, [2.0, 5.0])
    np.testing.assert_allclose(first.std, [np.sqrt(2), np.sqrt(8)])
    np.testing.assert_array_equal(first.x["env_steps"], [[100, 200], [102, 200]])
    np.testing.assert_array_equal(first.mean_x("env_steps"), [101, 200])
    np.testing.assert_array_equal(first.x["replay_used"], [[500, 500]] * 2)
    assert first.freeze is None
    assert second.freeze is not None
    assert second.freeze["env_steps"] == 50
    np.testing.assert_array_equal(second.std, [0.0])
    assert third.task == "qbert"


def test_scores_at_a_budget_are_of_the_nearest_evaluation_of_seeds_that_reached_it():
    (curve,) = learning_curves(
        [make_records("A", {100: 1.0, 200: 2.0}), make_records("A", {100: 3.0, 400: 4.0}, seed=1)]
    )
    np.testing.assert_array_equal(curve.scores_at("macs_total", 1.1e8), [1.0, 3.0])
    np.testing.assert_array_equal(curve.scores_at("env_steps", 210), [2.0, 3.0])
    np.testing.assert_array_equal(curve.scores_at("env_steps", 390), [4.0])  # seed 0 ended at 200
    assert curve.scores_at("env_steps", 900).size == 0
    np.testing.assert_array_equal(curve.scores_at("macs_total", None), [2.0, 4.0])


def test_two_runs_of_one_seed_raise():
    runs = [make_records("A", {100: 1.0}), make_records("A", {100: 2.0})]
    with pytest.raises(records.RecordsError, match="both have seed 0 of A on krull; leave one out"):
        learning_curves(runs)


def test_costs_are_means_over_finished_runs():
    unfinished = make_records("A", {500: 0.0}, seed=2)
    unfinished.lines.pop()
    runs = [make_records("A", {100: 0.0}), make_records("A", {300: 0.0}, seed=1), unfinished]
    (cost,) = mean_costs(runs)
    assert (cost.task, cost.arm, cost.env_steps, cost.macs, cost.seconds) == ("krull", "A", 200.0, 2e8, 20.0)
    assert cost.steps_per_second == {"full": 10.0, "frozen": None}
    (row,) = cost_table([cost]).rows
    assert row == ["krull", "A", "10", "", "7", "", "200", "0.00", "0.00", "0.01"]


def test_tables_compare_arms_at_the_budget_and_normalise_games():
    curves = learning_curves(
        [
            make_records(arm, {100: score, 200: 99_999.0}, task=task, seed=seed)
            for task, human, random in (("krull", 2665.5, 1598.0), ("qbert", 13455.0, 163.9))
            for seed in (0, 1)
            for arm, score in (("A", random), ("B", human))
        ]
    )
    by_task, aggregate = score_tables(curves, Comparison("title", x="env_steps", budget=120))
    assert by_task.head == ["task", "A", "B", "random play"]
    assert by_task.rows[0] == ["krull", "1,598.0 ± 0.0 (2)", "2,665.5 ± 0.0 (2)", "1,598.0"]
    assert aggregate.rows[0][:3] == ["A", "2 x 2", "0.000 [0.000, 0.000]"]
    assert aggregate.rows[1][2:] == ["1.000 [1.000, 1.000]"] * 4


def test_one_seed_has_no_interval_and_a_single_score_no_aggregate():
    runs = [make_records("A", {100: score}, task=task) for task, score in (("krull", 2665.5), ("qbert", 163.9))]
    _, aggregate = score_tables(learning_curves(runs), Comparison())
    assert aggregate.rows == [["A", "1 x 2", "0.500", "0.500", "0.500", ""]]
    assert len(score_tables(learning_curves(runs[:1]), Comparison())) == 1


def test_aggregates_leave_out_arms_without_a_score_on_every_task():
    runs = [make_records("A", {100: 1.0}, task=task) for task in ("krull", "qbert")]
    _, aggregate = score_tables(learning_curves([*runs, make_records("B", {100: 1.0})]), Comparison())
    assert [row[0] for row in aggregate.rows] == ["A"]


def test_scores_of_evaluations_that_were_cut_short_are_not_available_in_aggregates():
    """Their line has a mean return, and null as the human-normalised score."""
    runs = [
        make_records(arm, {100: 1598.0}, task=task, seed=seed)
        for arm in ("A", "B", "C")
        for task in ("krull", "qbert")
        for seed in (0, 1)
    ]
    for run in runs:
        for line in run.of_kind("eval"):
            cut_short = run.arm == "A" or (run.arm == "B" and (run.task, run.seed) == ("krull", 1))
            line |= {"human_normalized": None if cut_short else 0.25}
    by_task, aggregate = score_tables(learning_curves(runs), Comparison())
    assert by_task.rows[0][1] == "1,598.0 ± 0.0 (2)"
    assert aggregate.rows == [
        ["A", *["not available"] * 5],
        ["B", "1 x 2", "0.250", "0.250", "0.250", ""],
        ["C", "2 x 2", *["0.250 [0.250, 0.250]"] * 3, "0.500"],
    ]
    assert aggregate.head[-1] == "P(better than B)"
    assert "cut short" in aggregate.note


def test_evaluation_without_a_return_is_shown_as_not_available():
    runs = [make_records("A", {100: None}), make_records("A", {100: 5.0}, seed=1), make_records("B", {100: None})]
    by_task, aggregate = score_tables(learning_curves(runs), Comparison())
    assert by_task.rows == [["krull", "5.0 (1)", "not available", "1,598.0"]]
    assert [row[1] for row in aggregate.rows] == ["1 x 1", "not available"]


def test_budget_that_no_seed_reached_is_not_a_score():
    curves = learning_curves([make_records("A", {100: 1.0, 200: 2.0}), make_records("B", {100: 3.0, 400: 4.0})])
    (by_task,) = score_tables(curves, Comparison(x="env_steps", budget=390))
    assert by_task.rows == [["krull", "not reached", "4.0 (1)", "1,598.0"]]


def test_tasks_without_human_scores_have_no_aggregate():
    curves = learning_curves([make_records("A", {100: 1.0}, task="cartpole-balance")])
    (table,) = score_tables(curves, Comparison())
    assert table.head == ["task", "A", "random play", "no force"]
    assert table.rows == [["cartpole-balance", "1.0 (1)", "271.2", "739.2"]]


def test_comparison_leaves_out_arms_whose_runs_failed():
    curves = learning_curves([make_records(arm, {100: 1.0}, task="walker-walk") for arm in ("A", "B", "C")])
    (table,) = score_tables(curves, Comparison(arms=("C", "D", "A")))
    assert table.head == ["task", "C", "A"]
    assert score_tables(curves, Comparison(arms=("D",))) == []
