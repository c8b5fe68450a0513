"""What is written differently for each platform, because of how XLA compiles it; results agree to float rounding.

JAX chooses between the forms when it lowers a program for a device, which need not be one of this machine. The figures
behind each choice are in `docs/performance.md`.
"""

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
    patches, since the gradient of a convolution is slow inside a loop on the CPU and takes more kernels on a GPU.
    """
    return jax.lax.platform_dependent(x, kernel, tpu=_strided_convolution, default=_patch_product)


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


def _patch_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    *batch, height, width, channels = x.shape
    p, rows, cols = len(kernel), height // len(kernel), width // len(kernel)
    patches = x[..., : rows * p, : cols * p, :].reshape(*batch, rows, p, cols, p, channels)
    patches = jnp.swapaxes(patches, -4, -3).reshape(*batch, rows, cols, p * p * channels)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


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


def write_if(condition: jax.Array, rows: Any, row: Any, slot: jax.Array) -> Any:
    """Returns `rows` with `row` at index `slot` if a scalar condition is true, otherwise `rows`.

    A TPU writes in a loop that has a turn for each write. If the rows are bytes, its compiler copies all of them for a
    program that selects between the new row and the old one, or that scatters a row of each seed. A GPU would wait for
    the host at each turn.

    Args:
      condition: bool `[]`.
      rows: arrays `[T, ...]`.
      row: arrays `[...]`.
      slot: int `[]`.
    """
    return jax.lax.platform_dependent(condition, rows, row, slot, tpu=_write_one, default=_write_selected)


def _write_selected(condition: jax.Array, rows: Any, row: Any, slot: jax.Array) -> Any:
    row = jax.tree.map(lambda buf, x: jnp.where(condition, x, buf[slot]), rows, row)
    return jax.tree.map(lambda buf, x: jax.lax.dynamic_update_index_in_dim(buf, x, slot, 0), rows, row)


@jax.custom_batching.custom_vmap
def _write_one(condition: jax.Array, rows: Any, row: Any, slot: jax.Array) -> Any:
    several = jax.tree.map(lambda x: x[None], (condition, rows, row, slot))
    return jax.tree.map(lambda x: x[0], _write_in_loop(*several))


@_write_one.def_vmap
def _write_several(size: int, are_mapped: Any, *args: Any) -> tuple[Any, Any]:
    """Maps `_write_one` over a leading axis of its arguments, those of several seeds."""
    args = jax.tree.map(
        lambda x, mapped: x if mapped else jnp.broadcast_to(x, (size, *x.shape)), args, tuple(are_mapped)
    )
    rows = _write_in_loop(*args)
    return rows, jax.tree.map(lambda _: True, rows)


def _write_in_loop(conditions: jax.Array, rows: Any, row: Any, slots: jax.Array) -> Any:
    """Does what `write_if` does for each index of the leading axes, those whose condition is true one by one."""
    order = jnp.argsort(~conditions, stable=True)

    def write(turn: jax.Array, rows: Any) -> Any:
        i = order[turn]

        def put(buf: jax.Array, x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(buf, x[i][None, None], (i, slots[i], *(0,) * (buf.ndim - 2)))

        return jax.tree.map(put, rows, row)

    return jax.lax.fori_loop(0, conditions.sum(), write, rows)
