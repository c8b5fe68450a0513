"""Signals in a run: they change nothing, and stay the same through kills, forks and several seeds."""

import functools

import pytest

from seer_jax import train
from seer_jax.run.resolve import resolve
from seer_jax.run.seed import directories_of
from tests.helpers.runs import (
    assert_runs_equal,
    compiled_once,
    records,
    run_killed_after,
    tiny_config,
    tiny_control_config,
    untimed,
)

SETTINGS = {
    "rainbow": functools.partial(tiny_config, total_steps=300, replay__prioritized=True, checkpoint_every=70),
    "curl": functools.partial(tiny_control_config, total_steps=120, checkpoint_every=35),
}
EVERY = {"rainbow": 15, "curl": 20}  # those of Rainbow are before and after 100 agent steps
COSTS = ("flops_", "macs_")  # of which signals have some


@pytest.fixture(autouse=True)
def one_compilation():
    with compiled_once():
        yield


def config_of(setting, **changes):
    return SETTINGS[setting](**{"seer__signal_every": EVERY[setting]} | changes)


def signals_of(directory):
    return [record for record in untimed(directory) if record["kind"] == "signal"]


def uncosted(directory):
    found = [record for record in untimed(directory) if record["kind"] != "signal"]
    return [{k: v for k, v in record.items() if not k.startswith(COSTS) and k != "signal_every"} for record in found]


@pytest.mark.parametrize("setting", SETTINGS)
def test_signals_change_nothing_but_the_cost(setting, fake_envs, tmp_path):
    train.run(config_of(setting), tmp_path / "with")
    train.run(config_of(setting, seer__signal_every=0), tmp_path / "without")
    assert uncosted(tmp_path / "with") == uncosted(tmp_path / "without")
    with_signals, without = (records(tmp_path / name)[-1] for name in ("with", "without"))
    found = signals_of(tmp_path / "with")
    assert with_signals["macs_signal"] > 0
    assert with_signals["macs_total"] - without["macs_total"] == pytest.approx(with_signals["macs_signal"])
    assert without["macs_signal"] == 0
    assert not signals_of(tmp_path / "without")
    config, every = config_of(setting), EVERY[setting]
    due = range(config.learn_start // every + 1, config.seer.freeze_step // every + 1)
    assert [each["env_steps"] // every for each in found] == list(due)
    assert all(each["env_steps"] % every < config.num_envs for each in found)
    assert {each["phase"] for each in found} == {"full"}
    assert all(each["drift_untrained"] > 0 for each in found)
    first, steps = found[0]["env_steps"], [each["env_steps"] for each in found]
    assert ["drift_half" in each for each in found] == [step >= 2 * first for step in steps]


@pytest.mark.parametrize("setting", SETTINGS)
def test_killed_run_measures_what_it_would_have_measured(setting, fake_envs, tmp_path, monkeypatch):
    config = config_of(setting)
    train.run(config, tmp_path / "whole")
    vector_steps = config.seer.freeze_step // config.num_envs - 3  # before the last signal, after a checkpoint
    run_killed_after(config, tmp_path / "killed", vector_steps, monkeypatch)
    train.run(config, tmp_path / "killed", resume=True)
    assert_runs_equal(tmp_path / "killed", tmp_path / "whole")
    assert len(signals_of(tmp_path / "killed")) == len(signals_of(tmp_path / "whole")) > 1


def test_fork_goes_on_with_the_signals_of_its_trunk(fake_envs, tmp_path):
    trunk = config_of("rainbow", seer__enabled=False, checkpoint_at=(160,), checkpoint_every=0)
    config = config_of("rainbow", checkpoint_at=(160,), checkpoint_every=0)
    train.run(trunk, tmp_path / "trunk")
    train.run(config, tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@160")
    train.run(config, tmp_path / "whole")
    assert_runs_equal(tmp_path / "fork", tmp_path / "whole")
    assert len(signals_of(tmp_path / "trunk")) > len(signals_of(tmp_path / "fork")) > 1


def test_signals_of_seeds_together_are_those_of_each_alone(fake_envs, tmp_path):
    config = tiny_config(total_steps=240, seer__signal_every=40, num_seeds=2, checkpoint_every=0)
    train.run(config, tmp_path / "together")
    for each, directory in zip((0, 1), directories_of(resolve(config), tmp_path / "together"), strict=True):
        alone = tmp_path / f"alone-{each}"
        train.run(tiny_config(total_steps=240, seer__signal_every=40, seed=each, checkpoint_every=0), alone)
        for here, expected in zip(signals_of(directory), signals_of(alone), strict=True):
            numbers = {name: value for name, value in expected.items() if name != "kind" and name != "phase"}
            assert {name: here[name] for name in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-4)


def test_an_encoder_that_does_not_learn_does_not_drift(fake_envs, tmp_path):
    train.run(config_of("rainbow", agent__learning_rate=1e-12), tmp_path / "run")
    drifts = [v for each in signals_of(tmp_path / "run") for k, v in each.items() if k.startswith("drift")]
    assert drifts
    assert max(map(abs, drifts)) < 1e-6


def test_signals_are_measured_with_seer_unless_they_are_set():
    assert resolve(tiny_config()).seer.signal_every == 1000
    assert resolve(tiny_config(seer__enabled=False)).seer.signal_every == 0
    assert resolve(tiny_config(seer__enabled=False, seer__signal_every=50)).seer.signal_every == 50
