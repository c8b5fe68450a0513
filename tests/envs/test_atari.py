"""Real games behind `TimeStep`."""

import dataclasses
import functools

import envpool
import jax
import numpy as np
import pytest

from seer_jax import replay
from seer_jax.envs import atari, atari_scores, registry

RAW_SIZE = {"img_height": 210, "img_width": 160}
SEER, MACHADO = atari.PROTOCOLS["seer"], atari.PROTOCOLS["machado"]


def make(task="breakout", *, num_envs=2, seed=0, protocol=SEER, training=True, image_size=84, action_repeat=4, **items):
    protocol = dataclasses.replace(protocol, **items)
    return atari.AtariEnv(
        task,
        seeds=registry.environment_seeds(seed, num_envs, training=training, pool=0),
        protocol=protocol,
        image_size=image_size,
        action_repeat=action_repeat,
        training=training,
    )


def make_unscaled(monkeypatch, **arguments):
    """Returns the same environments with images as the console draws them, `[E, 210, 160, 1]`."""
    make_pool = envpool.make_gymnasium
    with monkeypatch.context() as patch:
        patch.setattr(envpool, "make_gymnasium", lambda *args, **items: make_pool(*args, **items | RAW_SIZE))
        return make(**arguments)


def interpolation(size, out_size, resize):
    """Returns the weight of each of `size` pixels in each of `out_size`, along one axis."""
    weights, scale = np.zeros((out_size, size)), size / out_size
    for i in range(out_size):
        if resize == "area":
            edges = np.clip([i * scale, (i + 1) * scale], np.arange(size)[:, None], np.arange(1, size + 1)[:, None])
            weights[i] = (edges[:, 1] - edges[:, 0]) / scale
        else:
            centre = (i + 0.5) * scale - 0.5
            left = int(np.floor(centre))
            for pixel, share in ((left, left + 1 - centre), (left + 1, centre - left)):
                weights[i, np.clip(pixel, 0, size - 1)] += share
    return weights


def scale(images, size, resize):
    """Scales `[..., H, W]` images to `[..., size, size]`, not rounded."""
    rows, columns = (interpolation(length, size, resize) for length in images.shape[-2:])
    return rows @ images.astype(np.float64) @ columns.T


def rollout(env, steps, policy=None):
    """Steps with uniformly random actions and returns all TimeSteps stacked, `[T, E, ...]`."""
    rng = np.random.default_rng(0)
    policy = policy or (lambda: rng.integers(0, env.action_spec.num_values, env.num_envs))
    all_steps = [env.reset()] + [env.step(policy()) for _ in range(steps)]
    env.close()
    return atari.timestep.TimeStep(*(np.stack(field) for field in zip(*all_steps, strict=True)))


def test_timesteps_have_their_shapes_and_types_and_only_the_reset_is_first():
    env = make(num_envs=3, image_size=42)
    steps = rollout(env, 5)
    assert steps.frame.shape == (6, 3, 42, 42, 1)
    assert steps.frame.dtype == np.uint8
    assert steps.reward.dtype == steps.score.dtype == np.float32
    assert all(field.dtype == bool for field in steps[3:])
    assert steps.first[0].all()
    assert not steps.first[1:].any()


def test_life_loss_terminates_without_ending_the_episode():
    steps = rollout(make(), 800)
    lost = steps.terminated & ~steps.last
    assert lost.sum() >= 8
    for env in range(2):
        ends = np.flatnonzero(steps.last[:, env])
        lives = np.split(lost[:, env], ends + 1)[:-1]
        assert all(life.sum() == 4 for life in lives)  # five lives: four are lost before the game is
        assert steps.terminated[ends, env].all()
        np.testing.assert_array_equal(
            np.flatnonzero(steps.first[:, env]), [0, *(ends + 1)][: steps.first[:, env].sum()]
        )


def test_evaluation_terminates_with_the_game_and_does_not_clip_rewards():
    steps = rollout(make(training=False), 800)
    np.testing.assert_array_equal(steps.terminated, steps.last)
    np.testing.assert_array_equal(steps.reward, steps.score)


def test_reset_timesteps_have_no_reward_and_no_end():
    steps = rollout(make(), 800)
    assert steps.first[1:].any()
    assert not steps.score[steps.first].any()
    assert not (steps.terminated | steps.last)[steps.first].any()


def test_rewards_are_clipped_in_training_and_scores_are_not():
    steps = rollout(make("krull"), 300)
    assert steps.score.max() > 1
    np.testing.assert_array_equal(steps.reward, np.clip(steps.score, -1, 1))
    unclipped = rollout(make("krull", clip_rewards=False), 300)
    np.testing.assert_array_equal(unclipped.reward, unclipped.score)


def test_step_limit_truncates_and_does_not_terminate():
    steps = rollout(make("pong", max_episode_steps=30), 100)
    assert steps.truncated.any()
    np.testing.assert_array_equal(steps.truncated, steps.last)
    assert not steps.terminated.any()
    assert np.flatnonzero(steps.last[:, 0]).tolist() == [30, 61, 92]  # the reset takes a step of its own


def test_machado_protocol_offers_all_actions_and_ignores_lives():
    seer, machado = make("pong"), make("pong", protocol=MACHADO)
    assert (seer.action_spec.num_values, machado.action_spec.num_values) == (6, 18)
    steps = rollout(make("breakout", protocol=MACHADO), 400)
    assert not (steps.terminated & ~steps.last).any()


def test_sticky_actions_make_equal_action_sequences_diverge():
    def frames(sticky_prob):
        steps = rollout(make("pong", num_envs=2, sticky_prob=sticky_prob, noop_max=1), 60, lambda: np.array([2, 2]))
        return steps.frame

    steady, sticky = frames(0.0), frames(0.5)
    np.testing.assert_array_equal(steady[:, 0], steady[:, 1])
    assert not np.array_equal(sticky[:, 0], sticky[:, 1])


def test_environments_of_a_run_of_other_seeds_and_of_evaluation_all_differ():
    def starts(**kwargs):
        steps = rollout(make("ms_pacman", num_envs=4, **kwargs), 40, lambda: np.zeros(4, int))
        return [steps.frame[:, env].tobytes() for env in range(4)]

    first = starts(seed=0)
    everything = first + starts(seed=1) + starts(seed=0, training=False)
    assert len(set(everything)) > 9  # 30 no-op counts: some may agree, a shared seed would halve them
    assert starts(seed=0) == first


@pytest.mark.parametrize("name", ["ms_pacman", "MsPacman", "MsPacman-v5"])
def test_usual_names_of_a_game_give_its_name(name):
    assert atari.game_name(name) == "ms_pacman"


def test_unknown_game_raises_key_error():
    with pytest.raises(KeyError):
        atari.game_name("walker-walk")


def test_human_normalized_score_is_zero_for_random_play_and_one_for_humans():
    assert set(atari_scores.REFERENCE_SCORES) <= set(atari.games())
    assert atari_scores.human_normalized("krull", 1598.0) == 0.0
    assert atari_scores.human_normalized("krull", 2665.5) == 1.0
    assert atari_scores.human_normalized("adventure", 1.0) is None


def test_every_executed_step_and_nothing_else_is_sampleable():
    """Sampleable rows of finished episodes count as many as the agent steps in them."""
    env = make("pong", num_envs=2, image_size=30, max_episode_steps=25)
    steps = rollout(env, 110)
    spec = replay.RingSpec(num_steps=120, num_envs=2, stack=4, n_step=20, discount=0.99)
    rows = [
        replay.Rows(s.frame, np.zeros(2, np.int32), s.reward, s.terminated, s.last, s.first)
        for s in (atari.timestep.TimeStep(*(field[t] for field in steps)) for t in range(111))
    ]
    ring = replay.init(spec, rows[0])
    add = jax.jit(functools.partial(replay.add, spec))
    for row in rows:
        ring = add(ring, row)
    ends = [np.flatnonzero(steps.last[:, env])[-1] for env in range(2)]
    executed = sum(int((~steps.first[: end + 1, env]).sum()) for env, end in enumerate(ends))
    unfinished = sum(max(0, 110 - (end + 1) - 20 + 1) for end in ends)  # starts with a full window behind them
    _, priorities = replay.read(spec, ring, 0, 111)
    assert int((priorities > 0).sum()) == executed + unfinished


@pytest.mark.parametrize(("protocol", "resize"), [("seer", "linear"), ("machado", "area")])
def test_image_is_the_maximum_of_two_frames_scaled_as_the_protocol_says(monkeypatch, protocol, resize):
    arguments = {"task": "krull", "protocol": atari.PROTOCOLS[protocol]}
    images, unscaled = rollout(make(**arguments), 60).frame, rollout(make_unscaled(monkeypatch, **arguments), 60).frame
    expected = {name: scale(unscaled[..., 0], 84, name) for name in atari.RESIZES}
    assert np.abs(images[..., 0] - expected.pop(resize)).max() < 1.01  # a level: the emulator's package rounds
    (other,) = expected.values()
    assert np.abs(images[..., 0] - other).max() > 20


def test_few_pixels_differ_from_frames_that_are_scaled_before_their_maximum(monkeypatch):
    """The order of the official code; with areas instead, a tenth of the pixels would differ."""
    unscaled = make_unscaled(monkeypatch, task="krull", action_repeat=1)
    envs, rng = [unscaled, *(make("krull", resize=resize) for resize in atari.RESIZES)], np.random.default_rng(0)
    for env in envs:
        env.reset()
    differing = dict.fromkeys(atari.RESIZES, 0.0)
    for _ in range(60):
        action = rng.integers(0, unscaled.action_spec.num_values, 2)
        frames = np.stack([unscaled.step(action).frame[..., 0] for _ in range(4)])[2:]
        official = np.rint(scale(frames, 84, "linear")).max(axis=0)
        for resize, env in zip(atari.RESIZES, envs[1:], strict=True):
            differing[resize] += np.mean(np.abs(env.step(action).frame[..., 0] - official) > 1) / 60
    print("share of pixels that differ by more than a level:", differing)
    assert differing["linear"] < 0.003
    assert differing["area"] > 0.05
