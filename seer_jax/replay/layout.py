"""How a ring stores observations, flat, in whole lanes of 128 elements, and 16-bit floats as integers; how it is read.

A TPU reads tiles whose minor axis is 128 lanes wide. If the minor axis of the rows is no multiple of that, its compiler
makes time the minor axis, and a program that gathers rows first copies the whole ring into another layout.
XLA:CPU has no operations on 16-bit floats: to gather from them it would first convert the whole ring to float32.
Only the functions of this module know any of this; an observation has its own shape and type everywhere else.
"""

import math

import jax
import jax.numpy as jnp

LANES = 128  # elements in the minor axis of a tile


def stored(observation: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns shape `[W]` and type in which a ring stores an observation of this shape and type."""
    width = -(-math.prod(observation.shape) // LANES) * LANES
    is_narrow_float = jnp.issubdtype(observation.dtype, jnp.floating) and observation.dtype.itemsize == 2
    return jax.ShapeDtypeStruct((width,), jnp.uint16 if is_narrow_float else observation.dtype)


def to_stored(observation: jax.ShapeDtypeStruct, x: jax.Array) -> jax.Array:
    """Rounds observations to their type and flattens them, padded with zeros.

    Args:
      observation: shape and type of one observation.
      x: `[..., *observation.shape]` of any type.

    Returns:
      `[..., W]`, as `stored` says.
    """
    batch_shape, to = x.shape[: x.ndim - len(observation.shape)], stored(observation)
    flat = jnp.asarray(x, observation.dtype).reshape(*batch_shape, -1)
    padded = jnp.pad(flat, [(0, 0)] * len(batch_shape) + [(0, to.shape[0] - flat.shape[-1])])
    return jax.lax.bitcast_convert_type(padded, to.dtype)


def from_stored(observation: jax.ShapeDtypeStruct, x: jax.Array) -> jax.Array:
    """Inverts `to_stored`: returns `[..., *observation.shape]` for `x`, `[..., W]`."""
    values = jax.lax.bitcast_convert_type(x[..., : math.prod(observation.shape)], observation.dtype)
    return values.reshape(*x.shape[:-1], *observation.shape)


def take(x: jax.Array, slot: jax.Array, env: jax.Array) -> jax.Array:
    """Gathers the entries of rows that have few of them, one by one: for whole rows a TPU would copy all of `x` first.

    Args:
      x: `[T, E, *shape]`.
      slot: first index.
      env: second index; both are broadcast to a common shape `[...]`.

    Returns:
      `[..., *shape]`.
    """
    entries = jnp.indices(x.shape[2:], sparse=True)
    slot, env = (jnp.expand_dims(i, range(i.ndim, i.ndim + len(entries))) for i in (slot, env))
    return x[(slot, env, *entries)]
