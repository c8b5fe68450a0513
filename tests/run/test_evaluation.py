"""Evaluation plays one whole episode in each environment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax.agents import base
from seer_jax.config import EnvConfig
from seer_jax.envs import registry
from seer_jax.run import evaluation
from seer_jax.run.resolve import resolve
from tests.helpers import fake_env
from tests.helpers.fake_env import FakeEnv
from tests.helpers.runs import tiny_config


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
    frames, actions, step_some = [], [], env.step_some
    env.step_some = lambda action, running: (actions.append(action), step_some(action, running))[1]
    act = evaluation.make_act(brightest_agent(), first_stack=first_stack)
    (played,) = evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2, frames=frames)
    np.testing.assert_array_equal(played.lengths, [3, 11, 7])
    np.testing.assert_array_equal(played.scores, [30, 110, 70])
    assert len(frames) == 3  # of the first environment, until its episode ends
    # Acting on the older of two frames: what stands before the first, then the frame before.
    np.testing.assert_array_equal(np.stack(actions)[:3, 1], [before_first, 31, 38])


def test_environments_whose_episodes_have_ended_are_not_stepped_and_do_not_count():
    env = FakeEnv([3, 11, 7], training=False)  # sends values that would count if they were used
    act = evaluation.make_act(brightest_agent(), first_stack="black")
    (played,) = evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2)
    assert env.steps.tolist() == [3, 11, 7]
    assert played.scores.tolist() == [30, 110, 70]
    assert played.truncated.all()  # the first episode of a FakeEnv is truncated


def integer_agent():
    """Acts by a key and by sums of pixels with integer weights, which are exact in whatever order they are added."""
    return brightest_agent()._replace(
        encode=lambda params, views: jnp.einsum("nhwk,hwk->n", views.astype(jnp.float32), params)[:, None, None],
        act_eval=lambda params, latents, key: (
            (latents[:, 0, 0].astype(np.int32) + jax.random.randint(key, (len(latents),), 0, 4)) % 4
        ),
    )


def assert_seeds_play_together_what_they_play_alone(config, env_steps):
    """Compares the evaluations of the seeds from `config.seed` on, each with other parameters; returns one of each."""
    agent, num_seeds = integer_agent(), len(env_steps)
    params = np.random.default_rng(0).integers(0, 4, (num_seeds, *registry.view_shape(config.env))).astype(np.float32)
    keys = jnp.stack([jax.random.PRNGKey(seed) for seed in range(num_seeds)])
    acts = [evaluation.make_act(agent, first_stack="repeat", map_seeds=over) for over in (lambda act: act, jax.vmap)]
    together = evaluation.play_new(config, acts[1], params, keys, env_steps=env_steps, stop=lambda: False)
    for i, played in enumerate(together):
        own, place = dataclasses.replace(config, seed=config.seed + i), dict(env_steps=env_steps[i : i + 1])
        (alone,) = evaluation.play_new(own, acts[0], params[i], keys[i], **place, stop=lambda: False)
        jax.tree.map(np.testing.assert_array_equal, alone, played)
    return together


class ScoringEnv(FakeEnv):
    """Scores the actions."""

    def step_some(self, action, running):
        sent = super().step_some(action, running)
        return sent._replace(score=sent.score + action)


def test_seeds_that_are_evaluated_together_play_what_they_play_alone(fake_envs, monkeypatch):
    monkeypatch.setattr(fake_env, "FakeEnv", ScoringEnv)
    config = resolve(tiny_config(seed=5, eval_episodes=2))
    played = assert_seeds_play_together_what_they_play_alone(config, env_steps=[40, 41, 40])
    assert [each.lengths.tolist() for each in played] == [[12, 5], [5, 9], [9, 7]]
    assert len({tuple(each.scores / each.lengths) for each in played}) == 3


def test_seeds_that_are_evaluated_together_play_a_real_game_as_alone():
    config = resolve(tiny_config(eval_episodes=2, env__task="breakout", env__max_episode_steps=200))
    played = assert_seeds_play_together_what_they_play_alone(config, env_steps=[0, 300, 200])
    assert len({length for each in played for length in each.lengths}) > 3


def test_evaluation_that_is_asked_to_stop_takes_no_further_step():
    env, act = FakeEnv([5, 9], training=False), evaluation.make_act(brightest_agent(), first_stack="black")
    answers = iter([False, False, True])
    with pytest.raises(evaluation.EvaluationStopped):
        evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2, stop=lambda: next(answers))
    assert env.steps.tolist() == [2, 2]


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
        (played,) = evaluation.play(act, {}, env, jax.random.PRNGKey(0), frame_stack=2)
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
