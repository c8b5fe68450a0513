"""The freeze: how large the latent ring may be, and how the image ring becomes it.

The image ring is streamed to disk, freed, and streamed back through the frozen encoder, so that no
more than the larger of the two rings and one chunk are ever in memory.
"""

import functools
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seer_jax import checkpoint, replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import registry as env_registry

_CHUNK_ROWS = 256  # rows, over all environments, that are on their way at one time
_ENCODE_ROWS = 32  # of these, rows that are encoded together


def bytes_per_row(config: ConfigDict) -> tuple[int, int]:
    """Bytes of one stored observation before the freeze (P of the paper) and after it."""
    num_latents, latent_size = AGENTS[config.agent.name].latent_shape(config)
    itemsize = jnp.dtype(config.replay.latent_dtype).itemsize
    frame = math.prod(env_registry.frame_shape(config))
    return frame, itemsize * config.seer.num_copies * num_latents * latent_size


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


def latent_rows(
    agent: base.Agent, params: base.Params, stack: jax.ShapeDtypeStruct, actions: jax.ShapeDtypeStruct, dtype: str
) -> replay.Rows:
    """Returns the shapes of what a latent ring holds of one time.

    Args:
      agent: the agent.
      params: its parameters, or their shapes.
      stack: shape of the observations, `[E, H, W, k * C]`.
      actions: shape of the actions, `[E, ...]`.
      dtype: of the stored latents.
    """
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    latents = jax.eval_shape(functools.partial(base.latents_to_store, agent), params, stack, key)
    return replay.row_shapes(jax.ShapeDtypeStruct(latents.shape, jnp.dtype(dtype)), actions)


def freeze(
    agent: base.Agent,
    state: base.TrainState,
    spec: replay.RingSpec,
    ring: replay.Ring,
    *,
    latent_spec: replay.RingSpec,
    latent_rows: replay.Rows,
    snapshot_dir: pathlib.Path,
    key: jax.Array,
) -> tuple[base.TrainState, replay.Ring]:
    """Freezes the encoder and turns stored frames into latents, in order, oldest first.

    Args:
      agent: the agent.
      state: its state in the full phase.
      spec: of the image ring.
      ring: the image ring; its memory is freed.
      latent_spec: of the latent ring, with no fewer rows than the image ring.
      latent_rows: shapes of what it holds of one time.
      snapshot_dir: receives the state as it was before the freeze, and all rows.
      key: PRNG key of the augmentation of stored latents.

    Returns:
      State and ring of the frozen phase.
    """
    shutil.rmtree(snapshot_dir, ignore_errors=True)  # of a handover that was cut off
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
    latent_ring = replay.init(latent_spec, latent_rows)
    # The oldest stacks reach back to frames that are gone; such rows are not sampleable.
    tail = np.zeros((spec.stack - 1, *frame_shape), np.uint8), np.zeros((spec.stack - 1, spec.num_envs), bool)
    priorities, at = np.zeros((latent_spec.num_steps, spec.num_envs), np.float32), 0
    for chunk in snapshot:
        steps = len(chunk["priority"])
        priorities[at : at + steps] = chunk.pop("priority")
        rows = replay.Rows(**chunk)
        frames, first = np.concatenate([tail[0], rows.observation]), np.concatenate([tail[1], rows.first])
        rows = rows.replace(observation=frames)
        k_chunk = jax.random.fold_in(key, at)
        latent_ring = _load_chunk(agent, spec.stack, state.params, latent_ring, rows, first, np.int32(at), k_chunk)
        tail, at = (frames[steps:], first[steps:]), at + steps
    latent_ring = latent_ring.replace(written=jnp.asarray(size, jnp.int32), max_priority=jnp.asarray(max_priority))
    return state, replay.restore_priorities(latent_spec, latent_ring, jnp.asarray(priorities))


@functools.partial(jax.jit, static_argnames="spec")
def _read_rows(spec: replay.RingSpec, ring: replay.Ring, age: jax.Array) -> tuple[replay.Rows, jax.Array]:
    """Copies the rows and priorities of times `written - age`, `[M]`, in that order."""
    slot = (ring.written - age) % spec.num_steps
    start = slot[:, None] * spec.num_envs + jnp.arange(spec.num_envs)
    return jax.tree.map(lambda x: x[slot], ring.rows), ring.priorities.reshape(-1)[start]


@functools.partial(jax.jit, static_argnames=("agent", "stack"), donate_argnames="ring")
def _load_chunk(
    agent: base.Agent,
    stack: int,
    params: base.Params,
    ring: replay.Ring,
    rows: replay.Rows,
    first: jax.Array,
    at: jax.Array,
    key: jax.Array,
) -> replay.Ring:
    """Encodes M times of rows and writes them from slot `at` on.

    Args:
      rows: `[M, E]`, whose observations are frames, `[M + stack - 1, E, H, W, C]`, the older ones leading.
      first: `[M + stack - 1, E]`.
    """
    num_steps, num_envs = rows.reward.shape
    frames, stored = rows.observation, ring.rows.observation

    def encode(args: tuple[jax.Array, jax.Array]) -> jax.Array:
        time, key = args
        window = time + jnp.arange(stack)
        stacks = jax.vmap(replay.stack_frames, in_axes=1)(frames[window], first[window])  # [E, H, W, k * C]
        return base.latents_to_store(agent, params, stacks, key).astype(stored.dtype)

    # A few rows at a time: with their crops and activations all of them together would outgrow the ring.
    batch_size = max(1, _ENCODE_ROWS // num_envs)
    latents = jax.lax.map(encode, (jnp.arange(num_steps), jax.random.split(key, num_steps)), batch_size=batch_size)
    rows = rows.replace(observation=latents)
    written = jax.tree.map(lambda buf, x: jax.lax.dynamic_update_slice_in_dim(buf, x, at, 0), ring.rows, rows)
    return ring.replace(rows=written)
