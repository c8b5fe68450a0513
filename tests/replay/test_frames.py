"""Stacks: what acting builds frame by frame is what sampling rebuilds from rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import replay
from seer_jax.config import FIRST_STACKS
from tests.helpers.rings import FRAME, as_dicts, make_twin, random_rows


@pytest.mark.parametrize("first_stack", FIRST_STACKS)
def test_pushed_stack_equals_rebuilt_stack(first_stack):
    spec = replay.RingSpec(num_steps=40, num_envs=3, stack=4, n_step=1, discount=0.9, first_stack=first_stack)
    rows, twin = random_rows(np.random.default_rng(1), 3), make_twin(spec)
    push = jax.jit(functools.partial(replay.push_frame, first_stack=first_stack))
    stack_frames = jax.jit(jax.vmap(functools.partial(replay.stack_frames, first_stack=first_stack), in_axes=1))
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


@pytest.mark.parametrize(
    ("first", "black", "repeat"),
    [
        ([0, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4]),
        ([0, 0, 1, 0], [0, 0, 3, 4], [3, 3, 3, 4]),
        ([0, 1, 0, 1], [0, 0, 0, 4], [4, 4, 4, 4]),
    ],
)
def test_frames_before_the_start_of_an_episode_are_zero_or_its_first_frame(first, black, repeat):
    frames = jnp.arange(1, 5, dtype=jnp.uint8).reshape(4, 1, 1, 1)
    for first_stack, expected in (("black", black), ("repeat", repeat)):
        stack = replay.stack_frames(frames, jnp.asarray(first, bool), first_stack=first_stack)
        np.testing.assert_array_equal(stack.ravel(), expected)
