"""Environments that several seeds train in, of which some wait."""

import dataclasses

import numpy as np
import pytest

from seer_jax.envs import registry
from seer_jax.envs.timestep import InvalidTimeStepError, TimeStep
from seer_jax.run.resolve import resolve
from seer_jax.run.training_envs import TrainingEnvs
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.placement import Placement
from tests.helpers.runs import tiny_config

SEEDS, ENVS = 3, 2  # environments of each seed
NONE, ALL = np.zeros(SEEDS, bool), np.ones(SEEDS, bool)
POOLS = [4, 9, 5]
ONE = np.ones(1, bool)


def make_envs(config, num_seeds=SEEDS):
    env = registry.make_env(config, training=True, pools=[0] * num_seeds)
    return TrainingEnvs(config, env, Placement(num_seeds), Hosts())


def part(timestep, seed):
    return TimeStep(*(x.reshape(-1, ENVS, *x.shape[1:])[seed] for x in timestep))


def actions(num_seeds):
    return np.zeros(num_seeds * ENVS, int)


def taken_alone(config, pool, at, count):
    """Returns what a run alone puts into its ring, and its episodes; the `at`-th is cut and new ones follow it."""
    envs, taken, episodes = make_envs(config, 1), [], []
    for t in range(count):
        taken.append((envs.take(ONE, cut=ONE & (t == at)), envs.steps_taken[0]))
        if t == at:
            envs.renew([pool])
        else:
            episodes += [(0, *episode[1:]) for episode in envs.step(actions(1), ONE)]
    return taken, episodes


def test_seeds_that_wait_at_random_get_what_they_get_alone(fake_envs):
    config, count, cut_at = resolve(tiny_config(num_envs=ENVS)), 40, [15, 12, 18]
    alone = [
        taken_alone(dataclasses.replace(config, seed=seed), POOLS[seed], cut_at[seed], count) for seed in range(SEEDS)
    ]
    envs, rng, renewed = make_envs(config), np.random.default_rng(0), False
    taken, episodes = [[], [], []], [[], [], []]
    while min(map(len, taken)) < count:
        done = np.array([len(each) for each in taken])
        at_cut = done == cut_at
        running = (rng.random(SEEDS) < 0.6) & (done < count) & (renewed | (done <= cut_at))
        arrived, steps = envs.take(running, cut=running & at_cut), envs.steps_taken
        for seed in np.flatnonzero(running):
            taken[seed].append((part(arrived, seed), steps[seed]))
        if (running & ~at_cut).any():
            before = envs.timestep
            for seed, *episode in envs.step(actions(SEEDS), running & ~at_cut):
                episodes[seed].append((0, *episode))
            for seed in np.flatnonzero(~running):
                for old, new in zip(part(before, seed), part(envs.timestep, seed), strict=True):
                    np.testing.assert_array_equal(old, new)
        if not renewed and all(len(each) > at for each, at in zip(taken, cut_at, strict=True)):
            envs.renew(POOLS)
            renewed = True
    assert renewed
    for seed, (expected, expected_episodes) in enumerate(alone):
        assert len(expected_episodes) > 3
        assert episodes[seed] == expected_episodes
        for (one, steps), (other, expected_steps) in zip(taken[seed], expected, strict=True):
            assert steps == expected_steps
            for x, y in zip(one, other, strict=True):
                np.testing.assert_array_equal(x, y)


def test_resets_are_no_steps_and_those_of_a_seed_that_waits_stay(fake_envs):
    envs = make_envs(resolve(tiny_config(num_envs=ENVS)))  # episodes of 7 and 12, 12 and 5, 5 and 9 steps
    assert envs.steps_taken.tolist() == [0, 0, 0]
    for _ in range(6):
        list(envs.step(actions(SEEDS), ALL))
    assert envs.steps_taken.tolist() == [2, 1, 1]
    running = np.array([True, False, True])
    list(envs.step(actions(SEEDS), running))
    assert envs.steps_taken.tolist() == [2, 1, 2]
    list(envs.step(actions(SEEDS), running))
    assert envs.steps_taken.tolist() == [1, 1, 2]


def test_environments_are_untouched_until_the_first_arrival_of_their_seed_is_taken(fake_envs):
    envs = make_envs(resolve(tiny_config(num_envs=ENVS)))
    running = np.array([True, False, True])
    envs.take(running, cut=NONE)
    assert envs.untouched.tolist() == [False, True, False]
    list(envs.step(actions(SEEDS), running))
    assert envs.untouched.tolist() == [False, True, False]
    envs.renew(POOLS)
    assert envs.untouched.all()


def test_cut_ends_the_episodes_of_its_seed_alone(fake_envs):
    envs = make_envs(resolve(tiny_config(num_envs=ENVS)))
    list(envs.step(actions(SEEDS), ALL))
    taken = envs.take(ALL, cut=np.array([False, True, False]))
    assert taken.last.tolist() == taken.truncated.tolist() == [False, False, True, True, False, False]


def test_invalid_values_of_a_seed_that_waits_are_ignored_and_others_raise(fake_envs, monkeypatch):
    envs = make_envs(resolve(tiny_config(num_envs=ENVS)))
    env, running = fake_envs[0].envs[1], np.array([True, False, True])
    list(envs.step(actions(SEEDS), running))  # with rewards that are not a number for the seed that waits
    step_some = env.step_some
    monkeypatch.setattr(env, "step_some", lambda *args: step_some(*args)._replace(reward=np.full(ENVS, np.inf)))
    with pytest.raises(InvalidTimeStepError, match="not finite"):
        envs.step(actions(SEEDS), ALL)
