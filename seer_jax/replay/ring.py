"""The ring: time-major rows on the device, of which the oldest are overwritten.

A row may start a sampled window if the ring holds all rows that its observation and its n-step window need. That can
change only near the write head. `add` therefore evaluates the rule there and keeps the answer as a priority.
"""

import jax
import jax.numpy as jnp

from seer_jax.replay import layout
from seer_jax.replay.frames import true_before
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
    if steps is not None:
        row = jax.tree.map(lambda buf, x: jnp.where(steps, x, buf[slot]), ring.rows, row)
    rows = jax.tree.map(lambda buf, x: jax.lax.dynamic_update_index_in_dim(buf, x, slot, 0), ring.rows, row)
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
    newest = ring.index.written - 1
    oldest = newest - spec.num_steps + 1
    times = jnp.concatenate([newest - jnp.arange(spec.n_step + 1), oldest + jnp.arange(max(spec.stack, 1) - 1)])  # [M]
    start = (times % spec.num_steps)[:, None] * spec.num_envs + jnp.arange(spec.num_envs)  # [M, E]
    before = ring.index.priorities.reshape(-1)[start]
    kept_or_new = jnp.where(before > 0, before, ring.index.max_priority)
    priority = jnp.where(sampleable(spec, ring, times), kept_or_new, 0.0)
    return ring.replace(index=set_priorities(ring.index, start.ravel(), priority.ravel()))


def sampleable(spec: RingSpec, ring: Ring, times: jax.Array) -> jax.Array:
    """Returns which rows may start a sampled window.

    Args:
      spec: static part of the ring.
      ring: the ring.
      times: `[M]` int32, times since birth; times that are no longer or not yet in the ring are not sampleable.

    Returns:
      `[M, E]` bool.
    """
    newest = ring.index.written - 1
    oldest = jnp.maximum(ring.index.written - spec.num_steps, 0)
    slot = times % spec.num_steps

    age = jnp.arange(max(spec.stack, 1))
    stack_first = ring.rows.first[(slot[:, None] - age) % spec.num_steps]  # [M, k, E]
    in_ring = (times[:, None] - age >= oldest)[..., None]
    stack_ok = (in_ring | true_before(stack_first, axis=1)).all(axis=1)

    ahead = slot[:, None] + 1 + jnp.arange(spec.n_step)
    ahead = ahead % spec.num_steps
    window_ends = ring.rows.terminated[ahead] | ring.rows.last[ahead]  # [M, n, E]
    written = (times[:, None] + 1 + jnp.arange(spec.n_step) <= newest)[..., None]
    window_ok = written[:, -1] | (window_ends & written).any(axis=1)

    there = ((times >= oldest) & (times <= newest))[:, None]
    return there & stack_ok & window_ok & ~ring.rows.last[slot]
