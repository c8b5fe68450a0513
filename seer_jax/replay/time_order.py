"""Reading and writing rows in the order of time, for checkpoints and for the handover.

A time counts from the birth of the ring. It holds the times from `oldest` to `oldest + size - 1`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax.replay import layout
from seer_jax.replay.priorities import set_all_priorities
from seer_jax.replay.records import Index, Ring, RingSpec, Rows


def size(spec: RingSpec, ring: Ring) -> int:
    """Returns how many times the ring holds."""
    return min(int(ring.index.written), spec.num_steps)


def oldest(spec: RingSpec, ring: Ring) -> int:
    """Returns the oldest time that the ring holds."""
    return int(ring.index.written) - size(spec, ring)


def read(spec: RingSpec, ring: Ring, begin: int, count: int) -> tuple[Rows, jax.Array]:
    """Copies the rows of the times `begin` to `begin + count - 1`.

    Args:
      spec: static part of the ring.
      ring: the ring.
      begin: the first time; the ring holds it and the others.
      count: M.

    Returns:
      Rows `[M, E, ...]` and their priorities `[M, E]`.
    """
    return _read(spec, ring, np.int32(begin), count)


@functools.partial(jax.jit, static_argnames=("spec", "count"))
def _read(spec: RingSpec, ring: Ring, begin: jax.Array, count: int) -> tuple[Rows, jax.Array]:
    slot = (begin + jnp.arange(count)) % spec.num_steps
    start = slot[:, None] * spec.num_envs + jnp.arange(spec.num_envs)
    rows = jax.tree.map(lambda x: x[slot], ring.rows)
    rows = rows.replace(observation=layout.from_stored(ring.observation, rows.observation))
    return rows, ring.index.priorities.reshape(-1)[start]


def write(spec: RingSpec, ring: Ring, begin: jax.Array | int, rows: Rows) -> Ring:
    """Writes rows `[M, E, ...]` as the times `begin` to `begin + M - 1`; `restore` makes them part of the ring.

    Args:
      spec: static part of the ring.
      ring: the ring.
      begin: the first time.
      rows: at most T times.
    """
    slot = (begin + jnp.arange(len(rows.first))) % spec.num_steps
    rows = rows.replace(observation=layout.to_stored(ring.observation, rows.observation))

    def put(buffer: jax.Array, x: jax.Array) -> jax.Array:
        return buffer.at[slot].set(x.astype(buffer.dtype), unique_indices=True)

    return ring.replace(rows=jax.tree.map(put, ring.rows, rows))


def restore(spec: RingSpec, ring: Ring, index: Index, priorities: np.ndarray, *, begin: int = 0) -> Ring:
    """Returns a ring whose newest M times, from `begin` on, were written with the rows of another ring.

    Args:
      spec: static part of the ring.
      ring: a new ring that holds the rows.
      index: index of the other ring.
      priorities: `[M, E]` priorities of these rows, oldest first.
      begin: the oldest time.
    """
    placed = np.zeros((spec.num_steps, spec.num_envs), np.float32)
    placed[(begin + np.arange(len(priorities))) % spec.num_steps] = priorities
    written, max_priority = jnp.asarray(begin + len(priorities), jnp.int32), jnp.asarray(index.max_priority)
    moved = ring.index.replace(written=written, max_priority=max_priority)
    return ring.replace(index=set_all_priorities(spec, moved, jnp.asarray(placed)))


def free(ring: Ring) -> None:
    """Frees the memory of all arrays of a ring, which cannot be used after it."""
    for array in jax.tree.leaves(ring):
        array.delete()
