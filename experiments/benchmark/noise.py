"""Rings full of noise, to sample from in a benchmark."""

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import replay


def noisy_ring(spec: replay.RingSpec, shapes: replay.Ring) -> replay.Ring:
    """Returns a full ring of random observations and rewards, in which every row can be sampled.

    Args:
      spec: of the ring.
      shapes: shapes and dtypes of the ring.
    """
    rng = np.random.default_rng(0)

    def draw(x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        if x.dtype == np.uint8:
            return jnp.asarray(rng.integers(0, 256, x.shape, np.uint8))
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)

    rows = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.rows)
    rows = rows.replace(observation=draw(shapes.rows.observation), reward=draw(shapes.rows.reward))
    ring = replay.init(spec, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes.rows))
    ring = ring.replace(rows=rows, written=jnp.int32(spec.num_steps))
    return replay.restore_priorities(spec, ring, jnp.ones((spec.num_steps, spec.num_envs)))
