"""Stacks: what acting builds frame by frame is what sampling rebuilds from rows."""

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import replay
from tests.helpers.rings import FRAME, as_dicts, make_twin, random_rows


def test_pushed_stack_equals_rebuilt_stack():
    spec = replay.RingSpec(num_steps=40, num_envs=3, stack=4, n_step=1, discount=0.9)
    rows, twin = random_rows(np.random.default_rng(1), 3), make_twin(spec)
    push = jax.jit(replay.push_frame)
    stack_frames = jax.jit(jax.vmap(replay.stack_frames, in_axes=1))
    stack, newest = replay.empty_stack((3, *FRAME), 4), []
    assert stack.shape == (3, *FRAME[:2], 4 * FRAME[2])
    for t, row in zip(range(100), rows, strict=False):
        stack = push(stack, row.observation, row.first)
        twin.add(as_dicts(row))
        newest = [*newest[-3:], row]
        if t >= 3:
            expected = [twin.observation(env, t) for env in range(3)]
            np.testing.assert_array_equal(stack, expected)
            frames, first = (np.stack([getattr(row, name) for row in newest]) for name in ("observation", "first"))
            np.testing.assert_array_equal(stack_frames(frames, first), expected)


def test_frames_before_the_start_of_an_episode_are_zero():
    frames = jnp.arange(1, 5, dtype=jnp.uint8).reshape(4, 1, 1, 1)
    for first, expected in (
        ([0, 0, 0, 0], [1, 2, 3, 4]),
        ([1, 0, 0, 0], [1, 2, 3, 4]),
        ([0, 0, 1, 0], [0, 0, 3, 4]),
        ([0, 1, 0, 1], [0, 0, 0, 4]),
    ):
        np.testing.assert_array_equal(replay.stack_frames(frames, jnp.asarray(first, bool)).ravel(), expected)
