"""Simulated rounding: products of what was rounded by hand, wherever they are in a program."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import precision
from tests.helpers.arrays import normal


def by_hand(x):
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def test_products_in_loops_branches_and_gradients_are_rounded():
    x, y = jnp.asarray(normal(3, 3)), jnp.asarray(normal(3, 3, seed=1))

    def of(product):
        def fn(x, y):
            z, _ = jax.lax.scan(lambda z, _: (jnp.sin(product(z, y)), None), x, length=3)
            return jax.lax.cond(z.sum() > 100.0, lambda z: z, lambda z: jax.jit(product)(z, y), z)

        return fn

    expected = jax.jit(of(lambda x, y: by_hand(x) @ by_hand(y)))(x, y)
    np.testing.assert_array_equal(jax.jit(precision.rounded(of(jnp.matmul)))(x, y), expected)
    assert not np.allclose(of(jnp.matmul)(x, y), expected, atol=1e-5)

    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(x @ y)))
    cotangent = jnp.cos(by_hand(x) @ by_hand(y))
    np.testing.assert_allclose(precision.rounded(gradient)(x), by_hand(cotangent) @ by_hand(y).T, rtol=1e-6)
