"""The freeze: how large the latent ring may be, and how the image ring becomes it.

The image ring is streamed to disk, freed, and streamed back through the frozen encoder, so that no
more than the larger of the two rings and one chunk are ever in memory.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seer_jax import checkpoint, phases, replay
from seer_jax.agents import base
from seer_jax.networks import encoders

_CHUNK_ROWS = 256  # rows, over all environments, that are on their way at one time


def bytes_per_row(config: ConfigDict) -> tuple[int, int]:
    """Bytes of one stored observation before the freeze (P of the paper) and after it."""
    latent_size = encoders.latent_size(config.encoder.name, config.env.image_size)
    itemsize = jnp.dtype(config.replay.latent_dtype).itemsize
    return config.env.image_size**2, itemsize * config.seer.num_copies * latent_size


def capacity_in_same_bytes(config: ConfigDict) -> int:
    """C_hat of section 4.2 of the paper: latents that fit where `replay.capacity` frames were."""
    frame, latent = bytes_per_row(config)
    return config.replay.capacity * frame // latent


def frozen_capacity(config: ConfigDict) -> int:
    """Rows of the latent ring: C_hat if it grows, C otherwise; never below C."""
    grown = capacity_in_same_bytes(config) if config.replay.grow_after_freeze else 0
    return max(grown, config.replay.capacity)


def full_capacity(config: ConfigDict) -> int:
    """Rows of the image ring: C, or as many as a run can fill before it freezes, whichever is less.

    Every episode has a step and at most one row more than steps, so a run of S steps writes at most
    2 S rows; room for more would be allocated and never written.
    """
    if not config.seer.enabled:
        return config.replay.capacity
    least = replay.min_steps(config.agent.n_step, config.env.frame_stack)
    reachable = 2 * config.seer.freeze_step + (least + 2) * config.num_envs
    return min(config.replay.capacity, reachable)


def freeze(
    agent: base.Agent,
    state: base.TrainState,
    spec: replay.RingSpec,
    ring: replay.Ring,
    *,
    capacity: int,
    latent_dtype: str,
    snapshot_dir: pathlib.Path,
) -> tuple[base.TrainState, replay.RingSpec, replay.Ring]:
    """Freezes the encoder and turns stored frames into latents, in order, oldest first.

    Args:
      agent: the agent.
      state: its state in the full phase.
      spec: of the image ring.
      ring: the image ring; its memory is freed.
      capacity: rows of the latent ring, not fewer than the image ring holds.
      latent_dtype: of the stored latents.
      snapshot_dir: receives the state as it was before the freeze, and all rows.

    Returns:
      State, spec and ring of the frozen phase.
    """
    checkpoint.save_state(snapshot_dir, state)
    snapshot = checkpoint.ChunkStream(snapshot_dir)
    size = min(int(ring.written), spec.num_steps)
    chunk_steps = max(1, _CHUNK_ROWS // spec.num_envs)
    for begin in range(0, size, chunk_steps):
        age = np.arange(size - begin, max(size - begin - chunk_steps, 0), -1)
        rows, priority = jax.device_get(_read_rows(spec, ring, age))
        snapshot.append(**vars(rows), priority=priority)
    max_priority = np.asarray(ring.max_priority)
    frame_shape = ring.rows.observation.shape[1:]
    for array in jax.tree.leaves(ring):
        array.delete()

    state = agent.freeze(state)
    latent_spec = dataclasses.replace(spec, num_steps=capacity // spec.num_envs, stack=0)
    latent_shape = _latent_shape(agent, state, (*frame_shape[1:], spec.stack))
    latent_ring = replay.init(latent_spec, phases.latent_row(spec.num_envs, latent_shape, latent_dtype))
    load = jax.jit(functools.partial(_load_chunk, agent, spec.stack), donate_argnames="ring")
    # The oldest stacks reach back to frames that are gone; such rows are not sampleable.
    tail = np.zeros((spec.stack - 1, *frame_shape), np.uint8), np.zeros((spec.stack - 1, spec.num_envs), bool)
    priorities, at = np.zeros((latent_spec.num_steps, spec.num_envs), np.float32), 0
    for chunk in snapshot:
        steps = len(chunk["priority"])
        priorities[at : at + steps] = chunk.pop("priority")
        rows = replay.Rows(**chunk)
        frames, first = np.concatenate([tail[0], rows.observation]), np.concatenate([tail[1], rows.first])
        latent_ring = load(state.params["encoder"], latent_ring, rows.replace(observation=frames), first, np.int32(at))
        tail, at = (frames[steps:], first[steps:]), at + steps
    latent_ring = latent_ring.replace(written=jnp.asarray(size, jnp.int32), max_priority=jnp.asarray(max_priority))
    return state, latent_spec, replay.restore_priorities(latent_spec, latent_ring, jnp.asarray(priorities))


@functools.partial(jax.jit, static_argnames="spec")
def _read_rows(spec: replay.RingSpec, ring: replay.Ring, age: jax.Array) -> tuple[replay.Rows, jax.Array]:
    """Copies the rows and priorities of times `written - age`, `[M]`, in that order."""
    slot = (ring.written - age) % spec.num_steps
    start = slot[:, None] * spec.num_envs + jnp.arange(spec.num_envs)
    return jax.tree.map(lambda x: x[slot], ring.rows), ring.priorities.reshape(-1)[start]


def _latent_shape(agent: base.Agent, state: base.TrainState, obs_shape: tuple[int, ...]) -> tuple[int, ...]:
    """`[K, N, L]` of a stored row; Rainbow stores one copy."""
    obs = jax.ShapeDtypeStruct((1, *obs_shape), jnp.uint8)
    return jax.eval_shape(agent.encode, state.params["encoder"], obs).shape


def _load_chunk(
    agent: base.Agent, stack: int, encoder_params, ring: replay.Ring, rows: replay.Rows, first: jax.Array, at: jax.Array
) -> replay.Ring:
    """Encodes M times of rows and writes them from slot `at` on.

    Args:
      rows: `[M, E]`, whose observations are frames, `[M + stack - 1, E, H, W]`, the older ones leading.
      first: `[M + stack - 1, E]`.
    """
    num_steps, num_envs = rows.reward.shape
    window = jnp.arange(num_steps)[:, None] + jnp.arange(stack)  # [M, k]
    frames, first = jnp.moveaxis(rows.observation[window], 2, 1), jnp.moveaxis(first[window], 2, 1)  # [M, E, k, ...]
    stacks = jax.vmap(jax.vmap(replay.stack_frames))(frames, first)
    latents = agent.encode(encoder_params, stacks.reshape(-1, *stacks.shape[2:]))
    stored = ring.rows.observation
    latents = latents.reshape(num_steps, num_envs, *stored.shape[2:]).astype(stored.dtype)
    rows = rows.replace(observation=latents)
    written = jax.tree.map(lambda buf, x: jax.lax.dynamic_update_slice_in_dim(buf, x, at, 0), ring.rows, rows)
    return ring.replace(rows=written)
