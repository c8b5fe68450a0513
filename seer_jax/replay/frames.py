"""Stacks of frames: the same stack for the agent that acts and for the ring that samples.

`first_stack` says what stands in a stack before the first frame of an episode: zeros (`black`), as in the official code
for Atari, or that first frame repeated (`repeat`), as in its code for DeepMind Control.
"""

import jax
import jax.numpy as jnp


def push_frame(stack: jax.Array, frame: jax.Array, first: jax.Array, *, first_stack: str) -> jax.Array:
    """Rolls `[E, H, W, k * C]` stacks by one `[E, H, W, C]` frame.

    Args:
      stack: the stacks so far, newest frame last.
      frame: the newest frames.
      first: `[E]`, whether each is the first of an episode.
      first_stack: what replaces older frames there.
    """
    begins, older = first[:, None, None, None], stack[..., frame.shape[-1] :]
    before_first = jnp.tile(frame, older.shape[-1] // frame.shape[-1]) if first_stack == "repeat" else 0
    return jnp.concatenate([jnp.where(begins, before_first, older), frame], axis=-1)


def empty_stack(frame_shape: tuple[int, ...], frame_stack: int) -> jax.Array:
    """Returns stacks of zeros, `[E, H, W, k * C]`, for frames of shape `[E, H, W, C]`."""
    *shape, channels = frame_shape
    return jnp.zeros((*shape, frame_stack * channels), jnp.uint8)


def stack_frames(frames: jax.Array, first: jax.Array, *, first_stack: str) -> jax.Array:
    """Stacks the frames of consecutive rows.

    Args:
      frames: `[k, H, W, C]`.
      first: `[k]`, whether each is the first of an episode.
      first_stack: what replaces the frames before the last `first`.

    Returns:
      `[H, W, k * C]`, newest last: what `push_frame` gives for the same rows.
    """
    newest_first = first[::-1]
    before = true_before(newest_first, axis=0)[::-1]
    before_first = frames[len(first) - 1 - jnp.argmax(newest_first)] if first_stack == "repeat" else 0
    kept = jnp.where(before[:, None, None, None], before_first, frames)
    return jnp.moveaxis(kept, 0, -2).reshape(*frames.shape[1:3], -1)


def true_before(flag: jax.Array, axis: int) -> jax.Array:
    """Returns True at the positions along `axis` that have a true `flag` somewhere before them."""
    seen = jax.lax.cumsum(flag.astype(jnp.int32), axis=axis)
    return seen - flag > 0
