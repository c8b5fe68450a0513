"""Updates per agent step, and resets of heads: exact in number and time, also after a kill and in a fork."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from seer_jax import files, flops, platforms, train
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import registry
from seer_jax.envs.timestep import TimeStep
from seer_jax.run import checkpoint
from seer_jax.run.resolve import resolve
from seer_jax.seer import pace
from seer_jax.seer.phases import Phase, Programs
from tests.helpers.runs import (
    assert_runs_equal,
    compiled_once,
    forget_programs,
    records,
    run_killed_after,
    tiny_config,
    tiny_control_config,
)

FASTER = {"seer__replay_ratio": 2.5, "replay_ratio": 0.5, "num_envs": 3, "replay__prioritized": True}
RESETS = {"agent__reset_heads_every": 20, "seer__reset_heads_every": 100, "agent__reset_keep": 0.5}


@pytest.fixture(autouse=True)
def one_compilation():
    with compiled_once():
        yield


def updates_in_state(directory):
    """Returns the updates that the training state of the last checkpoint has counted."""
    last = checkpoint.newest(directory / checkpoint.DIRECTORY, pytest.fail)
    return int(files.load_tree(last.directory)["train"]["updates"])


def resets(directory):
    """Returns the updates after which a run reset its heads."""
    return [record["updates"] for record in records(directory) if record["kind"] == "reset"]


class QuickEnv:
    """Black frames, in episodes of 60 steps that end one after another."""

    action_spec = specs.DiscreteArray(3)

    def __init__(self, config, *, training, pools=(0,)):
        self.num_envs, self._steps = config.num_envs if training else config.eval_episodes, 0
        frame, zeros = np.zeros((self.num_envs, 42, 42, 1), np.uint8), np.zeros(self.num_envs, np.float32)
        ages, false = (np.arange(61)[:, None] + np.arange(self.num_envs)) % 61, zeros > 0
        self._turn = [TimeStep(frame, zeros, zeros, false, age == 60, age == 60, age == 0) for age in ages]

    def reset(self):
        return self._turn[0]._replace(first=self._turn[0].first | True, last=self._turn[0].last & False)

    def step(self, action):
        self._steps += 1
        return self._turn[self._steps % 61]

    def step_some(self, action, running):
        return self.step(action)

    def close(self):
        pass


@pytest.mark.parametrize("num_envs", [1, 4, 32])
@pytest.mark.parametrize("ratio", [1 / 8, 1, 4])
def test_updates_of_a_long_run_are_exact_in_number(tmp_path, monkeypatch, num_envs, ratio):
    """Only their number is looked at: the programs of this run do nothing else than count."""
    action = jnp.zeros(num_envs, jnp.int32)

    def compile_nothing(phase):
        def learn(state, ring, due):
            assert due.cycles is None
            return state.replace(updates=np.int32(state.updates + 1)), ring, {}

        def interact(params, actor, ring, timestep):
            return action, actor, ring

        return Programs(interact, learn, None, {}, {}, flops.Cost())

    monkeypatch.setattr(Phase, "compile", compile_nothing)
    monkeypatch.setattr(registry, "make_env", QuickEnv)
    end = train.run(
        tiny_config(
            num_envs=num_envs,
            replay_ratio=ratio,
            total_steps=10_000,
            log_every=10_000,
            eval_every=10_000,
            checkpoint_every=0,
            learn_start=160,
            seer__enabled=False,
            replay__capacity=3200,
        ),
        tmp_path / "run",
    )
    assert end["updates"] == updates_in_state(tmp_path / "run") == int((end["env_steps"] - 160) * ratio)


@pytest.mark.parametrize("make_config", [tiny_config, tiny_control_config])
def test_ratio_of_the_frozen_phase_counts_from_the_freeze_and_a_kill_on_either_side_changes_nothing(
    fake_envs, tmp_path, monkeypatch, make_config
):
    config, whole = make_config(**FASTER, **RESETS), tmp_path / "whole"
    end = train.run(config, whole)
    (froze,) = (record for record in records(whole) if record["kind"] == "freeze")
    before = pace.updates_due(pace.replay_ratio(0.5), (config.learn_start, 0, 0), froze["env_steps"])
    due = before + pace.updates_due(pace.replay_ratio(2.5), (froze["env_steps"], 0, 0), end["env_steps"])
    cycle = 2 if make_config is tiny_control_config else 1
    assert froze["updates"] == before // cycle * cycle
    assert end["updates"] == updates_in_state(whole) == due // cycle * cycle
    resolved = resolve(config)
    agent = AGENTS[resolved.agent.name].make_agent(resolved, fake_envs[0].action_spec)
    macs = sum(
        updates * flops.paper_macs(learner.passes(), config.agent.batch_size)
        for updates, learner in ((froze["updates"], agent.full), (end["updates"] - froze["updates"], agent.frozen))
    )
    assert end["macs_update"] == macs
    full, frozen = (range(0, count, every) for count, every in ((froze["updates"], 20), (end["updates"], 100)))
    expected = [*full[1:], *(froze["updates"] + i for i in frozen[1:] if froze["updates"] + i <= end["updates"])]
    assert resets(whole) == [math.ceil(i / cycle) * cycle for i in expected]

    steps = config.seer.freeze_step // config.num_envs
    run_killed_after(config, tmp_path / "killed", steps - 10, monkeypatch)
    run_killed_after(config, tmp_path / "killed", steps, monkeypatch, resume=True)
    train.run(config, tmp_path / "killed", resume=True)
    assert_runs_equal(tmp_path / "killed", whole)


def test_fork_with_other_updates_after_the_freeze_equals_the_run_that_had_them_from_the_start(fake_envs, tmp_path):
    cadences = {"checkpoint_every": 0, "checkpoint_at": (150,), "replay__capacity": 400}
    train.run(tiny_config(**cadences, total_steps=220), tmp_path / "trunk")
    config = tiny_config(**cadences, seer__replay_ratio=4, seer__reset_heads_every=300)
    train.run(config, tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@150")
    train.run(config, tmp_path / "direct")
    assert_runs_equal(tmp_path / "fork", tmp_path / "direct")
    froze, end = (record for record in records(tmp_path / "fork") if record["kind"] in ("freeze", "end"))
    assert end["updates"] - froze["updates"] == 4 * (end["env_steps"] - froze["env_steps"])
    assert resets(tmp_path / "fork") == [froze["updates"] + 300, froze["updates"] + 600]


def test_fork_of_a_frozen_run_counts_other_values_from_its_checkpoint_on(fake_envs, tmp_path):
    cadences = {"checkpoint_every": 0, "checkpoint_at": (250,)}
    train.run(tiny_config(**cadences, total_steps=300), tmp_path / "trunk")
    at = checkpoint.read(tmp_path / "trunk" / checkpoint.DIRECTORY, 1).progress
    config = tiny_config(seer__replay_ratio=3, seer__reset_heads_every=100, total_steps=300)
    end = train.run(config, tmp_path / "fork", fork=f"{tmp_path / 'trunk'}@250")
    assert end["updates"] - at["updates"] == 3 * (end["env_steps"] - at["env_steps"])
    assert resets(tmp_path / "fork") == [at["updates"] + 100]


def test_call_of_many_updates_ends_at_a_reset(fake_envs, tmp_path, monkeypatch):
    """As on an accelerator, where updates that are due together share a loop."""
    monkeypatch.setattr(platforms, "NO_LOOPS_OF_UPDATES", ())
    forget_programs()
    config = tiny_config(replay_ratio=4, num_envs=4, agent__reset_heads_every=30, total_steps=160, seer__enabled=False)
    end = train.run(config, tmp_path / "run")
    forget_programs()
    assert end["updates"] == updates_in_state(tmp_path / "run") == 4 * (end["env_steps"] - 80)
    assert resets(tmp_path / "run") == [*range(30, end["updates"] + 1, 30)]
