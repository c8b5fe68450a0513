"""Evaluation plays one whole episode in each environment."""

import jax
import numpy as np

from seer_jax import evaluate
from seer_jax.agents import base
from tests.helpers.fake_env import FakeEnv


def brightest_agent():
    """Its latent is the newest pixel of the oldest and newest frame; it acts by the former."""
    return base.Agent(
        init=None,
        view=lambda obs: obs,
        augment=None,
        encode=lambda params, views: views[:, None, -1, -1, :].astype(np.float32),
        act=None,
        act_eval=lambda params, latents, key: latents[:, 0, 0].astype(np.int32),
        updates=(),
        latent_updates=(),
        passes=None,
        has_convolution=False,
        latent_has_convolution=False,
        freeze=None,
    )


def test_each_environment_counts_one_episode_however_short():
    env = FakeEnv([3, 11, 7], training=False)
    frames, actions, step = [], [], env.step
    env.step = lambda action: (actions.append(action), step(action))[1]
    act = evaluate.make_act(brightest_agent())
    played = evaluate.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2, frames=frames)
    np.testing.assert_array_equal(played.lengths, [3, 11, 7])
    np.testing.assert_array_equal(played.scores, [30, 110, 70])
    assert len(frames) == 3  # of the first environment, until its episode ends
    # Acting on the older of two frames: black before the first, then the frame before.
    np.testing.assert_array_equal(np.stack(actions)[:3, 1], [0, 31, 38])


def test_evaluating_again_starts_anew():
    env = FakeEnv([5], training=False)
    act = evaluate.make_act(brightest_agent())
    for _ in range(2):
        played = evaluate.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2)
        assert played.lengths.tolist() == [5]
    assert act._cache_size() == 1
