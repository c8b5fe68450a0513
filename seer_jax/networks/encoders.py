"""Encoders: sequences of named stages from pixels to features, any prefix of which can be frozen.

A stage is any object with `init(key, x) -> params` and `apply(params, x) -> y`, as a Flax module is.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from seer_jax import platforms
from seer_jax.networks import haiku
from seer_jax.networks.cpu_ops import PatchConv, max_pool
from seer_jax.networks.initializers import UNIFORM, Init

Params = dict[str, Any]


def _conv(
    x: jax.Array, init_fns: Init, features: int, kernel: int, stride: int = 1, padding: str = "VALID"
) -> jax.Array:
    """Applies a square convolution inside a compact module; the module's first is `Conv_0`, and so on."""
    fan_in = kernel * kernel * x.shape[-1]
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=padding,
        kernel_init=init_fns.kernel(fan_in),
        bias_init=init_fns.bias(fan_in),
    )(x)


class ConvStage(nn.Module):
    """A square convolution without padding, followed by ReLU."""

    features: int
    kernel: int
    stride: int
    init_fns: Init = UNIFORM

    @property
    def reads_patches(self) -> bool:
        """Whether its windows do not overlap."""
        return self.kernel == self.stride

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.reads_patches:
            return nn.relu(PatchConv(self.features, self.kernel, self.init_fns)(x))
        return nn.relu(_conv(x, self.init_fns, self.features, self.kernel, self.stride))

    def layer(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """Returns kernel `[p, p, inputs, features]` and bias `[features]` of a stage that reads patches."""
        layer = params["params"]["PatchConv_0"]
        return layer["kernel"], layer["bias"]


class ResidualStage(nn.Module):
    """A convolution, a pooling that halves the image, and two residual blocks of two convolutions each.

    One of the three sections of Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, figure 3.

    Attributes:
      features: output channels.
      last: whether the section is the encoder's last, which ends with a ReLU.
      pool: whether the mean over the image follows, `[B, features]` (Trumpp et al. 2025,
        https://arxiv.org/abs/2503.05546).
      init_fns: initializers.
    """

    features: int
    last: bool = False
    pool: bool = False
    init_fns: Init = UNIFORM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _conv(x, self.init_fns, self.features, 3, padding="SAME")
        x = max_pool(x)
        for _ in range(2):
            block = _conv(nn.relu(x), self.init_fns, self.features, 3, padding="SAME")
            x = x + _conv(nn.relu(block), self.init_fns, self.features, 3, padding="SAME")
        x = nn.relu(x) if self.last else x
        return x.mean(axis=(-3, -2)) if self.pool else x


class DenseNorm(nn.Module):
    """A dense layer and its layer normalisation, the end of the SAC-AE encoder; flattens its input."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, ...]` to `[B, features]`."""
        x = nn.Dense(self.features, kernel_init=nn.initializers.orthogonal())(flatten(x))
        return nn.LayerNorm(epsilon=1e-5)(x)


def flatten(x: jax.Array) -> jax.Array:
    """Maps `[B, ...]` to `[B, L]`."""
    return x.reshape(x.shape[0], -1)


def to_float(images: jax.Array) -> jax.Array:
    """Maps uint8 pixels to float32 between 0 and 1; what is a float already stays as it is."""
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images


class Stage(NamedTuple):
    """A part of an encoder that is frozen as a whole.

    Attributes:
      name: unique in its encoder.
      module: has `init(key, x) -> params` and `apply(params, x) -> y`.
    """

    name: str
    module: Any


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Stages one after another; parameters are a dictionary by stage name.

    Attributes:
      stages: in order.
      compute_dtype: dtype in which stages compute. Parameters, gradients and outputs are float32 in any case.
    """

    stages: tuple[Stage, ...]
    compute_dtype: str = "float32"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(stage.name for stage in self.stages)

    def init(self, key: jax.Array, x: jax.Array) -> Params:
        """Returns parameters for inputs like `x`, `[B, H, W, C]` float32."""
        params = {}
        for stage, k_stage in zip(self.stages, jax.random.split(key, max(1, len(self.stages))), strict=False):
            params[stage.name] = stage.module.init(k_stage, x)
            x = stage.module.apply(params[stage.name], x)
        return params

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]`, uint8 pixels or float32, to the last stage's output, float32."""
        params = jax.tree.map(lambda leaf: leaf.astype(self.compute_dtype), params)
        patched, others = self._split_patches()
        if patched:
            layers = [stage.module.layer(params[stage.name]) for stage in patched]
            x = platforms.patch_convolutions(x, layers, prepare=self._prepare)
        else:
            x = self._prepare(x)
        for stage in others:
            x = stage.module.apply(params[stage.name], x)
        return x.astype(jnp.float32)

    def outputs(self, params: Params, x: jax.Array) -> dict[str, jax.Array]:
        """Maps what `apply` does to the output of every stage by its name, `[B, ...]` float32."""
        found = {}
        for stage in self.stages:
            x = dataclasses.replace(self, stages=(stage,)).apply(params, x)
            found[stage.name] = x
        return found

    def _prepare(self, x: jax.Array) -> jax.Array:
        return to_float(x).astype(self.compute_dtype)

    def _split_patches(self) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
        """Returns the first stages, if several of them read disjoint patches, and the others."""
        count = 0
        while count < len(self.stages) and getattr(self.stages[count].module, "reads_patches", False):
            count += 1
        count = count if count > 1 else 0
        return self.stages[:count], self.stages[count:]

    def split_after(self, name: str) -> tuple["Encoder", "Encoder"]:
        """Returns the prefix that ends with stage `name`, and the stages after it."""
        end = self.names.index(name) + 1
        return dataclasses.replace(self, stages=self.stages[:end]), dataclasses.replace(self, stages=self.stages[end:])

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of one output for one input of `(H, W, C)`, which contains 0 if the image is too small."""
        return _output_shape(self, input_shape)


@functools.cache  # tracing an encoder takes a while, and equal encoders are asked again and again
def _output_shape(encoder: Encoder, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)

    def output(key: jax.Array, x: jax.Array) -> jax.Array:
        return encoder.apply(encoder.init(key, x), x)

    return jax.eval_shape(output, jax.random.PRNGKey(0), x).shape[1:]


def _convolutions(*stages: tuple[int, int, int]) -> Callable[[Init, int], tuple[Stage, ...]]:
    def build(init_fns: Init, width: int) -> tuple[Stage, ...]:
        assert width == 1  # `resolve` refuses others
        return tuple(Stage(f"conv{i}", ConvStage(*stage, init_fns)) for i, stage in enumerate(stages, start=1))

    return build


def _impala(*, pool: bool) -> Callable[[Init, int], tuple[Stage, ...]]:
    def build(init_fns: Init, width: int) -> tuple[Stage, ...]:
        *first, last = (16 * width, 32 * width, 32 * width)
        stages = [*map(functools.partial(ResidualStage, init_fns=init_fns), first)]
        stages.append(ResidualStage(last, last=True, pool=pool, init_fns=init_fns))
        return tuple(Stage(f"section{i}", stage) for i, stage in enumerate(stages, start=1))

    return build


# Features, kernel and stride of each stage.
ENCODERS = {
    # van Hasselt et al. 2019, https://arxiv.org/abs/1906.05243
    "data_efficient": _convolutions((32, 5, 5), (64, 5, 5)),
    # Mnih et al. 2015, https://doi.org/10.1038/nature14236
    "canonical": _convolutions((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    # Yarats et al. 2019, https://arxiv.org/abs/1910.01741, without its dense layer; that of DrQ is the same
    # (Kostrikov et al. 2020, https://arxiv.org/abs/2004.13649)
    "sac_ae": _convolutions((32, 3, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1)),
    # Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, figure 3, without its dense layer
    "impala": _impala(pool=False),
    # the same with global average pooling: Trumpp et al. 2025, https://arxiv.org/abs/2503.05546
    "impoola": _impala(pool=True),
}
WIDENED = ("impala", "impoola")  # whose channels `encoder.width` multiplies


def make_encoder(name: str, init_fns: Init, compute_dtype: str = "float32", width: int = 1) -> Encoder:
    """Returns the encoder that `encoder.name` gives.

    Args:
      name: a key of `ENCODERS`, or `haiku:package.module:function`, which initialises itself.
      init_fns: initializers of the convolutions.
      compute_dtype: what it computes in.
      width: factor of the channels; 1 unless the name is one of `WIDENED`.

    Raises:
      haiku.HaikuError: the Haiku function cannot be used.
    """
    if name.startswith(haiku.PREFIX):
        return Encoder((Stage("haiku", haiku.load(name)),), compute_dtype)
    return Encoder(ENCODERS[name](init_fns, width), compute_dtype)
