"""What experiments train, and where they train it."""

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

from experiments import blind, pool, sweep
from experiments.run import EXPERIMENTS
from experiments.spec import Run
from seer_jax import cli, train
from seer_jax.run import resolve as config_lib
from tests.helpers import fake_env
from tests.helpers.runs import tiny_config
from tests.written import evaluation, write_run_dir


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
