"""Environments of which some are not stepped for a time, in every suite."""

import dataclasses

import numpy as np
import pytest

from seer_jax import envs
from seer_jax.envs import atari, dmc
from seer_jax.envs.gymnasium_suite import GymnasiumEnv
from tests.docs.test_tutorial import Counter

SEEDS = [3, 8, 4]


def make_atari():
    protocol = dataclasses.replace(atari.PROTOCOLS["seer"], max_episode_steps=110)
    return atari.AtariEnv("breakout", seeds=SEEDS, protocol=protocol, image_size=42, action_repeat=4, training=True)


def make_dmc(backend):
    arguments = {"image_size": 32, "action_repeat": 250, "camera_id": 0, "render_quality": "fast"}
    return dmc.DmcEnv("cartpole-swingup", seeds=SEEDS, backend=backend, **arguments)


# How to make environments, and a number of steps in which episodes end and begin.
SUITES = {
    "atari": (make_atari, 300),
    "envpool": (lambda: make_dmc("envpool"), 11),
    "dm_control": (lambda: make_dmc("dm_control"), 11),
    "gymnasium": (lambda: GymnasiumEnv(lambda: Counter(8), SEEDS), 30),
}


@pytest.mark.parametrize("suite", SUITES)
def test_environments_that_were_paused_send_what_they_send_without_pauses(suite):
    """They pause at random, and always before and after ends of episodes, their starts and the loss of lives."""
    if suite in dmc.BACKENDS and not envs.HAS_EGL:
        pytest.skip("this machine has no EGL to render with")
    if suite == "dm_control":
        pytest.importorskip("dm_control")  # not among the pins for Python 3.13
    (make, count), rng, num_envs = SUITES[suite], np.random.default_rng(0), len(SEEDS)
    steady, paused = make(), make()
    spec = steady.action_spec
    shape = (count, num_envs, *spec.shape)
    actions = rng.integers(0, 3, shape) if spec.dtype == np.int32 else rng.uniform(-1, 1, shape)
    steady.reset()
    expected = [steady.step(action) for action in actions]
    event = np.stack([step.last | step.first | step.terminated for step in expected])
    assert event.any(axis=0).all()
    assert suite != "atari" or sum((step.terminated & ~step.last).sum() for step in expected) > 5
    pauses = rng.integers(0, 3, event.shape) * rng.integers(0, 2, event.shape)  # before each step, in steps
    pauses = np.maximum(pauses, event | np.roll(event, 1, axis=0))
    done, lanes = np.zeros(num_envs, int), np.arange(num_envs)
    paused.reset()
    while (done < count).any():
        now = np.minimum(done, count - 1)  # number of the next step of each environment
        running = (pauses[now, lanes] == 0) & (done < count)
        pauses[now, lanes] -= ~running
        if not running.any():
            continue
        sent = paused.step_some(actions[now, lanes], running)
        for lane in np.flatnonzero(running):
            for field, wanted in zip(sent, expected[now[lane]], strict=True):
                np.testing.assert_array_equal(field[lane], wanted[lane])
        done += running
    steady.close(), paused.close()
