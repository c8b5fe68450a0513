"""The ring: time-major rows on the device, of which the oldest are overwritten.

A row may start a sampled window if the ring holds all rows that its observation and its n-step window need. That can
change only near the write head. `add` therefore evaluates the rule there and keeps the answer as a priority.
"""

import jax
import jax.numpy as jnp

from seer_jax import platforms
from seer_jax.replay import layout
from seer_jax.replay.priorities import set_priorities, zero_sums
from seer_jax.replay.records import Index, Ring, RingSpec, Rows


def init(spec: RingSpec, row: Rows) -> Ring:
    """Does what `shards.init` does, for what one device holds."""
    observation = jax.ShapeDtypeStruct(row.observation.shape[1:], row.observation.dtype)
    stored_row = jax.eval_shape(
        lambda row: row.replace(observation=layout.to_stored(observation, row.observation)), row
    )
    return Ring(
        observation=observation,
        rows=jax.tree.map(lambda x: jnp.zeros((spec.num_steps, *x.shape), x.dtype), stored_row),
        index=Index(
            written=jnp.zeros((), jnp.int32),
            sums=zero_sums(spec.capacity),
            max_priority=jnp.ones((), jnp.float32),
        ),
    )


def add(spec: RingSpec, ring: Ring, row: Rows, steps: jax.Array | None = None) -> Ring:
    """Does what `shards.add` does, with what one device holds."""
    slot = ring.index.written % spec.num_steps
    row = row.replace(observation=layout.to_stored(ring.observation, row.observation))
    if steps is None:
        rows = jax.tree.map(lambda buf, x: jax.lax.dynamic_update_index_in_dim(buf, x, slot, 0), ring.rows, row)
    else:
        rows = platforms.write_if(steps, ring.rows, row, slot)
    written = ring.index.written + (1 if steps is None else steps.astype(jnp.int32))
    return _update_starts(spec, ring.replace(rows=rows, index=ring.index.replace(written=written)))


def end_episodes(spec: RingSpec, ring: Ring, ends: jax.Array | None = None) -> Ring:
    """Does what `shards.end_episodes` does, with what one device holds."""
    slot = (ring.index.written - 1) % spec.num_steps
    rows = ring.rows.replace(last=ring.rows.last.at[slot].max(True if ends is None else ends))
    return _update_starts(spec, ring.replace(rows=rows))


def _update_starts(spec: RingSpec, ring: Ring) -> Ring:
    """Evaluates which rows may start a window, where the newest rows can have changed it."""
    # Windows that the newest row completes, the row itself, and the stacks that lost a row to it.
    newest, stack = ring.index.written - 1, max(spec.stack, 1)
    oldest = newest - spec.num_steps + 1
    times = jnp.concatenate([newest - spec.n_step + jnp.arange(spec.n_step + 1), oldest + jnp.arange(stack - 1)])  # [M]
    start = (times % spec.num_steps)[:, None] * spec.num_envs + jnp.arange(spec.num_envs)  # [M, E]
    before = ring.index.priorities.reshape(-1)[start]
    kept_or_new = jnp.where(before > 0, before, ring.index.max_priority)
    sampleable_now = jnp.concatenate(
        [sampleable(spec, ring, newest - spec.n_step, spec.n_step + 1), sampleable(spec, ring, oldest, stack - 1)]
    )
    priority = jnp.where(sampleable_now, kept_or_new, 0.0)
    return ring.replace(index=set_priorities(ring.index, start.ravel(), priority.ravel()))


def sampleable(spec: RingSpec, ring: Ring, begin: jax.Array | int, count: int) -> jax.Array:
    """Returns which rows of consecutive times may start a sampled window.

    Args:
      spec: static part of the ring.
      ring: the ring.
      begin: the first time; times that are no longer or not yet in the ring are not sampleable.
      count: M, how many times.

    Returns:
      `[M, E]` bool.
    """
    # All rows that the rule looks at, each read once: those of the stacks before, and of the windows behind.
    before, n = max(spec.stack, 1) - 1, spec.n_step
    times = begin - before + jnp.arange(before + count + n)
    in_ring = ((times >= ring.index.written - spec.num_steps) & (times >= 0) & (times < ring.index.written))[:, None]
    slot, env = (times % spec.num_steps)[:, None], jnp.arange(spec.num_envs)
    terminated, last, first = (
        layout.take(x, slot, env) & in_ring for x in (ring.rows.terminated, ring.rows.last, ring.rows.first)
    )
    starts = slice(before, before + count)
    # A stack or a window is complete if it lies in the ring, or ends at the first or last row of its episode.
    stack_ok = in_ring[:count] | _any_of(first[: before + count], before + 1)
    window_ok = in_ring[before + n :] | _any_of((terminated | last)[before + 1 :], n)
    return in_ring[starts] & stack_ok & window_ok & ~last[starts]


def _any_of(flags: jax.Array, width: int) -> jax.Array:
    """Returns whether any of `width` consecutive flags is set, `[M, E]`, of flags `[M + width - 1, E]`."""
    return jax.lax.reduce_window(flags, False, jax.lax.bitwise_or, (width, 1), (1, 1), "VALID")
