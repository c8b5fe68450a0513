"""Priorities: sampling in proportion to them, their weights, and what changes them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_jax import replay
from seer_jax.replay import priorities
from tests.helpers.rings import add_program, build, empty_ring, priorities_by_slot, random_rows

pytestmark = pytest.mark.numeric

_pick = jax.jit(priorities._pick)


def assert_sums(index):
    """Asserts that each level holds the sums of the blocks of the level before it, and nothing else."""
    for below, level in itertools.pairwise(map(np.asarray, index.sums)):
        np.testing.assert_allclose(level.ravel()[: len(below)], below.sum(axis=1), rtol=1e-6)
        assert not level.ravel()[len(below) :].any()
    assert not index.sums[-1][1:].any()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_same_priorities_give_the_same_draws_in_rings_of_any_size(seed):
    """Priorities of rings that need one, two, three and four levels, bit for bit, while losses are fed back."""
    drawn = []
    for index in map(_empty_index, (100, 10_000, 100_000, 3_000_000)):
        rng, starts = np.random.default_rng(seed), np.arange(100)
        for i in range(3):
            index = _set(index, starts, rng.random(len(starts)).astype(np.float32))
            starts, priority = _draw(index, jax.random.PRNGKey(i))
        drawn.append((starts, priority))
    for other in drawn[1:]:
        jax.tree.map(np.testing.assert_array_equal, drawn[0], other)


def _empty_index(capacity):
    zero = jnp.int32(0)
    return replay.Index(written=zero, sums=priorities.zero_sums(capacity), max_priority=jnp.float32(1))


_set = jax.jit(priorities.set_priorities)
_draw = jax.jit(functools.partial(priorities.draw_starts, batch_size=100))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_all_priorities_set_at_once_give_the_sums_of_single_updates(seed):
    spec = replay.RingSpec(num_steps=40, num_envs=10, stack=1, n_step=1, discount=0.9, prioritized=True)
    index = empty_ring(spec).index
    leaves = jax.random.uniform(jax.random.PRNGKey(seed), (spec.capacity,))
    single, order = jax.jit(priorities.set_priorities), np.random.default_rng(seed).permutation(spec.capacity)
    one_by_one = index
    for some in np.split(order, 10):
        one_by_one = single(one_by_one, some, leaves[some])
    at_once = priorities.set_all_priorities(spec, index, leaves.reshape(40, 10))
    assert_sums(at_once)
    jax.tree.map(np.testing.assert_array_equal, one_by_one, at_once)


def test_sampling_is_proportional_and_never_picks_a_zero():
    spec = replay.RingSpec(num_steps=50, num_envs=4, stack=1, n_step=1, discount=0.9, prioritized=True)
    rng = np.random.default_rng(0)
    ring, _ = build(spec, random_rows(rng, 4), 30)
    leaves = np.where(rng.random((50, 4)) < 0.5, rng.random((50, 4)), 0).astype(np.float32)
    ring = ring.replace(index=priorities.set_all_priorities(spec, ring.index, jnp.asarray(leaves)))
    batch = jax.jit(functools.partial(replay.sample, spec, batch_size=40_000, importance_exponent=0.7))(
        ring, jax.random.PRNGKey(3)
    )
    counts = np.bincount(np.asarray(batch.start), minlength=200)
    probs = leaves.ravel() / leaves.sum()
    assert not counts[probs == 0].any()
    # Pearson's chi-squared statistic has mean and half its variance equal to its degrees of freedom.
    positive = probs > 0
    chi2 = np.sum((counts[positive] - 40_000 * probs[positive]) ** 2 / (40_000 * probs[positive]))
    freedom = positive.sum() - 1
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)
    weights = (len(leaves) * probs[batch.start]) ** -0.7
    np.testing.assert_allclose(batch.weight, weights / weights.max(), rtol=1e-4)


def test_uniform_sampling_has_unit_weights():
    spec = replay.RingSpec(num_steps=50, num_envs=2, stack=1, n_step=1, discount=0.9)
    ring, _ = build(spec, random_rows(np.random.default_rng(0), 2), 70)
    sample = jax.jit(functools.partial(replay.sample, spec, batch_size=64, importance_exponent=0.5))
    batch = sample(ring, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(batch.weight, 1.0)


def test_writes_keep_other_priorities_and_give_new_rows_the_maximum():
    spec = replay.RingSpec(
        num_steps=30, num_envs=1, stack=1, n_step=1, discount=0.9, prioritized=True, priority_exponent=0.5
    )
    rows = random_rows(np.random.default_rng(0), 1, end_prob=0, life_prob=0)
    ring, _ = build(spec, rows, 10)
    ring = replay.update_priorities(spec, ring, jnp.array([2, 5]), jnp.array([4.0, 9.0]))
    for _, row in zip(range(5), rows, strict=False):
        ring = add_program(spec)(ring, row)
    leaves = priorities_by_slot(spec, ring)[:, 0]
    np.testing.assert_allclose(leaves[[2, 5]], [2.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(leaves[9:14], 3.0, rtol=1e-5)
    np.testing.assert_allclose(leaves[[0, 8]], 1.0)
    assert_sums(ring.index)


def test_updates_of_unsampleable_rows_leave_priority_zero():
    spec = replay.RingSpec(num_steps=30, num_envs=1, stack=1, n_step=3, discount=0.9, prioritized=True)
    ring, _ = build(spec, random_rows(np.random.default_rng(0), 1), 10)
    unwritten = jnp.array([20, 29])
    after = replay.update_priorities(spec, ring, unwritten, jnp.array([5.0, 5.0]))
    np.testing.assert_array_equal(after.index.priorities, ring.index.priorities)


def test_losses_that_are_not_finite_leave_priorities_as_they_are():
    spec = replay.RingSpec(num_steps=30, num_envs=1, stack=1, n_step=1, discount=0.9, prioritized=True)
    ring, _ = build(spec, random_rows(np.random.default_rng(0), 1, end_prob=0), 10)
    after = replay.update_priorities(spec, ring, jnp.array([2, 3, 4]), jnp.array([jnp.nan, jnp.inf, 4.0]))
    np.testing.assert_allclose(priorities_by_slot(spec, after)[1:6, 0], [1.0, 1.0, 1.0, 2.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(after.index.max_priority, 2.0, rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    mass=st.lists(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 1e6]), min_size=4, max_size=4),
    u=st.floats(0, 1, exclude_max=True, width=32),
)
def test_pick_never_returns_a_zero_mass(mass, u):
    mass = np.float32(mass)
    if mass.any():
        assert mass[int(_pick(mass, u))] > 0
