"""Convolutional encoders for Atari: stages from pixels to a flat latent.

A stage whose kernel equals its stride reads disjoint patches: it is a reshape and one matrix product,
which no backend runs slower than a convolution, inside a loop or out of it.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class ConvStage(NamedTuple):
    """A square convolution without padding, followed by ReLU."""

    features: int
    kernel: int
    stride: int


STAGES = {
    # van Hasselt et al. 2019, https://arxiv.org/abs/1906.05243
    "data_efficient": (ConvStage(32, 5, 5), ConvStage(64, 5, 5)),
    # Mnih et al. 2015, https://doi.org/10.1038/nature14236
    "canonical": (ConvStage(32, 8, 4), ConvStage(64, 4, 2), ConvStage(64, 3, 1)),
}


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Uniform on `[-1/sqrt(fan_in), 1/sqrt(fan_in)]`, the initialisation of the official agents."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class PatchConv(nn.Module):
    """A convolution with `kernel == stride`, as one matrix product over disjoint patches.

    Attributes:
      features: output channels.
      patch: height, width and stride of the kernel.
    """

    features: int
    patch: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H // patch, W // patch, features]`; a remainder is cropped."""
        *batch, height, width, channels = x.shape
        p, rows, cols = self.patch, height // self.patch, width // self.patch
        init = fan_in_uniform(p * p * channels)
        kernel = self.param("kernel", init, (p, p, channels, self.features))
        bias = self.param("bias", init, (self.features,))
        patches = x[..., : rows * p, : cols * p, :].reshape(*batch, rows, p, cols, p, channels)
        patches = jnp.swapaxes(patches, -4, -3).reshape(*batch, rows, cols, p * p * channels)
        return patches @ kernel.reshape(-1, self.features) + bias


class ConvEncoder(nn.Module):
    """A sequence of `ConvStage`s; parameters are named `conv1`, `conv2`, ..."""

    stages: tuple[ConvStage, ...]

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Maps `[B, H, W, k]` uint8 observations to `[B, L]` float32 latents."""
        x = obs.astype(jnp.float32) / 255.0
        for i, (features, kernel, stride) in enumerate(self.stages, start=1):
            if kernel == stride:
                x = PatchConv(features, kernel, name=f"conv{i}")(x)
            else:
                init = fan_in_uniform(kernel * kernel * x.shape[-1])
                conv = nn.Conv(
                    features,
                    (kernel, kernel),
                    strides=stride,
                    padding="VALID",
                    kernel_init=init,
                    bias_init=init,
                    name=f"conv{i}",
                )
                x = conv(x)
            x = nn.relu(x)
        return x.reshape(*x.shape[:-3], -1)


def latent_size(name: str, image_size: int) -> int:
    """Returns L for square images of `image_size` pixels; 0 where the image is too small for the stages."""
    size = image_size
    for _, kernel, stride in STAGES[name]:
        size = (size - kernel) // stride + 1 if size >= kernel else 0
    return size * size * STAGES[name][-1].features
