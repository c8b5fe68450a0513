"""Similarity of two representations of the same inputs, by centred kernel alignment. In float32, on the device.

Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, equation 3 with linear kernels, section 3.
"""

import jax
import jax.numpy as jnp


def linear_cka(x: jax.Array, y: jax.Array) -> jax.Array:
    """Linear CKA of two representations; no rotation and no common factor of the features changes it.

    Of representations that have nothing to do with each other it is not 0, and the features of a random network are
    often near those of a trained one: compare it with that of an untrained encoder.

    Args:
      x: `[N, F1]` features.
      y: `[N, F2]` features of the same N inputs, in the same order.

    Returns:
      `[]`, between 0 and 1; 1 for equal representations, and 0 if the features of one do not vary.
    """
    return _alignment(_centred_gram(x), _centred_gram(y))


def _alignment(k: jax.Array, l: jax.Array) -> jax.Array:  # noqa: E741 - the names of the paper
    scale = jnp.sqrt(jnp.square(k).sum()) * jnp.sqrt(jnp.square(l).sum())
    return jnp.where(scale > 0, (k * l).sum() / jnp.where(scale > 0, scale, 1.0), 0.0)


def _centred_gram(x: jax.Array) -> jax.Array:
    """Returns `[N, N]` products of the centred features, scaled so that their squares do not overflow.

    It is 0 if the features differ by less than the rounding of their mean.
    """
    rounding = jnp.finfo(x.dtype).eps * jnp.abs(x).max() * 4
    x = x - x.mean(axis=0)
    largest = jnp.abs(x).max()
    x = jnp.where(largest > rounding, x / jnp.maximum(largest, jnp.finfo(x.dtype).tiny), 0.0)
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)  # a TPU would round the features
