"""Layers that are written differently because of how XLA compiles them; results are the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from seer_jax import platforms
from seer_jax.networks.initializers import UNIFORM, Init


class PatchConv(nn.Module):
    """A convolution with `kernel == stride`: disjoint patches, in the form that suits the platform.

    Attributes:
      features: output channels.
      patch: height, width and stride of the kernel.
      init_fns: initializers.
    """

    features: int
    patch: int
    init_fns: Init = UNIFORM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H // patch, W // patch, features]`; a remainder is cropped."""
        p, channels = self.patch, x.shape[-1]
        fan_in = p * p * channels
        kernel = self.param("kernel", self.init_fns.kernel(fan_in), (p, p, channels, self.features))
        bias = self.param("bias", self.init_fns.bias(fan_in), (self.features,))
        return platforms.patch_convolution(x, kernel) + bias


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows with stride 2, padded like SAME; `[B, H, W, C]` to `[B, ceil(H / 2), ceil(W / 2), C]`.

    Rows, then columns, each as the maximum of an even, an odd and the next even one. On the CPU the gradient of XLA's
    own pooling takes nine times as long. Positions that share a maximum share its gradient.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        out = -(-size // 2)
        pads = [(0, 0)] * x.ndim
        before = (2 * out + 1 - size) // 2
        pads[axis] = (before, 2 * out + 2 - size - before)
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        pairs = padded.reshape(*x.shape[:axis], out + 1, 2, *x.shape[axis + 1 :])
        even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
        this, following = (jax.lax.slice_in_dim(even, i, i + out, axis=axis) for i in (0, 1))
        x = jnp.maximum(jnp.maximum(this, following), jax.lax.slice_in_dim(odd, 0, out, axis=axis))
    return x
