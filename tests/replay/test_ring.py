"""Which rows may start a window, and what a write does to the ring."""

import functools

import jax
import numpy as np
import pytest

from seer_jax import replay
from seer_jax.replay.layout import LANES
from seer_jax.replay.priorities import WIDTH
from tests.helpers.rings import FRAME, add_program, as_dicts, build, make_twin, random_rows, sampleable_starts


def test_sampleable_rows_equal_twin_after_every_write():
    spec = replay.RingSpec(num_steps=17, num_envs=2, stack=3, n_step=5, discount=0.9)
    rows = random_rows(np.random.default_rng(0), 2)
    ring, twin = build(spec, rows, 0)
    sampleable = jax.jit(functools.partial(replay.sampleable, spec), static_argnames="count")
    for _, row in zip(range(80), rows, strict=False):
        ring = add_program(spec)(ring, row)
        twin.add(as_dicts(row))
        expected = set(twin.transitions())
        assert sampleable_starts(spec, ring) == expected
        everywhere = sampleable(ring, -5, count=95)  # the rule itself, overwritten and future times included
        assert {(int(env), int(i) - 5) for i, env in zip(*np.nonzero(everywhere), strict=True)} == expected


def test_newest_rows_whose_episodes_are_ended_equal_rows_that_were_added_as_the_last():
    spec = replay.RingSpec(num_steps=17, num_envs=2, stack=3, n_step=5, discount=0.9, prioritized=True)
    rows = random_rows(np.random.default_rng(0), 2)
    (ring, _), add, end = build(spec, rows, 0), add_program(spec), jax.jit(functools.partial(replay.end_episodes, spec))
    for _, row in zip(range(40), rows, strict=False):
        before, ring = ring, add(ring, row)
        expected = add(before, row.replace(last=np.ones_like(row.last)))
        jax.tree.map(np.testing.assert_array_equal, end(ring), expected)
        jax.tree.map(np.testing.assert_array_equal, end(end(ring)), expected)


@pytest.mark.parametrize(("n_step", "stack"), [(1, 1), (3, 4), (5, 0)])
def test_smallest_ring_always_has_a_sampleable_row(n_step, stack):
    spec = replay.RingSpec(
        num_steps=replay.min_steps(n_step, stack), num_envs=1, stack=stack, n_step=n_step, discount=0.9
    )
    twin = make_twin(spec)
    for t, row in zip(range(2000), random_rows(np.random.default_rng(0), 1, (1, 1, 1)), strict=False):
        twin.add(as_dicts(row))
        assert t < spec.num_steps or twin.transitions()


def test_ring_too_small_for_one_window_raises():
    with pytest.raises(ValueError, match=r"raise replay\.capacity"):
        replay.RingSpec(num_steps=10, num_envs=1, stack=4, n_step=20, discount=0.9)


def test_add_writes_into_the_donated_ring():
    spec = replay.RingSpec(num_steps=1000, num_envs=1, stack=1, n_step=1, discount=0.9)
    rows = random_rows(np.random.default_rng(0), 1)
    ring, _ = build(spec, rows, 1)
    add = jax.jit(functools.partial(replay.add, spec), donate_argnums=0)
    program = add.lower(ring, next(rows)).compile()
    assert program.memory_analysis().alias_size_in_bytes >= ring.num_bytes
    program(ring, next(rows))
    assert all(x.is_deleted() for x in jax.tree.leaves(ring))


def test_num_bytes_counts_every_array_as_it_is_stored():
    spec = replay.RingSpec(num_steps=10, num_envs=3, stack=1, n_step=1, discount=0.9)
    ring, _ = build(spec, iter(()), 0)
    assert np.prod(FRAME) < LANES
    rows = 10 * 3 * (LANES + 4 + 4 + 3)  # frame, action, reward, three flags
    index = 4 * (1 + 3 * 2 * WIDTH + 1)  # written, three levels of two blocks, the maximum
    assert ring.num_bytes == rows + index
