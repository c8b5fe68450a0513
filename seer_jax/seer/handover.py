"""The handover at the freeze: the image ring becomes the latent ring.

The image ring is streamed to disk, freed, and streamed back through the frozen encoder. Memory therefore never holds
more than the larger of the two rings and one chunk. If the disk does not take it, the rows go from ring to ring,
provided that there is memory for both.
"""

import functools
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import files, replay, status
from seer_jax.agents import base
from seer_jax.seer.phases import Phase

_CHUNK_ROWS = 256  # rows, over all environments, that are in transit at one time
_ENCODE_ROWS = 32  # rows of a chunk that are encoded together

_write = jax.jit(replay.write, static_argnames="spec", donate_argnames="ring")


class HandoverError(Exception):
    """The frames could not become latents; earlier checkpoints are intact."""


class HandoverStopped(Exception):
    """The handover was asked to stop.

    Args:
      ring: the image ring, as it was before.
    """

    def __init__(self, ring: replay.Ring) -> None:
        super().__init__()
        self.ring = ring


def freeze(
    full: Phase,
    frozen: Phase,
    state: base.TrainState,
    ring: replay.Ring,
    *,
    snapshot_dir: pathlib.Path,
    key: jax.Array,
    memory_bytes: int = 0,
    warn: Callable[[str], None] = warnings.warn,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[base.TrainState, replay.Ring]:
    """Freezes the encoder and turns stored frames into latents, in order, oldest first.

    Args:
      full: the phase that ends.
      frozen: the phase that begins; its ring has at least as many rows.
      state: training state of the full phase.
      ring: the image ring; its memory is freed.
      snapshot_dir: receives the state before the freeze, and all rows; it and its parent are made if they do not exist.
      key: PRNG key of the augmentation of stored latents.
      memory_bytes: memory of the device; if both rings fit into it, a snapshot is not required.
      warn: receives one line if there is no snapshot.
      stop: called before each chunk of rows; True ends the handover, which can be done again from its start.

    Returns:
      State and ring of the frozen phase.

    Raises:
      HandoverError: the snapshot cannot be written and there is no memory for both rings, or it cannot be read back.
      HandoverStopped: `stop` returned True.
    """
    spec, agent = full.ring_spec, full.agent
    size, index = replay.size(spec, ring), jax.device_get(ring.index)
    frame_shape = full.row.observation.shape
    try:
        chunks = _through_disk(snapshot_dir, state, spec, ring, stop)
    except OSError as error:
        shutil.rmtree(snapshot_dir, ignore_errors=True)
        needed, problem = ring.num_bytes + frozen.ring.num_bytes, f"no snapshot of the frames ({error.strerror})"
        if needed > memory_bytes:
            raise HandoverError(
                f"{problem}, and there is no memory for both rings at once ({needed / 1e9:,.1f} of"
                f" {memory_bytes / 1e9:,.1f} GB); make room for {ring.num_bytes / 1e9:,.1f} GB on the disk"
            ) from None
        warn(f"{problem}; frames become latents in memory")
        chunks = _read_chunks(spec, ring)
    state = agent.freeze(state)
    latent_ring = frozen.init_ring()
    # The oldest stacks reach back to frames that were overwritten; such rows are not sampleable.
    tail = np.zeros((spec.stack - 1, *frame_shape), np.uint8), np.zeros((spec.stack - 1, spec.num_envs), bool)
    priorities, at = np.zeros((size, spec.num_envs), np.float32), 0
    with status.activity(lambda: _progress("encoding the frames", at, size)):
        for chunk in chunks:
            if stop():
                replay.free(latent_ring)
                freed = any(array.is_deleted() for array in jax.tree.leaves(ring))
                raise HandoverStopped(_reread_ring(full, size, index, snapshot_dir) if freed else ring)
            steps = len(chunk["priority"])
            priorities[at : at + steps] = chunk.pop("priority")
            rows = replay.Rows(**chunk)  # pyright: ignore[reportArgumentType]
            frames, first = np.concatenate([tail[0], rows.observation]), np.concatenate([tail[1], rows.first])
            latents = _encode_chunk(agent, spec, state.params, frames, first, jax.random.fold_in(key, at))
            latent_ring = _write(frozen.ring_spec, latent_ring, np.int32(at), rows.replace(observation=latents))
            jax.block_until_ready(latent_ring)  # rows that wait for the device could not be stopped
            tail, at = (frames[steps:], first[steps:]), at + steps
    replay.free(ring)
    return state, replay.restore(frozen.ring_spec, latent_ring, index, priorities)


def _through_disk(
    directory: pathlib.Path,
    state: base.TrainState,
    spec: replay.RingSpec,
    ring: replay.Ring,
    stop: Callable[[], bool],
) -> Iterator[dict[str, np.ndarray]]:
    """Writes state and rows, frees the ring, and returns its chunks as read back from the disk.

    Raises:
      OSError: not all could be written; the ring is intact.
      HandoverStopped: `stop` returned True; the ring is intact.
    """
    shutil.rmtree(directory, ignore_errors=True)  # of a handover that was interrupted
    directory.parent.mkdir(exist_ok=True)
    files.save_tree(directory, state)
    snapshot, size = files.ChunkStream(directory), replay.size(spec, ring)
    done = 0
    with status.activity(lambda: _progress("writing the frames to the disk", done, size)):
        for chunk in _read_chunks(spec, ring):
            if stop():
                raise HandoverStopped(ring)
            snapshot.append(**chunk)
            done += len(chunk["priority"])
    replay.free(ring)
    return _reread(snapshot, size)


def _progress(text: str, done: int, size: int) -> str:
    return f"freezing the encoder: {text}, {100 * done // max(size, 1)}%"


def _reread_ring(full: Phase, size: int, index: replay.Index, snapshot_dir: pathlib.Path) -> replay.Ring:
    """Returns the image ring of `size` times, with its rows and priorities as read back from the snapshot."""
    spec, ring, at = full.ring_spec, full.init_ring(), 0
    priorities = np.zeros((size, spec.num_envs), np.float32)
    with status.activity(lambda: _progress("reading the frames back", at, size)):
        for chunk in _reread(files.ChunkStream(snapshot_dir), size):
            steps = len(chunk["priority"])
            priorities[at : at + steps] = chunk.pop("priority")
            ring = _write(spec, ring, np.int32(at), replay.Rows(**chunk))  # pyright: ignore[reportArgumentType]
            at += steps
    return replay.restore(spec, ring, index, priorities)


def _reread(snapshot: files.ChunkStream, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields chunks of `size` times in all; raises HandoverError if the snapshot does not hold them."""
    found = 0
    try:
        for chunk in snapshot:
            found += len(chunk["priority"])
            yield chunk
    except files.DamagedFileError as error:
        raise HandoverError(f"the snapshot of the frames is lost: {error}") from None
    if found != size:
        raise HandoverError(f"the snapshot of the frames holds {found:,} times of rows, not the {size:,} written to it")


def _read_chunks(spec: replay.RingSpec, ring: replay.Ring) -> Iterator[dict[str, np.ndarray]]:
    """Yields rows and priorities of all times, oldest first."""
    size, oldest = replay.size(spec, ring), replay.oldest(spec, ring)
    chunk_steps = max(1, _CHUNK_ROWS // spec.num_envs)
    for begin in range(0, size, chunk_steps):
        rows, priority = jax.device_get(replay.read(spec, ring, oldest + begin, min(chunk_steps, size - begin)))
        yield vars(rows) | {"priority": priority}


@functools.partial(jax.jit, static_argnames=("agent", "spec"))
def _encode_chunk(
    agent: base.Agent, spec: replay.RingSpec, params: base.Params, frames: jax.Array, first: jax.Array, key: jax.Array
) -> jax.Array:
    """Encodes the rows of M times.

    Args:
      agent: the algorithm.
      spec: static part of the image ring.
      params: parameters.
      frames: `[M + stack - 1, E, H, W, C]`, in the order of time.
      first: `[M + stack - 1, E]`.
      key: PRNG key of the augmentation.

    Returns:
      Latents to store, `[M, E, K, N, L]`.
    """
    num_steps = len(first) - spec.stack + 1
    stack_frames = functools.partial(replay.stack_frames, first_stack=spec.first_stack)

    def encode(args: tuple[jax.Array, jax.Array]) -> jax.Array:
        time, key = args
        window = time + jnp.arange(spec.stack)
        stacks = jax.vmap(stack_frames, in_axes=1)(frames[window], first[window])  # [E, H, W, k * C]
        return base.latents_to_store(agent, params, stacks, key)

    # A few rows at a time: with their crops and activations all of them together would outgrow the ring.
    batch_size = max(1, _ENCODE_ROWS // spec.num_envs)
    return jax.lax.map(encode, (jnp.arange(num_steps), jax.random.split(key, num_steps)), batch_size=batch_size)
