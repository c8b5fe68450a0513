"""Priorities of rows, kept as a two-level sum so that a draw costs O(sqrt(T * E)).

A leaf holds the priority of one row: 0 if it may not start a window, and 1 if replay is uniform.
"""

import jax
import jax.numpy as jnp

from seer_jax.replay.records import Index, Ring, RingSpec

_MIN_PRIORITY = 1e-6  # keeps a start with a vanishing loss sampleable


def update_priorities(spec: RingSpec, ring: Ring, start: jax.Array, loss: jax.Array) -> Ring:
    """Sets the priorities of sampled starts to `loss ** priority_exponent`; `start` and `loss` are `[B]`.

    Unsampleable rows keep priority 0. Where a loss is not finite the priority does not change.
    """
    index = ring.index
    before = index.priorities.reshape(-1)[start]
    priority = (jnp.abs(loss) + _MIN_PRIORITY) ** spec.priority_exponent
    priority = jnp.where((before > 0) & jnp.isfinite(priority), priority, before)
    index = index.replace(max_priority=jnp.maximum(index.max_priority, priority.max()))
    return ring.replace(index=set_priorities(index, start, priority))


def set_priorities(index: Index, start: jax.Array, priority: jax.Array) -> Index:
    """Sets leaves, `[M]`, and sums their blocks again, so that rounding errors never add up."""
    block, leaf = start // index.priorities.shape[1], start % index.priorities.shape[1]
    priorities = index.priorities.at[block, leaf].set(priority)
    block_sums = index.block_sums.at[block].set(priorities[block].sum(axis=1))
    return index.replace(priorities=priorities, block_sums=block_sums)


def set_all_priorities(spec: RingSpec, index: Index, priorities: jax.Array) -> Index:
    """Sets the priorities of all T * E leaves from `[T, E]`."""
    padded = jnp.pad(priorities.ravel(), (0, index.priorities.size - spec.capacity)).reshape(index.priorities.shape)
    return index.replace(priorities=padded, block_sums=padded.sum(axis=1))


def draw_starts(index: Index, key: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Returns `[B]` leaf indices drawn in proportion to priority, and their priorities.

    Block and leaf use separate random numbers: one 24-bit number would favour some of a million leaves.
    """
    block_u, leaf_u = jax.random.uniform(key, (2, batch_size))
    block = jax.vmap(_pick, in_axes=(None, 0))(index.block_sums, block_u)
    leaves = index.priorities[block]  # [B, block]
    leaf = jax.vmap(_pick)(leaves, leaf_u)
    priority = jnp.take_along_axis(leaves, leaf[:, None], axis=1)[:, 0]
    return block * index.priorities.shape[1] + leaf, priority


def importance_weights(spec: RingSpec, priority: jax.Array, exponent: jax.Array | float) -> jax.Array:
    """Returns `(N * P(i)) ** -beta` over its maximum in the batch; N and the sum of priorities cancel."""
    if not spec.prioritized:
        return jnp.ones_like(priority)
    return (priority / priority.min()) ** -exponent


def _pick(mass: jax.Array, u: jax.Array) -> jax.Array:
    """Inverts the cumulative distribution of `mass`, `[M]`, at `u` in [0, 1); never picks a mass of 0."""
    cumulative = jnp.cumsum(mass)
    # Rounding may leave no hit at the far end; the last positive mass is the right answer there.
    hit = (cumulative > u * cumulative[-1]) & (mass > 0)
    last = mass.shape[0] - 1 - jnp.argmax(mass[::-1] > 0)
    return jnp.where(hit.any(), jnp.argmax(hit), last)
