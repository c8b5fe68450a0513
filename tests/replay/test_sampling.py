"""Sampled transitions against the naive twin, and properties of sampling that the twin cannot show."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_jax import replay
from tests.helpers.rings import FRAME, add_program, build, empty_ring, random_rows, sample_at, sampleable_starts

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("n_step", "stack", "num_envs", "first_stack", "frame_shape"),
    [
        (1, 1, 1, "black", (8, 8, 2)),  # as many bytes as a tile has lanes
        (3, 4, 3, "black", FRAME),
        (20, 4, 1, "black", (12, 11, 1)),  # some more
        (20, 1, 2, "black", FRAME),
        (3, 4, 2, "repeat", FRAME),
    ],
)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20), wraps=st.sampled_from([0.4, 1.0, 3.3]))
def test_every_transition_equals_the_twin(n_step, stack, num_envs, first_stack, frame_shape, seed, wraps):
    num_steps = n_step + stack + 13
    spec = replay.RingSpec(num_steps, num_envs, stack, n_step, discount=0.9, first_stack=first_stack)
    rows = random_rows(np.random.default_rng(seed), num_envs, frame_shape)
    ring, twin = build(spec, rows, int(wraps * num_steps), frame_shape)
    expected = twin.transitions()
    assert sampleable_starts(spec, ring) == set(expected)
    for got, want in zip(sample_at(spec, ring, expected), expected.values(), strict=True):
        obs, action, reward, discount, next_obs = want
        np.testing.assert_array_equal(got.obs, obs)
        assert got.action == action
        np.testing.assert_allclose(got.reward, reward, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got.discount, discount, rtol=1e-5)
        np.testing.assert_array_equal(got.next_obs, next_obs)


def test_clipped_rewards_are_summed_and_not_clipped_again():
    """Three rewards of 5, clipped to 1 each before they are stored, make 3 and not 1."""
    spec = replay.RingSpec(num_steps=10, num_envs=1, stack=1, n_step=3, discount=1.0)
    false = np.zeros(1, bool)
    reward = np.clip(np.float32([5]), -1, 1)
    frame = np.zeros((1, *FRAME), np.uint8)
    rows = (replay.Rows(frame, np.int32([0]), reward, false, false, false | (t == 0)) for t in range(6))
    ring, _ = build(spec, rows, 6)
    (got,) = sample_at(spec, ring, [(0, 1)])
    assert got.reward == 3.0


@pytest.mark.parametrize("n_step", [1, 3, 20])
def test_returns_of_powers_of_ten_hold_the_digits_of_their_window(n_step):
    """Reward 10**-t at time t and gamma 1: the digits of a return are the rewards in it."""
    spec = replay.RingSpec(num_steps=40, num_envs=1, stack=1, n_step=n_step, discount=1.0)

    def rows():
        for t in range(8):
            false = np.zeros(1, bool)
            yield replay.Rows(
                np.zeros((1, *FRAME), np.uint8),
                np.zeros(1, np.int32),
                np.float32([10.0**-t]),
                false | (t == 7),
                false | (t == 7),
                false | (t == 0),
            )

    ring, _ = build(spec, rows(), 8)
    starts = [(0, t) for t in range(7)]  # the last n - 1 starts of the episode are there too
    assert sampleable_starts(spec, ring) == set(starts)
    for (_, t), got in zip(starts, sample_at(spec, ring, starts), strict=True):
        steps = min(n_step, 7 - t)
        np.testing.assert_allclose(got.reward, sum(10.0**-i for i in range(t + 1, t + steps + 1)), rtol=1e-6)
        assert got.discount == (0.0 if t + steps == 7 else 1.0)


@pytest.mark.parametrize("capacity", [25, 26, 31])
def test_windows_lead_n_steps_forward_over_several_wraps(capacity):
    """Frame t holds t: stacks hold consecutive numbers and windows lead n forward, wherever the ring wraps."""
    spec = replay.RingSpec(num_steps=capacity, num_envs=1, stack=4, n_step=20, discount=0.9)
    false = np.zeros(1, bool)
    ring = empty_ring(spec, (1, 1, 1), np.int32)
    sample = jax.jit(functools.partial(replay.sample, spec, batch_size=64))
    for t in range(5 * capacity):
        frame = np.full((1, 1, 1, 1), t + 1, np.int32)
        row = replay.Rows(frame, np.int32([t]), np.float32([0]), false, false, false | (t == 0))
        ring = add_program(spec)(ring, row)
        if t > capacity:
            batch = sample(ring, jax.random.fold_in(jax.random.PRNGKey(0), t))
            np.testing.assert_array_equal(np.diff(np.asarray(batch.obs)[:, 0, 0]), np.ones((64, 3), np.int32))
            np.testing.assert_array_equal(batch.next_obs - batch.obs, 20)


def test_copies_of_both_ends_of_a_window_are_drawn_independently():
    spec = replay.RingSpec(num_steps=30, num_envs=1, stack=0, n_step=1, discount=0.9)
    rows = random_rows(np.random.default_rng(0), 1, (2, 1, 1), np.float32, end_prob=0)
    ring = empty_ring(spec, (2, 1, 1), np.float32)
    copies = np.arange(2, dtype=np.float32).reshape(1, 2, 1, 1)
    for _, row in zip(range(10), rows, strict=False):
        ring = add_program(spec)(ring, row.replace(observation=copies))
    batch = jax.jit(functools.partial(replay.sample, spec, batch_size=2000))(ring, jax.random.PRNGKey(0))
    pairs = 2 * np.asarray(batch.obs).ravel() + np.asarray(batch.next_obs).ravel()
    counts = np.bincount(pairs.astype(int), minlength=4)
    assert counts.min() > 400, counts
