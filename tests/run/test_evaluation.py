"""Evaluation plays one whole episode in each environment."""

import dataclasses

import jax
import numpy as np
import pytest

from seer_jax import envs
from seer_jax.agents import base
from seer_jax.config import EnvConfig
from seer_jax.envs import atari, dmc, timestep
from seer_jax.envs.gymnasium_suite import GymnasiumEnv
from seer_jax.run import evaluation
from tests.docs.test_tutorial import Counter
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
        full=None,
        frozen=None,
        freeze=None,
    )


@pytest.mark.parametrize(("first_stack", "before_first"), [("black", 0), ("repeat", 31)])
def test_each_environment_counts_one_episode_however_short(first_stack, before_first):
    env = FakeEnv([3, 11, 7], training=False)
    frames, actions, step = [], [], env.step
    env.step = lambda action: (actions.append(action), step(action))[1]
    act = evaluation.make_act(brightest_agent(), first_stack=first_stack)
    played = evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2, frames=frames)
    np.testing.assert_array_equal(played.lengths, [3, 11, 7])
    np.testing.assert_array_equal(played.scores, [30, 110, 70])
    assert len(frames) == 3  # of the first environment, until its episode ends
    # Acting on the older of two frames: what stands before the first, then the frame before.
    np.testing.assert_array_equal(np.stack(actions)[:3, 1], [before_first, 31, 38])


class PartialEnv(FakeEnv):
    """Counts the steps of each environment; the arrivals of those that are not stepped are noise."""

    def reset(self):
        self.steps = np.zeros(self.num_envs, int)
        return super().reset()

    def step_some(self, action, running):
        self.steps += running
        sent, rng = self.step(action), np.random.default_rng(self._step)

        def noisy(x):
            keep = running.reshape(-1, *[1] * (x.ndim - 1))
            return np.where(keep, x, rng.integers(0, 2, x.shape).astype(x.dtype))

        return timestep.TimeStep(*map(noisy, sent))


def test_environments_whose_episodes_have_ended_are_not_stepped_and_scores_are_the_same():
    agent = brightest_agent()._replace(
        encode=lambda params, views: views.mean(axis=(1, 2))[:, None],
        act_eval=lambda params, latents, key: (
            (latents[:, 0, 0] + 99 * jax.random.uniform(key, (3,))).astype(np.int32) % 3
        ),
    )
    act, results = evaluation.make_act(agent, first_stack="black"), []
    for env_class in (FakeEnv, PartialEnv):
        env, actions = env_class([3, 11, 7], training=False), []
        step = env.step
        env.step = lambda action, step=step, actions=actions: (actions.append(action), step(action))[1]
        played = evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2)
        results.append((*played, [[a[i] for a in actions[:length]] for i, length in enumerate(played.lengths)]))
    assert env.steps.tolist() == [3, 11, 7]
    assert results[0][3] == results[1][3]
    jax.tree.map(np.testing.assert_array_equal, results[0][:3], results[1][:3])
    assert results[0][2].all()  # the first episode of a FakeEnv is truncated


def make_atari():
    protocol = dataclasses.replace(atari.PROTOCOLS["machado"], max_episode_steps=6)
    return atari.AtariEnv(
        "breakout", num_envs=3, seed=0, protocol=protocol, image_size=42, action_repeat=4, training=False
    )


def make_dmc(backend):
    arguments = {"image_size": 32, "action_repeat": 250, "camera_id": 0, "training": False, "render_quality": "fast"}
    return dmc.DmcEnv("cartpole-swingup", num_envs=3, seed=0, backend=backend, **arguments)


@pytest.mark.parametrize("suite", ["atari", *dmc.BACKENDS, "gymnasium"])
def test_environments_stepped_alone_send_what_they_send_together(suite):
    """Environments stop one by one; the others go on as if all were stepped, through ends and starts of episodes."""
    if suite in dmc.BACKENDS and not envs.HAS_EGL:
        pytest.skip("this machine has no EGL to render with")
    if suite == "dm_control":
        pytest.importorskip("dm_control")  # not among the pins for Python 3.13
    makes = {"atari": make_atari, "gymnasium": lambda: GymnasiumEnv(lambda: Counter(8), [3, 8, 4])}
    alone, together = (makes.get(suite, lambda: make_dmc(suite))() for _ in range(2))
    alone.reset(), together.reset()
    rng, ends = np.random.default_rng(0), {0: 5, 1: 16, 2: 9}
    for t in range(16):
        running = np.array([t < ends[i] for i in range(3)])
        spec = alone.action_spec
        action = rng.integers(0, 3, 3) if spec.dtype == np.int32 else rng.uniform(-1, 1, (3, *spec.shape))
        for one, other in zip(alone.step_some(action, running), together.step(action), strict=True):
            np.testing.assert_array_equal(one[running], other[running])
    alone.close(), together.close()


def test_evaluation_that_is_asked_to_stop_takes_no_further_step():
    env, act = FakeEnv([5, 9], training=False), evaluation.make_act(brightest_agent(), first_stack="black")
    answers = iter([False, False, True])
    with pytest.raises(evaluation.EvaluationStopped):
        evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2, stop=lambda: next(answers))
    assert env._step == 2


@pytest.mark.parametrize(
    ("task", "lengths", "truncated", "normalized", "reason"),
    [
        ("krull", [100, 27_000], [False, True], 1.0, ""),
        ("krull", [100, 26_999], [False, True], None, "1 of 2 episodes were truncated after fewer than 27,000"),
        ("adventure", [100, 100], [True, True], None, ""),
    ],
)
def test_score_of_episodes_cut_short_is_not_normalized(task, lengths, truncated, normalized, reason):
    played = evaluation.Episodes(np.full(2, 2665.5), np.array(lengths), np.array(truncated))
    env = EnvConfig(suite="atari", task=task, action_repeat=4)
    result = evaluation.human_normalized(env, played)
    assert result[0] == normalized
    assert reason in result[1]
    assert bool(reason) == bool(result[1])


def test_second_evaluation_starts_anew_and_compiles_nothing():
    env = FakeEnv([5], training=False)
    act = evaluation.make_act(brightest_agent(), first_stack="black")
    for _ in range(2):
        played = evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2)
        assert played.lengths.tolist() == [5]
    assert act._cache_size() == 1


def test_each_step_of_an_evaluation_has_a_key_of_its_own():
    drawn = []

    def act_eval(params, latents, key):
        jax.debug.callback(lambda k: drawn.append(k.tobytes()), key)
        return latents[:, 0, 0].astype(np.int32)

    act = evaluation.make_act(brightest_agent()._replace(act_eval=act_eval), first_stack="black")
    for seed in (0, 0, 1):
        evaluation.play(act, {}, FakeEnv([4], training=False), jax.random.PRNGKey(seed), frame_stack=1)
    jax.effects_barrier()
    assert drawn[:4] == drawn[4:8]
    assert len(set(drawn)) == 8
