"""Rings full of noise, to sample from in a benchmark."""

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import replay
from seer_jax.seer.phases import Phase


def noisy_ring(phase: Phase, num_steps: int | None = None) -> replay.Ring:
    """Returns a ring of random observations and rewards, in which every row can be sampled.

    Args:
      phase: whose ring it is.
      num_steps: rows of each environment; None fills the ring.
    """
    rng, spec = np.random.default_rng(0), phase.ring_spec
    count = num_steps or spec.num_steps

    def draw(x: jax.Array) -> jax.Array:
        shape = (count, *x.shape)
        if x.dtype == np.uint8:
            return jnp.asarray(rng.integers(0, 256, shape, np.uint8))
        return jnp.asarray(rng.normal(size=shape), x.dtype)

    rows = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), phase.row)
    rows = rows.replace(observation=draw(phase.row.observation), reward=draw(phase.row.reward))
    ring = phase.init_ring()
    written = replay.write(spec, ring, 0, rows)
    return replay.restore(spec, written, ring.index.max_priority, np.ones((count, spec.num_envs), np.float32))
