"""Rows in the order of time against the naive twin, over several wraps of rings of awkward sizes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seer_jax import replay
from tests.helpers.rings import (
    add_program,
    as_dicts,
    build,
    empty_ring,
    priorities_by_slot,
    random_rows,
    sample_at,
    sampleable_starts,
)

# Times of each ring, environments, stack and steps of a window; no capacity is a multiple of anything else in its row.
SHAPES = [(7, 1, 1, 1), (13, 3, 2, 4), (11, 2, 0, 3)]


def make_spec(shape, num_steps=None):
    own_steps, num_envs, stack, n_step = shape
    return replay.RingSpec(
        num_steps=num_steps or own_steps,
        num_envs=num_envs,
        stack=stack,
        n_step=n_step,
        discount=0.9,
        prioritized=True,
    )


def make_ring(shape, written, frame_shape=(1, 2, 1)):
    """Returns spec, ring and twin; sampleable rows have priorities of their own."""
    spec = make_spec(shape)
    rng = np.random.default_rng(written)
    ring, twin = build(spec, random_rows(rng, spec.num_envs, frame_shape), written, frame_shape)
    starts = jnp.flatnonzero(ring.index.priorities.ravel())
    ring = replay.update_priorities(spec, ring, starts, jnp.asarray(rng.uniform(1.0, 9.0, len(starts)), jnp.float32))
    return spec, ring, twin


def naive_rows(twin, begin, count):
    """Returns the fields of the rows of times `begin` to `begin + count - 1`, each `[M, E, ...]`."""
    lanes = [lane[begin : begin + count] for lane in twin.lanes]
    return {name: np.stack([np.stack([row[name] for row in lane]) for lane in lanes], axis=1) for name in lanes[0][0]}


def naive_priorities(spec, ring, begin, count):
    by_slot = priorities_by_slot(spec, ring)
    return np.stack([by_slot[time % spec.num_steps] for time in range(begin, begin + count)])


@pytest.mark.parametrize("shape", SHAPES)
def test_size_and_oldest_equal_twin_after_every_write(shape):
    spec = make_spec(shape)
    ring, twin = build(spec, iter(()), 0, (1, 2, 1))
    assert (replay.size(spec, ring), replay.oldest(spec, ring)) == (0, 0)
    rows = random_rows(np.random.default_rng(0), spec.num_envs, (1, 2, 1))
    for _ in range(4 * spec.num_steps + 3):
        row = next(rows)
        ring = add_program(spec)(ring, row)
        twin.add(as_dicts(row))
        assert replay.oldest(spec, ring) == twin.oldest()
        assert replay.size(spec, ring) == len(twin.lanes[0]) - twin.oldest()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wraps", [0.6, 1.0, 3.3])
def test_read_returns_the_rows_of_any_interval_of_time(shape, wraps):
    spec, ring, twin = make_ring(shape, int(wraps * shape[0]))
    begin, end = twin.oldest(), len(twin.lanes[0])
    for count in (1, 4, end - begin):
        for at in range(begin, end - count + 1):
            rows, priorities = jax.device_get(replay.read(spec, ring, at, count))
            for name, expected in naive_rows(twin, at, count).items():
                np.testing.assert_array_equal(getattr(rows, name), expected)
            np.testing.assert_array_equal(priorities, naive_priorities(spec, ring, at, count))


def _by_slot(spec, ring):
    return replay.read(spec, ring, 0, spec.num_steps)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 4, 7])
def test_write_replaces_the_rows_of_its_times_and_no_others(shape, count):
    spec, ring, twin = make_ring(shape, int(2.5 * shape[0]))
    rows = random_rows(np.random.default_rng(9), spec.num_envs, (1, 2, 1))
    new = jax.tree.map(lambda *x: np.stack(x), *itertools.islice(rows, count))
    begin = len(twin.lanes[0])  # as if the next times arrived
    after = replay.write(spec, ring, begin, new)
    expected, written = (jax.tree.map(np.array, _by_slot(spec, each)) for each in (ring, after))
    for i in range(count):
        for buffer, values in zip(jax.tree.leaves(expected), jax.tree.leaves(new), strict=True):
            buffer[(begin + i) % spec.num_steps] = values[i]
    jax.tree.map(np.testing.assert_array_equal, written, expected)
    jax.tree.map(np.testing.assert_array_equal, after.index, ring.index)


def test_write_rounds_to_the_type_that_the_ring_stores():
    spec = make_spec((11, 2, 0, 3))
    ring = empty_ring(spec, (1, 1, 2), jnp.bfloat16)
    (row,) = itertools.islice(random_rows(np.random.default_rng(0), 2, (1, 1, 2), np.float32), 1)
    row = row.replace(observation=row.observation / 7)
    after = replay.write(spec, ring, 0, jax.tree.map(lambda x: x[None], row))
    stored, _ = replay.read(spec, after, 0, 1)
    assert stored.observation.dtype == jnp.bfloat16
    np.testing.assert_array_equal(stored.observation[0], row.observation.astype(jnp.bfloat16))


def move(spec, ring, target_spec, chunk):
    """Copies all rows into a new ring, oldest first, some times at once."""
    size, oldest = replay.size(spec, ring), replay.oldest(spec, ring)
    row = jax.tree.map(lambda x: x[0], replay.read(spec, ring, oldest, 1)[0])
    target = replay.init(target_spec, row)
    priorities = []
    for at in range(0, size, chunk):
        rows, priority = replay.read(spec, ring, oldest + at, min(chunk, size - at))
        target = replay.write(target_spec, target, at, rows)
        priorities.append(priority)
    return replay.restore(target_spec, target, ring.index, np.concatenate(priorities))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wraps", [0.6, 1.0, 3.3])
@pytest.mark.parametrize("more_steps", [0, 6])
def test_restored_ring_holds_the_same_transitions_and_priorities(shape, wraps, more_steps):
    spec, ring, twin = make_ring(shape, int(wraps * shape[0]))
    target_spec = make_spec(shape, num_steps=spec.num_steps + more_steps)
    size, oldest = replay.size(spec, ring), replay.oldest(spec, ring)
    moved = move(spec, ring, target_spec, chunk=3)
    assert (replay.size(target_spec, moved), replay.oldest(target_spec, moved)) == (size, 0)
    priorities = priorities_by_slot(target_spec, moved)
    np.testing.assert_array_equal(priorities[:size], naive_priorities(spec, ring, oldest, size))
    assert not priorities[size:].any()
    assert moved.index.max_priority == ring.index.max_priority
    np.testing.assert_allclose(moved.index.sums[-1].sum(), moved.index.priorities.sum(), rtol=1e-6)

    expected = {(env, time - oldest): transition for (env, time), transition in twin.transitions().items()}
    assert sampleable_starts(target_spec, moved) == set(expected)
    for got, want in zip(sample_at(target_spec, moved, expected), expected.values(), strict=True):
        obs, action, _, _, next_obs = want
        np.testing.assert_array_equal(got.obs, obs if spec.stack else obs[0])  # of one copy
        np.testing.assert_array_equal(got.next_obs, next_obs if spec.stack else next_obs[0])
        assert got.action == action


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("more_steps", [0, 6])
def test_restored_ring_goes_on_as_one_that_was_filled_from_the_start(shape, more_steps):
    """The old ring's newest rows, written into a new ring and continued, equal those rows added one by one."""
    spec = make_spec(shape)
    all_rows = list(itertools.islice(random_rows(np.random.default_rng(1), spec.num_envs, (1, 2, 1)), 70))
    written = int(2.4 * spec.num_steps)
    ring, _ = build(spec, all_rows, written, (1, 2, 1))
    target_spec = make_spec(shape, num_steps=spec.num_steps + more_steps)
    moved = move(spec, ring, target_spec, chunk=4)
    filled, _ = build(target_spec, all_rows[replay.oldest(spec, ring) : written], spec.num_steps, (1, 2, 1))
    jax.tree.map(np.testing.assert_array_equal, moved.rows, filled.rows)
    for row in all_rows[written:]:
        moved, filled = (add_program(target_spec)(each, row) for each in (moved, filled))
        jax.tree.map(np.testing.assert_array_equal, moved.rows, filled.rows)
        assert int(moved.index.written) == int(filled.index.written)
        # Stacks that reach back beyond the move are known to the old ring alone.
        assert sampleable_starts(target_spec, moved) >= sampleable_starts(target_spec, filled)


def test_free_deletes_every_array():
    ring = make_ring(SHAPES[0], 9)[1]
    replay.free(ring)
    assert all(x.is_deleted() for x in jax.tree.leaves(ring))
