"""Forks in reports: the names of their trunks, and curves that have what they share once."""

import json
import pathlib

import numpy as np
import pytest
from matplotlib.axes import Axes

from experiments.report import figures, page, records
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


def test_curve_of_forks_of_forks_begins_at_their_own_fork():
    trunks, forks = forked_runs()
    second = [make_fork(fork, 300, "C", {400: 0.0}) for fork in forks]
    curves = learning_curves([*trunks, *forks, *second])
    assert [curve.trunk for curve in curves] == [None, Trunk("A", 1), Trunk("B", 2)]
