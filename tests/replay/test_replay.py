"""The ring against its naive twin, and properties of sampling that the twin cannot show."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_jax import replay

FRAME = (3, 3, 2)  # more channels than one, whose order in a stack shows


def random_rows(rng, num_envs, frame_shape, dtype=np.uint8, end_prob=0.2, life_prob=0.1):
    """Yields rows of consistent episodes: `first` follows `last`, rewards and actions never repeat."""
    first = np.ones(num_envs, bool)
    while True:
        ends = rng.random(num_envs) < end_prob
        last = ends & ~first
        terminated = ((rng.random(num_envs) < life_prob) | (last & (rng.random(num_envs) < 0.5))) & ~first
        frame = rng.integers(1, 255, (num_envs, *frame_shape)).astype(dtype)
        reward = np.where(first, 0, rng.normal(size=num_envs)).astype(np.float32)
        action = rng.integers(0, 1000, num_envs).astype(np.int32)
        yield replay.Rows(frame, action, reward, terminated, last, first.copy())
        first = last


def as_dicts(rows):
    num_envs = len(rows.reward)
    return [{name: np.asarray(value)[e] for name, value in vars(rows).items()} for e in range(num_envs)]


@functools.cache
def programs(spec):
    """Compiled add, sample one, restore and sampleable of a spec."""
    bind = functools.partial
    return (
        jax.jit(bind(replay.add, spec)),
        jax.jit(bind(replay.sample, spec, batch_size=1)),
        jax.jit(bind(replay.restore_priorities, spec)),
        jax.jit(bind(replay.sampleable, spec)),
    )


def build(spec, rows_iter, count, frame_shape=FRAME, dtype=np.uint8):
    """Returns a ring and its twin, both with `count` rows."""
    shapes = replay.row_shapes(
        jax.ShapeDtypeStruct((spec.num_envs, *frame_shape), dtype), jax.ShapeDtypeStruct((spec.num_envs,), np.int32)
    )
    twin = NaiveReplay(
        capacity=spec.num_steps,
        num_envs=spec.num_envs,
        stack=spec.stack,
        n_step=spec.n_step,
        discount=spec.discount,
    )
    ring = replay.init(spec, shapes)
    add = programs(spec)[0]
    for _, rows in zip(range(count), rows_iter, strict=False):
        ring = add(ring, rows)
        naive.add(as_dicts(rows))
    return ring, naive


def sampleable_starts(spec, ring):
    """The set of (env, time) whose leaf is positive."""
    leaves = np.asarray(ring.priorities).ravel()[: spec.capacity].reshape(spec.num_steps, spec.num_envs)
    written = int(ring.written)
    oldest = max(0, written - spec.num_steps)
    times = {t % spec.num_steps: t for t in range(oldest, written)}
    assert all(slot in times for slot in np.nonzero(leaves)[0])
    return {(int(env), times[slot]) for slot, env in zip(*np.nonzero(leaves), strict=True)}


def sample_at(spec, ring, starts):
    """Reads the transitions of given (env, time) by making each the only leaf in turn."""
    _, sample, restore, _ = programs(spec)
    for env, time in starts:
        only = np.zeros((spec.num_steps, spec.num_envs), np.float32)
        only[time % spec.num_steps, env] = 1.0
        yield jax.tree.map(lambda x: np.asarray(x)[0], sample(restore(ring, only), jax.random.PRNGKey(0)))


@pytest.mark.parametrize(("n_step", "stack", "num_envs"), [(1, 1, 1), (3, 4, 3), (20, 4, 1), (20, 1, 2)])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20), wraps=st.sampled_from([0.4, 1.0, 3.3]))
def test_every_transition_equals_the_twin(n_step, stack, num_envs, seed, wraps):
    num_steps = n_step + stack + 13
    spec = replay.RingSpec(num_steps=num_steps, num_envs=num_envs, stack=stack, n_step=n_step, discount=0.9)
    rows = random_rows(np.random.default_rng(seed), num_envs, FRAME)
    ring, naive = build(spec, rows, int(wraps * num_steps))
    expected = naive.transitions()
    assert sampleable_starts(spec, ring) == set(expected)
    for got, want in zip(sample_at(spec, ring, expected), expected.values(), strict=True):
        obs, action, reward, discount, next_obs = want
        np.testing.assert_array_equal(got.obs, obs)
        assert got.action == action
        np.testing.assert_allclose(got.reward, reward, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got.discount, discount, rtol=1e-5)
        np.testing.assert_array_equal(got.next_obs, next_obs)


def test_sampleability_after_every_single_write():
    spec = replay.RingSpec(num_steps=17, num_envs=2, stack=3, n_step=5, discount=0.9)
    rows = random_rows(np.random.default_rng(0), 2, FRAME)
    ring, naive = build(spec, rows, 0)
    add, *_, sampleable = programs(spec)
    for _, row in zip(range(80), rows, strict=False):
        ring = add(ring, row)
        naive.add(as_dicts(row))
        expected = set(naive.transitions())
        assert sampleable_starts(spec, ring) == expected
        everywhere = sampleable(ring, np.arange(-5, 90))  # the rule itself, gone and future times included
        assert {(int(env), int(i) - 5) for i, env in zip(*np.nonzero(everywhere), strict=True)} == expected


def test_rewards_count_one_by_one_as_they_were_stored():
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
def test_powers_of_ten_show_which_rewards_count(n_step):
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


def test_sampling_is_proportional_and_never_picks_a_zero():
    spec = replay.RingSpec(num_steps=50, num_envs=4, stack=1, n_step=1, discount=0.9, prioritized=True)
    rng = np.random.default_rng(0)
    ring, _ = build(spec, random_rows(rng, 4, FRAME), 30)
    leaves = np.where(rng.random((50, 4)) < 0.5, rng.random((50, 4)), 0).astype(np.float32)
    ring = replay.restore_priorities(spec, ring, jnp.asarray(leaves))
    batch = jax.jit(functools.partial(replay.sample, spec, batch_size=40_000, importance_exponent=0.7))(
        ring, jax.random.PRNGKey(3)
    )
    counts = np.bincount(np.asarray(batch.start), minlength=200)
    probs = leaves.ravel() / leaves.sum()
    assert not counts[probs == 0].any()
    # Pearson's chi-squared statistic has mean and half its variance equal to its degrees of freedom.
    seen = probs > 0
    chi2 = np.sum((counts[seen] - 40_000 * probs[seen]) ** 2 / (40_000 * probs[seen]))
    freedom = seen.sum() - 1
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)
    weights = (len(leaves) * probs[batch.start]) ** -0.7
    np.testing.assert_allclose(batch.weight, weights / weights.max(), rtol=1e-4)


def test_uniform_sampling_has_unit_weights():
    spec = replay.RingSpec(num_steps=50, num_envs=2, stack=1, n_step=1, discount=0.9)
    ring, _ = build(spec, random_rows(np.random.default_rng(0), 2, FRAME), 70)
    batch = replay.sample(spec, ring, jax.random.PRNGKey(0), batch_size=64, importance_exponent=0.5)
    np.testing.assert_array_equal(batch.weight, 1.0)


def test_priorities_survive_writes_elsewhere_and_new_starts_get_the_greatest():
    spec = replay.RingSpec(
        num_steps=30, num_envs=1, stack=1, n_step=1, discount=0.9, prioritized=True, priority_exponent=0.5
    )
    rows = random_rows(np.random.default_rng(0), 1, FRAME, end_prob=0, life_prob=0)
    ring, _ = build(spec, rows, 10)
    ring = replay.update_priorities(spec, ring, jnp.array([2, 5]), jnp.array([4.0, 9.0]))
    for _, row in zip(range(5), rows, strict=False):
        ring = programs(spec)[0](ring, row)
    leaves = np.asarray(ring.priorities).ravel()
    np.testing.assert_allclose(leaves[[2, 5]], [2.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(leaves[9:14], 3.0, rtol=1e-5)
    np.testing.assert_allclose(leaves[[0, 8]], 1.0)
    np.testing.assert_allclose(ring.block_sums, np.asarray(ring.priorities).sum(axis=1), rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    mass=st.lists(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 1e6]), min_size=4, max_size=4),
    u=st.floats(0, 1, exclude_max=True, width=32),
)
def test_pick_never_returns_a_zero_mass(mass, u):
    mass = np.float32(mass)
    if mass.any():
        assert mass[int(replay._pick(jnp.asarray(mass), jnp.float32(u)))] > 0


def test_pushed_stack_equals_rebuilt_stack():
    spec = replay.RingSpec(num_steps=40, num_envs=3, stack=4, n_step=1, discount=0.9)
    rows = random_rows(np.random.default_rng(1), 3, FRAME)
    ring, naive = build(spec, rows, 0)
    push = jax.jit(replay.push_frame)
    stack = jnp.zeros((3, *FRAME[:2], 4 * FRAME[2]), jnp.uint8)
    for t, row in zip(range(100), rows, strict=False):
        stack = push(stack, row.observation, row.first)
        ring = programs(spec)[0](ring, row)
        naive.add(as_dicts(row))
        for env in range(3):
            if t >= 3:
                np.testing.assert_array_equal(stack[env], naive.observation(env, t))


def test_copy_indices_of_both_sides_are_drawn_independently():
    spec = replay.RingSpec(num_steps=30, num_envs=1, stack=0, n_step=1, discount=0.9)
    rows = random_rows(np.random.default_rng(0), 1, (2, 1, 1), dtype=np.float32, end_prob=0)
    ring, _ = build(spec, rows, 0, frame_shape=(2, 1, 1), dtype=np.float32)
    copies = np.arange(2, dtype=np.float32).reshape(1, 2, 1, 1)
    for _, row in zip(range(10), rows, strict=False):
        ring = programs(spec)[0](ring, row.replace(observation=copies))
    batch = replay.sample(spec, ring, jax.random.PRNGKey(0), batch_size=2000)
    pairs = 2 * np.asarray(batch.obs).ravel() + np.asarray(batch.next_obs).ravel()
    counts = np.bincount(pairs.astype(int), minlength=4)
    assert counts.min() > 400, counts


@pytest.mark.parametrize("capacity", [25, 26, 31])
def test_monotone_frames_over_several_wraps(capacity):
    """Frame t holds t: sampled windows always lead n forward, whatever the wrap."""
    spec = replay.RingSpec(num_steps=capacity, num_envs=1, stack=4, n_step=20, discount=0.9)
    false = np.zeros(1, bool)
    ring, _ = build(spec, iter(()), 0, frame_shape=(1, 1, 1), dtype=np.int32)
    add = programs(spec)[0]
    sample = jax.jit(functools.partial(replay.sample, spec, batch_size=64))
    for t in range(5 * capacity):
        frame = np.full((1, 1, 1, 1), t + 1, np.int32)
        ring = add(ring, replay.Rows(frame, np.int32([t]), np.float32([0]), false, false, false | (t == 0)))
        if t > capacity:
            batch = sample(ring, jax.random.fold_in(jax.random.PRNGKey(0), t))
            chex.assert_trees_all_equal(np.diff(np.asarray(batch.obs)[:, 0, 0]), np.ones((64, 3), np.int32))
            np.testing.assert_array_equal(batch.next_obs - batch.obs, 20)


def test_adding_donates_the_ring():
    spec = replay.RingSpec(num_steps=1000, num_envs=1, stack=1, n_step=1, discount=0.9)
    rows = random_rows(np.random.default_rng(0), 1, FRAME)
    ring, _ = build(spec, rows, 1)
    add = jax.jit(functools.partial(replay.add, spec), donate_argnums=0)
    program = add.lower(ring, next(rows)).compile()
    assert program.memory_analysis().alias_size_in_bytes >= ring.num_bytes
    program(ring, next(rows))
    assert all(x.is_deleted() for x in jax.tree.leaves(ring))


def test_what_is_no_start_gets_no_priority():
    spec = replay.RingSpec(num_steps=30, num_envs=1, stack=1, n_step=3, discount=0.9, prioritized=True)
    ring, _ = build(spec, random_rows(np.random.default_rng(0), 1, FRAME), 10)
    unwritten = jnp.array([20, 29])
    after = replay.update_priorities(spec, ring, unwritten, jnp.array([5.0, 5.0]))
    np.testing.assert_array_equal(after.priorities, ring.priorities)


@pytest.mark.parametrize(("n_step", "stack"), [(1, 1), (3, 4), (5, 0)])
def test_the_smallest_ring_always_has_a_start(n_step, stack):
    spec = replay.RingSpec(
        num_steps=replay.min_steps(n_step, stack), num_envs=1, stack=stack, n_step=n_step, discount=0.9
    )
    twin = NaiveReplay(capacity=spec.num_steps, num_envs=1, stack=stack, n_step=n_step, discount=spec.discount)
    for t, rows in zip(range(2000), random_rows(np.random.default_rng(0), 1, (1, 1, 1)), strict=False):
        naive.add(as_dicts(rows))
        assert t < spec.num_steps or naive.transitions()


def test_a_ring_too_small_for_one_window_is_refused():
    with pytest.raises(ValueError, match=r"raise replay\.capacity"):
        replay.RingSpec(num_steps=10, num_envs=1, stack=4, n_step=20, discount=0.9)
