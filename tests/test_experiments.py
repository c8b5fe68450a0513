"""What experiments train, where they train it, and what they say of it."""

import dataclasses
import json
import os
import signal
import sys
import time

import numpy as np
import pytest
from dm_env import specs
from flax import traverse_util
from matplotlib.figure import Figure

from experiments import blind, curves, figures, pool, records, report, sweep, tables
from experiments.run import EXPERIMENTS
from experiments.spec import Comparison, Run
from seer_jax import cli, train
from seer_jax import config as config_lib
from tests import fake_env
from tests.runs import tiny_config


def sleeper(run, out):
    """Takes the place of `pool.command`: says when it lived and where, and fails if its name says so."""
    if "lost" in run.name:
        raise OSError("no such directory")
    code = (
        "import json, os, sys, time; began = time.time(); time.sleep(0.7);"
        "print(json.dumps([began, time.time(), sorted(os.sched_getaffinity(0))]), flush=True);"
        f"sys.exit('no luck' if 'bad' in {run.name!r} else 0)"
    )
    return [sys.executable, "-c", code]


def test_a_finished_run_of_another_configuration_is_refused(sleepers, tmp_path):
    (run,) = make_runs("a")
    write_run_dir(tmp_path / "runs" / "a", [{"kind": "end"}], run.load().to_dict() | {"seed": 9})
    with pytest.raises(config_lib.ConfigError, match=r"another configuration \(seed=9 there and 0 here"):
        pool.train_all([run], tmp_path)


def make_runs(*names, source=None):
    return [Run(name, "arm", "configs/rainbow_atari.py:quick", {}, source) for name in names]


@pytest.fixture
def sleepers(monkeypatch):
    monkeypatch.setattr(pool, "command", sleeper)
    monkeypatch.setattr(pool, "memory_needed", lambda run: 10**9)


def lives(out, *names):
    return [json.loads((out / "runs" / f"{name}.log").read_text().splitlines()[0]) for name in names]


def test_runs_share_no_core_and_a_failure_takes_no_other_with_it(sleepers, tmp_path):
    outcomes = pool.train_all(make_runs("a", "bad", "c", "d"), tmp_path, workers=2)
    assert {name: outcome.code for name, outcome in outcomes.items()} == {"a": 0, "bad": 1, "c": 0, "d": 0}
    assert outcomes["bad"].message == "no luck"
    spans = lives(tmp_path, "a", "bad", "c", "d")
    for i, (began, ended, cores) in enumerate(spans):
        at_once = [other for j, other in enumerate(spans) if j != i and other[0] < ended and began < other[1]]
        assert len(at_once) <= 2
        if len(os.sched_getaffinity(0)) > 1:
            assert all(
                set(cores).isdisjoint(other[2])
                for other in at_once
                if other[0] < ended - 0.4 and began < other[1] - 0.4
            )


def test_runs_that_do_not_fit_into_memory_together_take_turns(sleepers, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "memory_needed", lambda run: 10**14)
    pool.train_all(make_runs("a", "b"), tmp_path, workers=2)
    (_, first_ended, _), (second_began, _, _) = sorted(lives(tmp_path, "a", "b"))
    assert second_began > first_ended


def test_a_run_waits_for_the_one_that_it_starts_from(sleepers, tmp_path):
    runs = [
        *make_runs("child", source="parent"),
        *make_runs("parent"),
        *make_runs("orphan", source="bad"),
        *make_runs("bad"),
    ]
    outcomes = pool.train_all(runs, tmp_path, workers=2)
    parent, child = lives(tmp_path, "parent", "child")
    assert child[0] > parent[1]
    assert outcomes["orphan"] == pool.Outcome(1, "bad, which it starts from, failed")
    assert not (tmp_path / "runs" / "orphan.log").exists()


def test_what_is_done_is_not_trained_again(sleepers, tmp_path):
    runs = make_runs("a", "b")
    write_run_dir(tmp_path / "runs" / "a", [{"kind": "end"}], runs[0].load().to_dict())
    write_run_dir(tmp_path / "runs" / "b", [{"kind": "train"}])
    pool.train_all(runs, tmp_path)
    assert not (tmp_path / "runs" / "a.log").exists()
    assert (tmp_path / "runs" / "b.log").exists()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupted_pool_lets_runs_write_their_checkpoints(monkeypatch, tmp_path, number, raised):
    code = (
        "import signal, sys, time;"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)));"
        "print('up', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(pool, "command", lambda run, out: [sys.executable, "-c", code])
    monkeypatch.setattr(pool, "memory_needed", lambda run: 0)
    log, sent = tmp_path / "runs" / "a.log", []

    def interrupted(seconds, sleep=time.sleep):
        sleep(0.05)
        if log.exists() and log.read_text() == "up\n" and not sent:
            sent.append(number)
            signal.raise_signal(number)

    monkeypatch.setattr(pool.time, "sleep", interrupted)
    with pytest.raises(raised):
        pool.train_all(make_runs("a"), tmp_path)
    assert log.read_text().split() == ["up", "saved"]


def test_ray_trains_what_the_local_pool_trains(sleepers, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(pool, "memory_needed", lambda run: 10**15 if run.name == "large" else 10**9)
    try:
        outcomes = pool.train_all(make_runs("a", "bad", "large", "lost"), tmp_path, workers=2, backend="ray")
    finally:
        ray.shutdown()
    assert [outcomes[name] for name in ("a", "bad", "large")] == [
        pool.Outcome(0),
        pool.Outcome(1, "no luck"),
        pool.Outcome(0),
    ]
    assert outcomes["lost"] == pool.Outcome(1, "OSError: no such directory")


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_runs_of_one_name_are_one_run_and_can_be_read(scale):
    by_name = {}
    for experiment in EXPERIMENTS.values():
        for run in experiment.runs(scale):
            known = by_name.setdefault(run.name, run)
            assert dataclasses.replace(run, arm=known.arm) == known
    for run in {run.arm: run for run in by_name.values() if scale == "paper"}.values():
        dataclasses.replace(run, budget=None).load()  # or it raises


def test_settings_of_the_paper():
    """As its text, tables and captions give them."""

    def tasks(name):
        return {run.overrides["env.task"] for run in EXPERIMENTS[name].runs("paper")}

    def settings(name, *only):
        runs = [run for run in EXPERIMENTS[name].runs("paper") if run.overrides["seed"] == 0]
        assert {run.budget for run in runs} == {45e12 if name == "fig3" else None}
        runs = [run for run in runs if run.overrides["env.task"] in (only or tasks(name))]
        return {run.name.removesuffix("-s0"): dataclasses.replace(run, budget=None).load() for run in runs}

    games = {"alien", "amidar", "bank_heist", "crazy_climber", "krull", "qbert", "road_runner", "seaquest"}
    assert tasks("fig3") == tasks("fig4") == games
    rainbow = settings("fig3", "alien")
    assert {config.seer.freeze_step for config in rainbow.values() if config.seer.enabled} == {50_000}
    small = settings("fig4", "alien")
    assert {config.total_steps for config in small.values()} == {500_000}
    assert {config.replay.capacity for name, config in small.items() if "small" in name} == {10_000}
    assert {config.replay.grow_after_freeze for name, config in small.items() if "seer" in name} == {True}
    assert tasks("fig2") == {"cartpole-swingup", "finger-spin", "reacher-easy", "walker-walk"}
    assert {config.env.image_size for config in settings("fig2", "cartpole-swingup").values()} == {100}
    assert len({run.overrides["seed"] for run in EXPERIMENTS["fig2"].runs("paper")}) == 5
    assert {config.encoder.name for config in settings("fig6", "alien", "cartpole-swingup").values()} == {"impala"}
    transfer = settings("fig7")
    assert transfer["walker-stand-source"].total_steps == 60_000
    assert {config.env.task for config in transfer.values()} == {"walker-stand", "walker-walk", "hopper-hop"}
    assert transfer["hopper-hop-from-walker-stand"].seer.freeze_step == 0


def test_a_sweep_is_every_combination_with_every_seed():
    grid = sweep.parse_grid(["config.seer.freeze_step=10,20", "config.replay.latent_dtype=float16,bfloat16"])
    runs = sweep.make_runs("configs/rainbow_atari.py:quick", {"total_steps": "100"}, grid, range(5, 7))
    assert len(runs) == len({run.name for run in runs}) == 8
    assert runs[-1].overrides == {
        "total_steps": "100",
        "seer.freeze_step": "20",
        "replay.latent_dtype": "bfloat16",
        "seed": 6,
    }
    assert runs[-1].arm == "seer.freeze_step=20, replay.latent_dtype=bfloat16"


@pytest.mark.parametrize("text", ["seer.freeze_step=1", "config.seed", "config.seed=1,", "config.seed="])
def test_bad_grids_are_refused(text):
    with pytest.raises(cli.UsageError, match="does not look like"):
        sweep.parse_grid([text])


def test_seeds_are_no_grid():
    with pytest.raises(cli.UsageError, match="--seeds=N"):
        sweep.parse_grid(["config.seed=1,2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE is missing"),
        (["--config=configs/rainbow_atari.py:quick", "--grid", "config.seer.nothing=1"], "nothing"),
        (["--config=configs/rainbow_atari.py:quick", "--grid", "config.seer.freeze_step=8000,30000"], "never freeze"),
        (["--config=configs/rainbow_atari.py:quick", "--seeds=0"], "seeds"),
        (["--config", "configs/rainbow_atari.py:quick", "--config.seer.freeze_step=3e4"], "never freeze"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_starts(arguments, message, tmp_path, capsys):
    assert sweep.main(["sweep", f"--out={tmp_path / 'out'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_sweep_tells_what_came_out_in_80_columns_and_which_failed(monkeypatch, tmp_path, capsys):
    def train(runs, out, **where):
        codes = {run.name: int(run.overrides["replay.latent_dtype"] == "float16") for run in runs}
        for run in runs:
            if not codes[run.name]:
                end = evaluation(1000, 100.0 * (1 + run.overrides["seed"]), "end", full_steps_per_second=7.0)
                write_run_dir(out / "runs" / run.name, [end])
        return {name: pool.Outcome(code, "bad") for name, code in codes.items()}

    monkeypatch.setattr(pool, "train_all", train)
    grid = ["--grid=config.seer.freeze_step=4000,8000", "--grid=config.replay.latent_dtype=float32,float16"]
    arguments = ["--config=configs/rainbow_atari.py:quick", f"--out={tmp_path}", "--seeds=2", *grid]
    assert sweep.main(["sweep", *arguments]) == 1
    told = capsys.readouterr()
    assert told.err.count("failed with exit code 1: bad") == 4
    lines = told.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if "4000" in line and "float32" in line and "2 " in line and "150.0 ± 70.7" in line]
    assert [line for line in lines if "8000" in line and "float16" in line and "0 " in line]


@pytest.mark.parametrize("enabled", [False, True])
def test_a_budget_is_spent_and_hardly_more(fake_envs, tmp_path, enabled):
    tiny = {
        name: value
        for name, value in traverse_util.flatten_dict(tiny_config().to_dict(), sep=".").items()
        if value is not None
    }
    overrides = tiny | {"seer.enabled": enabled, "checkpoint_every": 0}
    budget = 1.5e9 if enabled else 2.5e9  # a run with SEER is frozen when it ends
    run = Run("", "", "configs/rainbow_atari.py:quick", overrides, budget=budget)
    end = train.run(run.load(), tmp_path / "run")
    assert end["phase"] == ("frozen" if enabled else "full")
    # What is more was spent at the handover and before learning: much of so small a run.
    assert 1.0 <= end["macs_total"] / budget < 1.15, end


def write_run_dir(directory, lines, config=None):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config or make_config()))
    (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


MANIFEST = {"packages": {"jax": "1.2.3"}, "git_commit": "abc", "devices": ["cpu:0"], "seed": 0, "protocol": "seer"}


def make_config(task="krull", seed=0, enabled=True):
    return {"agent": {"name": "rainbow"}, "env": {"task": task}, "seed": seed, "seer": {"enabled": enabled}}


def evaluation(steps, score, kind="eval", **fields):
    line = {
        "kind": kind,
        "env_steps": steps,
        "frames": 4 * steps,
        "macs_total": 1e6 * steps,
        "flops_total": 3e6 * steps,
    }
    line |= {"seconds": steps / 10, "replay_bytes": 1000, "replay_size": 50, "replay_capacity": 100, "phase": "full"}
    return line | {"eval_return_mean": score} | fields


def make_records(arm, scores_by_step, *, task="krull", seed=0, freeze=None):
    lines = [evaluation(steps, score) for steps, score in scores_by_step.items()]
    if freeze is not None:
        lines.append(evaluation(freeze, None, "freeze"))
    last = max(scores_by_step)
    lines.append(evaluation(last, scores_by_step[last], "end", full_steps_per_second=10.0, full_replay_capacity=7))
    return records.Records(f"{task}-{arm}-s{seed}", arm, make_config(task, seed), MANIFEST, lines)


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


def test_policies_that_look_at_nothing():
    env = fake_env.FakeEnv([3, 5], num_actions=2)
    found = dict(blind.policies(env.action_spec, env.num_envs, np.random.default_rng(0)))
    assert list(found) == ["random", "always 0", "always 1"]
    np.testing.assert_array_equal(found["always 1"](), [1, 1])
    np.testing.assert_array_equal(blind.play(env, found["random"]), [30, 50])
    found = dict(blind.policies(specs.BoundedArray((3,), np.float32, -1, 1), 2, np.random.default_rng(0)))
    assert list(found) == ["random", "no force"]
    assert found["random"]().shape == found["no force"]().shape == (2, 3)
    assert blind.main(["blind"]) == 2


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
