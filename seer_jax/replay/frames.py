"""Stacks of frames: the same stack for the agent that acts and for the ring that samples."""

import jax
import jax.numpy as jnp


def push_frame(stack: jax.Array, frame: jax.Array, first: jax.Array) -> jax.Array:
    """Rolls `[E, H, W, k * C]` stacks by one `[E, H, W, C]` frame; where `first`, older frames are set to zero."""
    older = jnp.where(first[:, None, None, None], 0, stack[..., frame.shape[-1] :])
    return jnp.concatenate([older, frame], axis=-1)


def empty_stack(frame_shape: tuple[int, ...], frame_stack: int) -> jax.Array:
    """Returns stacks of zeros, `[E, H, W, k * C]`, for frames of shape `[E, H, W, C]`."""
    *shape, channels = frame_shape
    return jnp.zeros((*shape, frame_stack * channels), jnp.uint8)


def stack_frames(frames: jax.Array, first: jax.Array) -> jax.Array:
    """Stacks `[k, H, W, C]` frames of consecutive rows; those before the last `first` of `[k]` are set to zero.

    Returns:
      `[H, W, k * C]`, newest last: what `push_frame` gives for the same rows.
    """
    before = true_before(first[::-1], axis=0)[::-1]
    kept = jnp.where(before[:, None, None, None], 0, frames)
    return jnp.moveaxis(kept, 0, -2).reshape(*frames.shape[1:3], -1)


def true_before(flag: jax.Array, axis: int) -> jax.Array:
    """Returns True at the positions along `axis` that have a true `flag` somewhere before them."""
    seen = jax.lax.cumsum(flag.astype(jnp.int32), axis=axis)
    return seen - flag > 0
