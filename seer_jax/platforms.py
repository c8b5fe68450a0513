"""What is written differently for each platform, because of how XLA compiles it; results agree to float rounding.

JAX chooses between the forms when it lowers a program for a device, which need not be one of this machine. The figures
behind each choice are in `docs/performance.md`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Platforms whose gradients of convolutions are slow inside a loop: on the CPU 20 times slower than outside of one.
UNROLL_CONVOLUTIONS = frozenset({"cpu"})


def map_apart(fn: Callable[[Any], Any], xs: Any, *, batch_size: int | None = None) -> Any:
    """Maps `fn` over the leading axis of `xs`, and computes the result once, whoever reads it.

    XLA:CPU fuses cheap expressions into each operation that reads them, and computes them again there for each of its
    entries. It does not fuse across a loop. Elsewhere the loop would only add kernels.

    Args:
      fn: maps one element.
      xs: arrays with a leading axis.
      batch_size: elements that a turn of the loop maps together; None maps one at a time.
    """
    return jax.lax.platform_dependent(
        xs, cpu=lambda xs: jax.lax.map(fn, xs, batch_size=batch_size), default=jax.vmap(fn)
    )


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns `x @ y`, on a TPU in three passes.

    By default a TPU rounds inputs to bfloat16, which changes the gradient of Rainbow's encoder by a tenth of its norm.
    Three passes cost little where memory limits an update.
    """
    return jax.lax.platform_dependent(x, y, tpu=_three_pass_product, default=jnp.matmul)


def _three_pass_product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGH)


def patch_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies `[p, p, C, features]` to disjoint patches of `[..., H, W, C]`; a remainder of the image is cropped.

    On a TPU this is a convolution with stride p, in three passes (see `product`). Elsewhere it is a product of
    patches, since the gradient of a convolution is slow inside a loop on the CPU and takes more kernels on a GPU. So is
    a single image on a TPU, of which a convolution moves twice the bytes.
    """
    one_image = math.prod(x.shape[:-3]) == 1
    on_tpu = _three_pass_patch_product if one_image else _strided_convolution
    return jax.lax.platform_dependent(x, kernel, tpu=on_tpu, default=_patch_product)


def _strided_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    *batch, height, width, channels = x.shape
    images = x.reshape(-1, height, width, channels)
    out = jax.lax.conv_general_dilated(
        images,
        kernel,
        kernel.shape[:2],
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGH,
    )
    return out.reshape(*batch, *out.shape[1:])


def _three_pass_patch_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _patch_product(x, kernel, precision=jax.lax.Precision.HIGH)


def _patch_product(x: jax.Array, kernel: jax.Array, *, precision: jax.lax.PrecisionLike = None) -> jax.Array:
    *batch, height, width, channels = x.shape
    p, rows, cols = len(kernel), height // len(kernel), width // len(kernel)
    patches = x[..., : rows * p, : cols * p, :].reshape(*batch, rows, p, cols, p, channels)
    patches = jnp.swapaxes(patches, -4, -3).reshape(*batch, rows, cols, p * p * channels)
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


def copy_if(condition: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` if a scalar condition is true, otherwise `old`.

    A TPU branches: selecting entry by entry reads and writes all of them at each call. A GPU would
    wait for the host at a branch, and the CPU gains nothing by one.
    """
    return jax.lax.platform_dependent(condition, new, old, tpu=_branch, default=_select)


def _select(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def _branch(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.lax.cond(condition, lambda new, old: new, lambda new, old: old, new, old)
