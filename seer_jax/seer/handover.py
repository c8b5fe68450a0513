"""The freeze: how large the latent ring may be, and how the image ring becomes it.

The image ring is streamed to disk, freed, and streamed back through the frozen encoder, so that no
more than the larger of the two rings and one chunk are ever in memory. Where the disk does not take
it, the rows go from ring to ring, if there is memory for both.
"""

import functools
import math
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seer_jax import replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.envs import registry as env_registry
from seer_jax.run import checkpoint

_CHUNK_ROWS = 256  # rows, over all environments, that are on their way at one time
_ENCODE_ROWS = 32  # of these, rows that are encoded together


class HandoverError(Exception):
    """Frames could not become latents; the checkpoints before are intact."""


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
    memory_bytes: int = 0,
    warn: Callable[[str], None] = warnings.warn,
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
      memory_bytes: of the device; if both rings fit into them, there may be no snapshot.
      warn: is told, in one line, that there is no snapshot.

    Returns:
      State and ring of the frozen phase.

    Raises:
      HandoverError: the snapshot cannot be written, and there is no memory for both rings; or not read back.
    """
    size, max_priority = min(int(ring.written), spec.num_steps), np.asarray(ring.max_priority)
    frame_shape = ring.rows.observation.shape[1:]
    try:
        chunks = _through_disk(snapshot_dir, state, spec, ring)
    except OSError as error:
        shutil.rmtree(snapshot_dir, ignore_errors=True)
        latent_ring_shapes = jax.eval_shape(functools.partial(replay.init, latent_spec), latent_rows)
        needed, told = ring.num_bytes + latent_ring_shapes.num_bytes, f"no snapshot of the frames ({error.strerror})"
        if needed > memory_bytes:
            raise HandoverError(
                f"{told}, and there is no memory for both rings at once ({needed / 1e9:,.1f} of"
                f" {memory_bytes / 1e9:,.1f} GB); make room for {ring.num_bytes / 1e9:,.1f} GB on the disk"
            ) from None
        warn(f"{told}; frames become latents in memory")
        chunks = _read_chunks(spec, ring)
    state = agent.freeze(state)
    latent_ring = replay.init(latent_spec, latent_rows)
    # The oldest stacks reach back to frames that are gone; such rows are not sampleable.
    tail = np.zeros((spec.stack - 1, *frame_shape), np.uint8), np.zeros((spec.stack - 1, spec.num_envs), bool)
    priorities, at = np.zeros((latent_spec.num_steps, spec.num_envs), np.float32), 0
    for chunk in chunks:
        steps = len(chunk["priority"])
        priorities[at : at + steps] = chunk.pop("priority")
        rows = replay.Rows(**chunk)
        frames, first = np.concatenate([tail[0], rows.observation]), np.concatenate([tail[1], rows.first])
        rows = rows.replace(observation=frames)
        k_chunk = jax.random.fold_in(key, at)
        latent_ring = _load_chunk(agent, spec.stack, state.params, latent_ring, rows, first, np.int32(at), k_chunk)
        tail, at = (frames[steps:], first[steps:]), at + steps
    _free(ring)
    latent_ring = latent_ring.replace(written=jnp.asarray(size, jnp.int32), max_priority=jnp.asarray(max_priority))
    return state, replay.restore_priorities(latent_spec, latent_ring, jnp.asarray(priorities))


def _through_disk(
    directory: pathlib.Path, state: base.TrainState, spec: replay.RingSpec, ring: replay.Ring
) -> Iterator[dict[str, np.ndarray]]:
    """Writes state and rows, frees the ring, and gives its chunks back from the disk.

    Raises:
      OSError: not all could be written; the ring is as it was.
    """
    shutil.rmtree(directory, ignore_errors=True)  # of a handover that was cut off
    checkpoint.save_state(directory, state)
    snapshot = checkpoint.ChunkStream(directory)
    for chunk in _read_chunks(spec, ring):
        snapshot.append(**chunk)
    size = min(int(ring.written), spec.num_steps)
    _free(ring)
    return _reread(snapshot, size)


def _reread(snapshot: checkpoint.ChunkStream, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields chunks of `size` times in all; raises HandoverError if they are not there any more."""
    found = 0
    try:
        for chunk in snapshot:
            found += len(chunk["priority"])
            yield chunk
    except checkpoint.CheckpointError as error:
        raise HandoverError(f"the snapshot of the frames is lost: {error}") from None
    if found != size:
        raise HandoverError(f"the snapshot of the frames holds {found:,} times of rows, not the {size:,} written to it")


def _read_chunks(spec: replay.RingSpec, ring: replay.Ring) -> Iterator[dict[str, np.ndarray]]:
    """Yields rows and priorities of all times, oldest first."""
    size = min(int(ring.written), spec.num_steps)
    chunk_steps = max(1, _CHUNK_ROWS // spec.num_envs)
    for begin in range(0, size, chunk_steps):
        age = np.arange(size - begin, max(size - begin - chunk_steps, 0), -1)
        rows, priority = jax.device_get(_read_rows(spec, ring, age))
        yield vars(rows) | {"priority": priority}


def _free(ring: replay.Ring) -> None:
    for array in jax.tree.leaves(ring):
        array.delete()


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
