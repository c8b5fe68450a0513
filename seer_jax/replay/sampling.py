"""Sampling: n-step transitions, whose observations and windows are rebuilt from rows."""

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import platforms
from seer_jax.replay import layout
from seer_jax.replay.frames import stack_frames, true_before
from seer_jax.replay.priorities import draw_starts, importance_weights
from seer_jax.replay.records import Batch, Ring, RingSpec


def sample(
    spec: RingSpec, ring: Ring, key: jax.Array, *, batch_size: int, importance_exponent: jax.Array | float = 0.0
) -> Batch:
    """Does what `shards.sample` does, with what one device holds."""
    k_start, k_obs, k_next = jax.random.split(key, 3)
    start, priority = draw_starts(ring.index, k_start, batch_size)
    slot, env = start // spec.num_envs, start % spec.num_envs  # [B]

    ahead = (slot[:, None] + 1 + jnp.arange(spec.n_step)) % spec.num_steps  # [B, n]
    terminated, last = (layout.take(x, ahead, env[:, None]) for x in (ring.rows.terminated, ring.rows.last))
    ended_before = true_before(terminated | last, axis=1)
    taken = jnp.sum(~ended_before, axis=1)  # [B], m of the n steps belong to the window
    discounts = jnp.asarray(spec.discount ** np.arange(spec.n_step + 1), jnp.float32)
    rewards = jnp.where(ended_before, 0.0, layout.take(ring.rows.reward, ahead, env[:, None]))
    stops = jnp.any(terminated & ~ended_before, axis=1)
    bootstrap = (slot + taken) % spec.num_steps

    return Batch(
        obs=_observe(spec, ring, slot, env, k_obs),
        action=layout.take(ring.rows.action, slot, env),
        reward=jnp.dot(rewards, discounts[:-1], precision=jax.lax.Precision.HIGHEST),  # TPUs would round it
        discount=jnp.where(stops, 0.0, discounts[taken]),
        next_obs=_observe(spec, ring, bootstrap, env, k_next),
        weight=importance_weights(spec, priority, importance_exponent),
        start=start,
    )


def _observe(spec: RingSpec, ring: Ring, slot: jax.Array, env: jax.Array, key: jax.Array) -> jax.Array:
    """Rebuilds the observations of rows `slot`, `env` (both `[B]`)."""
    rows = ring.rows
    if spec.stack:
        back = jnp.arange(spec.stack)[::-1]

        def read(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            slot, env = row
            at = (slot - back) % spec.num_steps, env
            frames = layout.from_stored(ring.observation, rows.observation[at])  # [k, H, W, C]
            return stack_frames(frames, rows.first[at], first_stack=spec.first_stack)

        # Otherwise XLA:CPU would rebuild the stacks, with their indices and masks, for every pixel of every product
        # that reads them.
        return platforms.map_apart(read, (slot, env), batch_size=max(1, slot.size // 2))
    copies = layout.from_stored(ring.observation, rows.observation[slot, env])  # [B, K, N, L]
    num_copies = copies.shape[1]
    copy = 0 if num_copies == 1 else jax.random.randint(key, slot.shape, 0, num_copies)
    return copies[jnp.arange(slot.size), copy].astype(jnp.float32)
