"""Initializers of convolutions and of noisy layers, as in the official code."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Init(NamedTuple):
    """Initializers of a convolution.

    Attributes:
      kernel: maps the number of inputs to the initializer of the kernel.
      bias: maps the number of inputs to the initializer of the bias.
    """

    kernel: Callable[[int], nn.initializers.Initializer]
    bias: Callable[[int], nn.initializers.Initializer]


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Uniform on `[-1/sqrt(fan_in), 1/sqrt(fan_in)]`, the initialisation of the official Rainbow."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


UNIFORM = Init(kernel=fan_in_uniform, bias=fan_in_uniform)
# The official CURL's; the gain is that of ReLU.
DELTA_ORTHOGONAL = Init(
    kernel=lambda fan_in: nn.initializers.delta_orthogonal(2**0.5), bias=lambda fan_in: nn.initializers.zeros
)
