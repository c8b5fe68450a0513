"""Forks in reports: the names of their trunks, and curves and costs that have what they share once."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from matplotlib.axes import Axes

from experiments.report import costs, figures, page, records
from experiments.report.curves import Trunk, learning_curves
from experiments.report.records import Fork
from tests.helpers.record_factories import (
    MANIFEST,
    make_config,
    make_fork,
    make_line,
    make_origin,
    make_records,
    write_run_dir,
)

LINES = [make_line("eval", 100, 1.0), make_line("end", 100, 1.0)]


def write_fork(directory: pathlib.Path, trunk: pathlib.Path, *arguments: str) -> None:
    """Writes the run directory of a fork, with the paths that the command line and the configuration gave."""
    config = make_config() | {"seer": {"enabled": True, "init_from": str(trunk.parent / "source")}}
    changes = [{"env_steps": 3, "fields": {}, "arguments": [f"--run_dir={directory}", "--resume"]}]
    fork = {"fork": make_origin(str(trunk), 100), "arguments": list(arguments), "changes": changes}
    write_run_dir(directory, LINES, config, {**MANIFEST, **fork})


def test_fork_names_its_trunk_and_its_kept_file_holds_no_path_of_this_machine(tmp_path):
    runs = tmp_path / "runs"
    write_run_dir(runs / "trunk", LINES)
    arguments = (
        "--config=configs/rainbow_atari.py:paper",
        f"--config.seer.init_from={runs / 'source'}",
        f"--fork={runs / 'trunk'}@100",
        f"--run_dir={runs / 'fork'}",
        "--config.seer.freeze_step=200",
    )
    write_fork(runs / "fork", runs / "trunk", *arguments)
    read = records.read(runs / "fork")
    assert read.fork == Fork("trunk", 100)
    assert records.read(runs / "trunk").fork is None
    read.save(tmp_path / "fork.jsonl")
    assert str(tmp_path) not in (tmp_path / "fork.jsonl").read_text()
    kept = records.read(tmp_path / "fork.jsonl")
    assert (kept.fork, kept.manifest, kept.config) == (read.fork, read.manifest, read.config)
    assert kept.config["seer"]["init_from"] == "source"
    assert kept.manifest.get("arguments") == [
        "--config=configs/rainbow_atari.py:paper",
        "--config.seer.init_from=source",
        "--fork=trunk@100",
        "--run_dir=fork",
        "--config.seer.freeze_step=200",
    ]


def test_page_shows_the_command_of_a_fork_with_names(tmp_path):
    write_fork(tmp_path / "runs" / "fork", tmp_path / "runs" / "trunk", f"--fork={tmp_path / 'runs' / 'trunk'}")
    page.write(tmp_path / "x.html", [records.read(tmp_path / "runs" / "fork")], title="", command="")
    assert "python -m seer_jax.train --fork=trunk</pre>" in (tmp_path / "x.html").read_text()


def test_trunk_in_another_directory_has_the_name_of_its_own(tmp_path):
    write_fork(tmp_path / "new" / "fork", tmp_path / "old" / "trunk", f"--fork={tmp_path / 'old' / 'trunk'}@100")
    read = records.read(tmp_path / "new" / "fork")
    assert read.fork == Fork("trunk", 100)
    assert read.manifest.get("arguments") == ["--fork=trunk@100"]


@pytest.mark.parametrize("place", ["runs", "elsewhere"])
def test_trunk_that_is_a_seed_of_several_is_named_with_their_run(tmp_path, place):
    group = tmp_path / place / "three"
    for seed in (4, 5, 6):
        write_run_dir(group / f"seed-{seed}", LINES, make_config(seed=seed))
    (group / "config.json").write_text(json.dumps(make_config(seed=4) | {"num_seeds": 3}))
    write_fork(tmp_path / "runs" / "fork", group / "seed-5", f"--fork={group / 'seed-5'}@100")
    read = records.read(tmp_path / "runs" / "fork")
    assert read.fork == Fork(records.read(group / "seed-5").name, 100) == Fork("three/seed-5", 100)
    assert read.manifest.get("arguments") == ["--fork=three/seed-5@100"]


def test_trunk_is_found_among_runs_of_the_same_name():
    trunk, other = make_records("A", {100: 1.0, 200: 2.0}), make_records("A", {100: 5.0, 200: 2.0})
    fork = make_fork(trunk, 100, "B", {200: 3.0})
    assert records.trunk_of(fork, [other, fork, trunk]) is trunk
    assert records.trunk_of(fork, [other, fork]) is None
    assert records.trunk_of(trunk, [other, fork, trunk]) is None


def test_origin_of_a_fork_is_the_outermost_trunk_that_is_known():
    trunk = make_records("A", {100: 1.0, 200: 2.0, 300: 3.0})
    fork = make_fork(trunk, 100, "B", {200: 3.0, 300: 4.0})
    second = make_fork(fork, 200, "C", {300: 3.0})
    assert {records.origin_of(run, [trunk, fork, second]) for run in (trunk, fork, second)} == {trunk.name}
    assert records.origin_of(second, [fork, second]) == trunk.name
    assert records.origin_of(second, [trunk, second]) == fork.name


def forked_runs(**changes):
    """Returns two trunks of arm A, and their forks of arm B after 200 of 400 agent steps."""
    scores = ({100: 1.0, 200: 2.0, 300: 3.0, 400: 4.0}, {100: 3.0, 200: 6.0, 300: 7.0, 400: 8.0})
    trunks = [make_records("A", each, seed=seed, **changes) for seed, each in enumerate(scores)]
    return trunks, [make_fork(trunk, 200, "B", {300: 10.0, 400: 20.0}) for trunk in trunks]


def test_curve_of_forks_is_drawn_from_the_last_evaluation_that_they_share(monkeypatch, tmp_path):
    trunks, forks = forked_runs()
    curves = learning_curves([*trunks, *forks])
    assert [curve.trunk for curve in curves] == [None, Trunk("A", 1)]
    drawn = {}
    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda ax, x, y, **style: [drawn.update({style["label"]: (x, y)}), plot(ax, x, y, **style)]
    )
    figures.draw(tmp_path / "x.png", curves, [], "env_steps")
    np.testing.assert_array_equal(drawn["A"], [[100, 200, 300, 400], [2.0, 4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(drawn["B"], [[200, 300, 400], [4.0, 10.0, 20.0]])
    (panel,) = figures.panels(curves, [])
    assert [curve["trunk"] for curve in panel["curves"]] == [None, {"arm": "A", "first": 1}]
    assert panel["curves"][1]["scores"] == [[1.0, 2.0, 10.0, 20.0], [3.0, 6.0, 10.0, 20.0]]
    np.testing.assert_array_equal(curves[1].scores_at("env_steps", 100), [1.0, 3.0])


def test_curve_of_forks_is_whole_if_a_trunk_is_not_shown():
    trunks, forks = forked_runs()
    for runs in (forks, [trunks[0], *forks]):
        assert learning_curves(runs)[-1].first_drawn == 0
    early = make_fork(trunks[0], 50, "B", {100: 0.0})  # shares no evaluation
    assert learning_curves([*trunks, early])[-1].first_drawn == 0


def test_fork_that_is_evaluated_at_the_fork_and_its_trunk_not_has_its_curve_from_what_both_have():
    trunks, _ = forked_runs()
    forks = [make_fork(trunk, 250, "B", {250: 5.0, 400: 20.0}) for trunk in trunks]
    assert [records.trunk_of(fork, [*trunks, *forks]) for fork in forks] == trunks
    curves = learning_curves([*trunks, *forks])
    assert curves[1].trunk == Trunk("A", 1)
    np.testing.assert_array_equal(curves[1].x["env_steps"][0], [100, 200, 250, 400])
    total = costs.total_cost([*trunks, *forks])
    assert total is not None
    np.testing.assert_allclose([total.macs_alone, total.macs], [1.6e9, 1.1e9])


def test_trunk_that_was_trained_again_with_signals_is_found():
    """Its costs and times are others, and its evaluations the same."""
    trunks, forks = forked_runs()
    again = dataclasses.replace(
        trunks[0], lines=[{**line, "macs_total": 1.01 * line["macs_total"], "seconds": 7.0} for line in trunks[0].lines]
    )
    assert records.trunk_of(forks[0], [again, forks[0]]) is again


def test_curve_of_forks_of_forks_begins_at_their_own_fork():
    trunks, forks = forked_runs()
    second = [make_fork(fork, 300, "C", {400: 0.0}) for fork in forks]
    curves = learning_curves([*trunks, *forks, *second])
    assert [curve.trunk for curve in curves] == [None, Trunk("A", 1), Trunk("B", 2)]


def test_shared_cost_of_forks_counts_once():
    """Runs of 400 agent steps each, of 1e6 multiply-accumulates and 0.1 seconds a step."""
    trunks, forks = forked_runs()
    total = costs.total_cost([*trunks, *forks])
    assert total is not None
    np.testing.assert_allclose([total.macs_alone, total.macs], [1.6e9, 1.2e9])
    np.testing.assert_allclose([total.seconds_alone, total.seconds], [160.0, 120.0])
    second = [make_fork(fork, 300, "C", {400: 0.0}) for fork in forks]
    total = costs.total_cost([*trunks, *forks, *second])
    assert total is not None
    np.testing.assert_allclose([total.macs_alone, total.macs], [2.4e9, 1.4e9])


def test_cost_of_a_trunk_that_is_not_shown_counts_once_for_its_forks():
    (trunk, _), _ = forked_runs()
    forks = [make_fork(trunk, steps, f"after {steps}", {400: 0.0}) for steps in (100, 200, 300)]
    total = costs.total_cost(forks)
    assert total is not None
    np.testing.assert_allclose(total.macs, 1.2e9 - 100e6 - 200e6)
    unfinished = make_records("A", {100: 1.0, 200: 2.0, 300: 3.0, 400: 4.0})
    unfinished.lines.pop()  # its cost is not known yet
    assert costs.total_cost([unfinished, *forks]) == total


def test_cost_between_two_lines_of_a_trunk_is_interpolated_without_a_freeze_at_the_fork():
    trunk = make_records("A", {100: 1.0, 300: 2.0}, freeze=250)
    trunk.of_kind("freeze")[0]["macs_total"] = 9e9
    fork = make_fork(trunk, 250, "B", {300: 0.0})
    total = costs.total_cost([trunk, fork])
    assert total is not None
    np.testing.assert_allclose(total.macs, 600e6 - 250e6)


def test_runs_that_share_nothing_have_no_total_cost():
    trunks, forks = forked_runs()
    assert costs.total_cost(trunks) is None
    assert costs.total_cost(forks[:1]) is None


def test_page_has_the_cost_of_all_runs_and_all_evaluations_of_forks(tmp_path):
    trunks, forks = forked_runs()
    runs = [*trunks, *forks]
    for run in runs:
        for line in run.lines:
            line["macs_total"] = 1e10 * line["env_steps"]
    page.write(tmp_path / "x.html", runs, title="", command="")
    rows = "| with shared trunks, as trained | 12.00 | 0.03 |\n| if each run had been trained alone | 16.00 | 0.04 |\n"
    assert rows in (tmp_path / "x.md").read_text()
    html = (tmp_path / "x.html").read_text()
    assert "<h2>Cost of all runs</h2>" in html
    assert "The line of a fork begins" in html
    assert (tmp_path / "x.csv").read_text().count("\n") == 1 + 4 * 4
