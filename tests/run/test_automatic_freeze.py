"""Runs that find the step of their freeze: bounds, kills, forks, and what must not change the decision."""

import functools

import pytest

from seer_jax import train
from seer_jax.fields import ConfigError
from seer_jax.run.resolve import resolve
from seer_jax.seer import freezing
from tests.helpers.runs import (
    assert_runs_equal,
    compiled_once,
    records,
    run_killed_after,
    tiny_config,
    untimed,
)

automatic = functools.partial(
    tiny_config, total_steps=300, checkpoint_every=70, seer__freeze_step="auto", seer__signal_every=40
)


@pytest.fixture(autouse=True)
def one_compilation():
    with compiled_once():
        yield


@pytest.fixture
def settles(monkeypatch):
    """Has encoders settle at a signal after 150 agent steps: those of so short a run would at random."""
    monkeypatch.setattr(freezing, "has_settled", lambda signal: signal["env_steps"] >= 150)


def freeze_of(directory):
    (freeze,) = [record for record in records(directory) if record["kind"] == "freeze"]
    return freeze["env_steps"]


def test_run_freezes_at_the_signal_that_says_so_as_at_a_given_step(settles, fake_envs, tmp_path):
    train.run(automatic(), tmp_path / "auto")
    step = freeze_of(tmp_path / "auto")
    assert 160 <= step < 160 + automatic().num_envs
    # The image ring of an automatic freeze has room for the whole run; here both are as large as the capacity.
    train.run(automatic(seer__freeze_step=step), tmp_path / "given")
    assert_runs_equal(tmp_path / "auto", tmp_path / "given")


def test_bounds_of_an_automatic_freeze_hold(settles, fake_envs, tmp_path):
    train.run(automatic(seer__freeze_before=130), tmp_path / "before")
    assert 130 <= freeze_of(tmp_path / "before") < 132
    train.run(automatic(seer__freeze_after=170), tmp_path / "after")
    assert 200 <= freeze_of(tmp_path / "after") < 202


def test_run_that_never_settles_ends_without_a_freeze(monkeypatch, fake_envs, tmp_path):
    monkeypatch.setattr(freezing, "has_settled", lambda signal: False)
    assert train.run(automatic(total_steps=180), tmp_path / "run")["phase"] == "full"


@pytest.mark.parametrize("vector_steps", [70, 79, 81, 90])
def test_killed_run_decides_as_it_would_have(vector_steps, settles, fake_envs, tmp_path, monkeypatch):
    train.run(automatic(), tmp_path / "whole")
    run_killed_after(automatic(), tmp_path / "killed", vector_steps, monkeypatch)
    train.run(automatic(), tmp_path / "killed", resume=True)
    assert_runs_equal(tmp_path / "killed", tmp_path / "whole")


def test_resumed_run_keeps_the_cadence_of_the_signals_that_it_follows(settles, fake_envs, tmp_path, monkeypatch):
    run_killed_after(automatic(), tmp_path / "run", 50, monkeypatch)
    with pytest.raises(ConfigError, match=r"another configuration \(seer\.signal_every=40 there and 20 here"):
        train.run(automatic(seer__signal_every=20), tmp_path / "run", resume=True)


def test_fork_decides_as_it_would_have(settles, fake_envs, tmp_path):
    arguments = {"checkpoint_every": 0, "checkpoint_at": (140, 200)}
    train.run(automatic(seer__enabled=False, **arguments), tmp_path / "trunk")
    train.run(automatic(**arguments), tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@140")
    train.run(automatic(**arguments), tmp_path / "whole")
    assert_runs_equal(tmp_path / "fork", tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"would have frozen --fork=.*@200 after 16[01] agent steps; fork an earlier"):
        train.run(automatic(**arguments), tmp_path / "late", fork=f"{tmp_path / 'trunk'}@200")
    for field, value, message in (
        (
            "seer__signal_every",
            20,
            r"follows a signal every 20 agent steps, and .* measured them after 12[01] agent steps:",
        ),
        ("seer__freeze_before", 120, r"seer\.freeze_before=120 is too early for --fork="),
    ):
        config = automatic(**arguments | {field: value})
        with pytest.raises(ConfigError, match=message):
            train.run(config, tmp_path / "refused", fork=f"{tmp_path / 'trunk'}@140")


def test_fork_of_signals_at_another_cadence_or_of_none_is_refused(settles, fake_envs, tmp_path):
    arguments = {"checkpoint_every": 0, "checkpoint_at": (100, 140, 200)}
    before = automatic(seer__enabled=False, seer__signal_every=15, **arguments | {"total_steps": 140})
    train.run(before, tmp_path / "trunk")
    # The configuration of the trunk has the cadence of the fork from here on.
    changed = automatic(seer__enabled=False, **arguments | {"total_steps": 210})
    train.run(changed, tmp_path / "trunk", resume=True)
    with pytest.raises(ConfigError, match=r"measured them after 9[01], 10[56], 12[01] agent steps and so on:"):
        train.run(automatic(**arguments), tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@140")
    silent = automatic(seer__enabled=False, seer__signal_every=0, **arguments)
    train.run(silent, tmp_path / "silent")
    with pytest.raises(ConfigError, match="measured them at none: the freeze would come at another step"):
        train.run(automatic(**arguments), tmp_path / "fork", fork=f"{tmp_path / 'silent'}@140")
    # Before the first signal is due, none is missing.
    train.run(automatic(**arguments), tmp_path / "early", fork=f"{tmp_path / 'silent'}@100")
    train.run(automatic(**arguments), tmp_path / "whole")
    assert freeze_of(tmp_path / "early") == freeze_of(tmp_path / "whole")


def test_log_and_evaluation_cadences_do_not_change_the_decision(settles, fake_envs, tmp_path):
    train.run(automatic(), tmp_path / "a")
    train.run(automatic(log_every=17, eval_every=90, params_every=30), tmp_path / "b")
    signals = [[r for r in untimed(tmp_path / name) if r["kind"] in ("signal", "freeze")] for name in "ab"]
    assert signals[0] == signals[1]


def test_untrained_encoder_does_not_settle_and_one_of_another_run_that_rests_does(fake_envs, tmp_path):
    """An encoder that does not move: with its initial values it has learned nothing, with those of a run it has."""
    resting = {"agent__learning_rate": 1e-12, "total_steps": 300}
    train.run(automatic(**resting, seer__freeze_before=280), tmp_path / "untrained")
    assert freeze_of(tmp_path / "untrained") >= 280
    train.run(automatic(agent__learning_rate=3e-3, seer__enabled=False, total_steps=200), tmp_path / "source")
    train.run(automatic(**resting, seer__init_from=str(tmp_path / "source")), tmp_path / "transferred")
    assert freeze_of(tmp_path / "transferred") <= 282  # the first signal at twice the age of the first one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seer__signal_every": 0}, r"seer\.freeze_step=auto follows signals; set seer\.signal_every"),
        ({"num_seeds": 2}, r"num_seeds=2 with seer\.freeze_step=auto: .* set seer\.freeze_step to a number, or train"),
        ({"seer__freeze_before": 301}, r"seer\.freeze_before=301 must lie between 84, .* and 296, before total_steps"),
        ({"seer__freeze_after": 299}, r"seer\.freeze_after=299 is past total_steps=300; lower it to at most 296"),
        (
            {"seer__freeze_after": 200, "seer__freeze_before": 150},
            r"seer\.freeze_after=200 is past seer\.freeze_before=150; lower it to at most 150",
        ),
        (
            {"seer__freeze_step": 200, "seer__freeze_after": 90},
            r"freeze_after=90 bounds an automatic freeze, and .*=200",
        ),
        ({"seer__freeze_step": "soon"}, r"seer\.freeze_step='soon' is not an integer or 'auto'"),
    ],
)
def test_automatic_freeze_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve(automatic(**changes))
