"""What is told of runs: records, curves, tables, pages and pictures."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import curves, figures, records, report, tables
from experiments.spec import Comparison
from tests.written import evaluation, make_records, write_run_dir


def test_kept_records_are_read_back_without_single_episodes(tmp_path):
    lines = [evaluation(1, 2.0), {"kind": "episode", "return": 1.0}, {"kind": "end"}]
    write_run_dir(tmp_path / "krull-s0", lines)
    with (tmp_path / "krull-s0" / "metrics.jsonl").open("a") as f:
        f.write('{"kind": "tra')  # a run that is writing
    read = records.read(tmp_path / "krull-s0")
    assert (read.name, read.arm, read.task, read.seed, read.finished) == (
        "krull-s0",
        "Rainbow + SEER",
        "krull",
        0,
        True,
    )
    read.keep(tmp_path / "kept" / "krull-s0.jsonl")
    kept = records.read(tmp_path / "kept" / "krull-s0.jsonl")
    assert kept.lines == [lines[0], lines[2]]
    assert kept.config == read.config


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"kind": "run"}'])
def test_files_that_hold_no_records_are_refused(content, tmp_path):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(records.RecordsError, match="neither the directory of a run nor"):
        records.read(tmp_path / "x.jsonl")


def test_curves_are_means_over_seeds_as_far_as_all_of_them_went():
    first, second, third = curves.curves(
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
    np.testing.assert_array_equal(first.at("macs_total", 1.1e8), [1.0, 3.0])
    np.testing.assert_array_equal(first.at("macs_total", None), [3.0, 7.0])
    (uneven,) = curves.curves(
        [make_records("A", {100: 1.0, 200: 2.0}), make_records("A", {100: 3.0, 400: 4.0}, seed=1)]
    )
    np.testing.assert_array_equal(uneven.at("env_steps", 210), [2.0, 3.0])  # each seed's nearest
    np.testing.assert_array_equal(uneven.at("env_steps", 390), [4.0])  # the other ended at 200
    assert uneven.at("env_steps", 900).size == 0
    assert second.freeze["env_steps"] == 50
    np.testing.assert_array_equal(second.std, [0.0])
    assert third.task == "qbert"


def test_tables_compare_arms_at_the_budget_and_normalise_games():
    lines = curves.curves(
        [
            make_records(arm, {100: low, 200: 99_999.0}, task=task, seed=seed)
            for task, human, random in (("krull", 2665.5, 1598.0), ("qbert", 13455.0, 163.9))
            for seed in (0, 1)
            for arm, low in (("A", random), ("B", human))
        ]
    )
    by_task, aggregate = tables.scores(lines, Comparison("here", x="env_steps", budget=120))
    assert by_task.head == ["task", "A", "B", "random play"]
    assert by_task.rows[0] == ["krull", "1,598.0 ± 0.0 (2)", "2,665.5 ± 0.0 (2)", "1,598.0"]
    assert aggregate.rows[0][:3] == ["A", "2 x 2", "0.000 [0.000, 0.000]"]
    assert aggregate.rows[1][2:] == ["1.000 [1.000, 1.000]"] * 4


def test_one_seed_has_no_interval_and_one_run_no_aggregate():
    runs = [make_records("A", {100: score}, task=task) for task, score in (("krull", 2665.5), ("qbert", 163.9))]
    _, aggregate = tables.scores(curves.curves(runs), Comparison("here"))
    assert aggregate.rows == [["A", "1 x 2", "0.500", "0.500", "0.500", ""]]
    assert len(tables.scores(curves.curves(runs[:1]), Comparison("here"))) == 1


def test_a_budget_that_no_seed_came_to_is_no_score():
    lines = curves.curves([make_records("A", {100: 1.0, 200: 2.0}), make_records("B", {100: 3.0, 400: 4.0})])
    (by_task,) = tables.scores(lines, Comparison("here", x="env_steps", budget=390))
    assert by_task.rows == [["krull", "not reached", "4.0 (1)", "1,598.0"]]


def test_two_runs_of_one_seed_are_refused():
    runs = [make_records("A", {100: 1.0}), make_records("A", {100: 2.0})]
    with pytest.raises(records.RecordsError, match="both of seed 0 of A on krull; leave one out"):
        curves.curves(runs)


def test_tasks_without_human_scores_have_no_aggregate():
    lines = curves.curves([make_records("A", {100: 1.0}, task="cartpole-balance")])
    (table,) = tables.scores(lines, Comparison("here"))
    assert table.head == ["task", "A", "random play", "no force"]
    assert table.rows == [["cartpole-balance", "1.0 (1)", "271.2", "739.2"]]


def test_a_report_needs_something_that_was_evaluated(tmp_path, capsys):
    write_run_dir(tmp_path / "run", [{"kind": "train"}])
    assert report.main(["report", str(tmp_path / "run"), f"--out={tmp_path / 'r.html'}"]) == 2
    assert "none of the runs was ever evaluated" in capsys.readouterr().err
    assert report.main(["report"]) == 2
    assert report.main(["report", str(tmp_path / "nothing")]) == 2
    assert not (tmp_path / "r.html").exists()


def test_a_page_shows_small_videos_and_compares_at_the_budget(tmp_path, capsys):
    write_run_dir(tmp_path / "run", [evaluation(100, 1.0), evaluation(200, 7.0), {"kind": "train"}])
    videos = tmp_path / "run" / "videos"
    videos.mkdir()
    (videos / "small.mp4").write_bytes(b"12")
    (videos / "large.mp4").write_bytes(bytes(1_000_001))
    out = tmp_path / "out" / "page.html"
    arguments = [str(tmp_path / "run"), f"--out={out}", "--x=env_steps", "--budget=120"]
    assert report.main(["report", *arguments]) == 0, capsys.readouterr().err
    page = out.read_text()
    assert page.count("data:video/mp4;base64,") == 1
    assert "data:video/mp4;base64,MTI=" in page
    assert "<h2>Scores at 120 agent steps</h2>" in page
    told = out.with_suffix(".md").read_text()
    assert "| task | Rainbow + SEER | random play |\n| --- | ---: | ---: |\n| krull | 1.0 (1) | 1,598.0 |" in told
    assert "Costs" not in told  # of a run that goes on there are none yet


def test_a_comparison_leaves_out_arms_whose_runs_failed():
    lines = curves.curves([make_records(arm, {100: 1.0}, task="walker-walk") for arm in ("A", "B", "C")])
    (table,) = tables.scores(lines, Comparison("some", ("C", "D", "A")))
    assert table.head == ["task", "C", "A"]
    assert tables.scores(lines, Comparison("none", ("D",))) == []


def test_seventeen_arms_are_told_apart_sixteen_times():
    lines = curves.curves([make_records(str(i), {100: 1.0}) for i in range(17)])
    styles = figures.styles(lines)
    assert len(set(styles.values())) == 16
    assert styles["16"] == styles["0"]


def test_a_pictures_legend_has_the_arms_of_all_tasks(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(Figure, "legend", lambda figure, handles, labels, **style: shown.extend(labels))
    lines = curves.curves([make_records("A", {1: 1.0}), make_records("B", {1: 1.0}, task="qbert")])
    figures.draw(tmp_path / "x.png", lines, [], "env_steps")
    assert shown == ["A", "B"]
