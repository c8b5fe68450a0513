"""Priorities of rows, kept as a tree of sums so that a draw reads few of them.

A leaf holds the priority of one row: 0 if it may not start a window, and 1 if replay is uniform. Each further node
holds the sum of `WIDTH` nodes. A larger ring has more blocks, never wider ones, and unused ones sum to 0. The same
priorities therefore give the same draw in a ring of any size.
"""

import functools

import jax
import jax.numpy as jnp

from seer_jax.replay.records import Index, Ring, RingSpec

WIDTH = 128  # entries of a block: one row of a TPU's registers
# Enough for 2,097,152 rows. Smaller rings have unused levels and blocks, so that rings of all sizes cost the same:
# a level of one block is compiled to fewer operations.
_MIN_LEVELS, _MIN_BLOCKS = 3, 2
_MIN_PRIORITY = 1e-6  # keeps a start with a vanishing loss sampleable


def zero_sums(capacity: int) -> tuple[jax.Array, ...]:
    """Returns the levels of a tree of zeros with at least `capacity` leaves, leaves first, each `[blocks, WIDTH]`.

    Of the last level only the first block is used.
    """
    levels, entries = [], capacity
    while len(levels) < _MIN_LEVELS or entries > 1:
        entries = -(-entries // WIDTH)
        levels.append(jnp.zeros((max(entries, _MIN_BLOCKS), WIDTH), jnp.float32))
    return tuple(levels)


def update_priorities(spec: RingSpec, ring: Ring, start: jax.Array, loss: jax.Array) -> Ring:
    """Does what `shards.update_priorities` does, with what one device holds."""
    index = ring.index
    before = index.priorities.reshape(-1)[start]
    priority = (jnp.abs(loss) + _MIN_PRIORITY) ** spec.priority_exponent
    priority = jnp.where((before > 0) & jnp.isfinite(priority), priority, before)
    index = index.replace(max_priority=jnp.maximum(index.max_priority, priority.max()))
    return ring.replace(index=set_priorities(index, start, priority))


def set_priorities(index: Index, start: jax.Array, priority: jax.Array) -> Index:
    """Sets leaves, `[M]`, and sums the blocks that hold them again, so that rounding errors never add up."""
    levels, at, values = [], start, priority
    for level in index.sums:
        block = at // WIDTH
        levels.append(level.at[block, at % WIDTH].set(values))
        at, values = block, _sum_blocks(levels[-1][block])
    return index.replace(sums=tuple(levels))


@functools.partial(jax.jit, static_argnames="spec")
def set_all_priorities(spec: RingSpec, index: Index, priorities: jax.Array) -> Index:
    """Sets the priorities of all T * E leaves from `[T, E]`; the sums are those of `set_priorities`, bit for bit."""
    levels, values = [], priorities.ravel()
    assert values.size == spec.capacity
    for level in index.sums:
        levels.append(jnp.pad(values, (0, level.size - values.size)).reshape(level.shape))
        values = _sum_blocks(levels[-1])
    return index.replace(sums=tuple(levels))


def draw_starts(index: Index, key: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Returns `[B]` leaf indices drawn in proportion to priority, and their priorities.

    Each level uses random numbers of its own: one 24-bit number would favour some of a million leaves.
    """
    # Leaves first: a further level would draw further numbers and leave these as they are.
    draws = jax.random.uniform(key, (len(index.sums), batch_size))
    at, priority = jnp.zeros(batch_size, jnp.int32), jnp.zeros(batch_size)
    for level, u in zip(index.sums[::-1], draws[::-1], strict=True):
        masses = level[at]  # [B, WIDTH]
        entry = jax.vmap(_pick)(masses, u)
        priority = jnp.take_along_axis(masses, entry[:, None], axis=1)[:, 0]
        at = at * WIDTH + entry
    return at, priority


def chances(index: Index, start: jax.Array) -> jax.Array:
    """Returns the probability with which `draw_starts` draws each of the leaves `start`, `[B]`."""
    total = index.sums[-1][0].sum()
    return index.priorities.reshape(-1)[start] / total


def importance_weights(spec: RingSpec, priority: jax.Array, exponent: jax.Array | float) -> jax.Array:
    """Returns `(N * P(i)) ** -beta` over its maximum in the batch; N and the sum of priorities cancel."""
    if not spec.prioritized:
        return jnp.ones_like(priority)
    return (priority / priority.min()) ** -exponent


def _sum_blocks(blocks: jax.Array) -> jax.Array:
    """Sums `[..., WIDTH]` over its last axis, in halves: the order, and so the rounding, is the same in any program."""
    while (width := blocks.shape[-1]) > 1:
        blocks = blocks[..., : width // 2] + blocks[..., width // 2 :]
    return blocks[..., 0]


def _pick(mass: jax.Array, u: jax.Array) -> jax.Array:
    """Inverts the cumulative distribution of `mass`, `[M]`, at `u` in [0, 1); never picks a mass of 0."""
    cumulative = jnp.cumsum(mass)
    # Rounding may leave no hit at the far end; the last positive mass is the right answer there.
    hit = (cumulative > u * cumulative[-1]) & (mass > 0)
    last = mass.shape[0] - 1 - jnp.argmax(mass[::-1] > 0)
    return jnp.where(hit.any(), jnp.argmax(hit), last)
