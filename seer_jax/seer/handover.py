"""The handover at the freeze: the image ring becomes the latent ring.

The image ring is streamed to disk, freed, and streamed back through the frozen encoder. Memory therefore never holds
more than the larger of the two rings and one chunk. If the disk does not take it, the rows go from ring to ring,
provided that there is memory for both.
"""

import functools
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seer_jax import files, replay, status
from seer_jax.agents import base
from seer_jax.seer import placed_ring
from seer_jax.seer.phases import Phase
from seer_jax.seer.placed_ring import PlacedRing, SeedRing

_Chunk = tuple[replay.Rows, np.ndarray]  # rows [M, E, ...] and their priorities [M, E]
_CHUNK_ROWS = 256  # rows, over all environments, that are in transit at one time
_ENCODE_ROWS = 32  # rows of a chunk that are encoded together


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


class SeedFreeze(NamedTuple):
    """What the handover of one seed needs.

    Attributes:
      snapshot_dir: receives the state before the freeze, and all rows; it and its parent are made if they do not exist.
      key: PRNG key of the augmentation of stored latents.
    """

    snapshot_dir: pathlib.Path
    key: jax.Array


def freeze(
    full: Phase,
    frozen: Phase,
    state: base.TrainState,
    ring: replay.Ring,
    seeds: Mapping[int, SeedFreeze],
    *,
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
      seeds: the seeds whose frames become latents, by number from 0 on; the others have none from here on.
      memory_bytes: memory of the device; if both rings fit into it, a snapshot is not required.
      warn: receives one line if there is no snapshot.
      stop: called before each chunk of rows; True ends the handover, which can be done again from its start.

    Returns:
      State and ring of the frozen phase.

    Raises:
      HandoverError: the snapshot cannot be written and there is no memory for both rings, or it cannot be read back.
      HandoverStopped: `stop` returned True.
    """
    place = full.placement
    rings = PlacedRing.of(place, full.ring_spec, ring)
    counters = {i: (rings[i].size, rings[i].counters()) for i in seeds}
    try:
        chunks = _through_disk(seeds, place.unstack(state), rings, stop)
    except OSError as error:
        for each in seeds.values():
            shutil.rmtree(each.snapshot_dir, ignore_errors=True)
        needed, problem = ring.num_bytes + frozen.ring.num_bytes, f"no snapshot of the frames ({error.strerror})"
        if needed > memory_bytes:
            raise HandoverError(
                f"{problem}, and there is no memory for both rings at once ({needed / 1e9:,.1f} of"
                f" {memory_bytes / 1e9:,.1f} GB); make room for {ring.num_bytes / 1e9:,.1f} GB on the disk"
            ) from None
        warn(f"{problem}; frames become latents in memory")
        chunks = {i: _read(rings[i]) for i in seeds}
    except _Stopped:
        raise HandoverStopped(ring) from None
    state = full.agent.freeze(state) if place.num_seeds == 1 else jax.jit(place.map_seeds(full.agent.freeze))(state)
    latents, params = PlacedRing.of(place, frozen.ring_spec, frozen.init_ring()), place.unstack(state.params)
    total, done = sum(size for size, _ in counters.values()), 0
    with status.activity(lambda: _progress("encoding the frames", done, total)):
        for i, (size, seed_counters) in counters.items():
            encoder = _Encoder(full, latents[i], params[i], seeds[i].key)
            priorities = np.zeros((size, full.ring_spec.num_envs), np.float32)
            for at, rows, priority in _with_times(chunks[i]):
                if stop():
                    latents.free()
                    freed = any(array.is_deleted() for array in jax.tree.leaves(ring))
                    raise HandoverStopped(_reread_rings(full, counters, seeds) if freed else ring)
                encoder.encode(at, rows)
                priorities[at : at + len(priority)] = priority
                done += len(priority)
            latents[i].restore(seed_counters["max_priority"], priorities)
    replay.free(ring)
    return state, latents.join()


class _Stopped(Exception):
    """The handover was asked to stop while the image ring was intact."""


def _through_disk(
    seeds: Mapping[int, SeedFreeze], states: list[base.TrainState], rings: PlacedRing, stop: Callable[[], bool]
) -> dict[int, Iterator[_Chunk]]:
    """Writes states and rows of all seeds, frees the rings, and returns their chunks as read back from the disk.

    Raises:
      OSError: not all could be written; the rings are intact.
      _Stopped: `stop` returned True; the rings are intact.
    """
    sizes, done = {i: rings[i].size for i in seeds}, 0
    with status.activity(lambda: _progress("writing the frames to the disk", done, sum(sizes.values()))):
        for i, (directory, _) in seeds.items():
            shutil.rmtree(directory, ignore_errors=True)  # of a handover that was interrupted
            directory.parent.mkdir(exist_ok=True)
            files.save_tree(directory, states[i])
            snapshot = files.ChunkStream(directory)
            for rows, priority in _read(rings[i]):
                if stop():
                    raise _Stopped
                snapshot.append(**vars(rows), priority=priority)
                done += len(priority)
    rings.free()
    return {i: _reread(each.snapshot_dir, sizes[i]) for i, each in seeds.items()}


def _progress(text: str, done: int, size: int) -> str:
    return f"freezing the encoder: {text}, {100 * done // max(size, 1)}%"


def _reread_rings(full: Phase, counters: Mapping[int, tuple[int, Any]], seeds: Mapping[int, SeedFreeze]) -> replay.Ring:
    """Returns the image rings, with their rows and priorities as read back from the snapshots."""
    rings = PlacedRing.of(full.placement, full.ring_spec, full.init_ring())
    total, done = sum(size for size, _ in counters.values()), 0
    with status.activity(lambda: _progress("reading the frames back", done, total)):
        for i, (size, seed_counters) in counters.items():
            priorities = np.zeros((size, full.ring_spec.num_envs), np.float32)
            for at, rows, priority in _with_times(_reread(seeds[i].snapshot_dir, size)):
                rings[i].write(at, rows)
                priorities[at : at + len(priority)] = priority
                done += len(priority)
            rings[i].restore(seed_counters["max_priority"], priorities)
    return rings.join()


def _reread(directory: pathlib.Path, size: int) -> Iterator[_Chunk]:
    """Yields chunks of `size` times in all; raises HandoverError if the snapshot does not hold them."""
    found = 0
    try:
        for chunk in files.ChunkStream(directory):
            priority = chunk.pop("priority")
            found += len(priority)
            yield replay.Rows(**chunk), priority  # pyright: ignore[reportArgumentType]
    except files.DamagedFileError as error:
        raise HandoverError(f"the snapshot of the frames is lost: {error}") from None
    if found != size:
        raise HandoverError(f"the snapshot of the frames holds {found:,} times of rows, not the {size:,} written to it")


def _read(ring: SeedRing) -> Iterator[_Chunk]:
    return ring.read(_CHUNK_ROWS)


def _with_times(chunks: Iterable[_Chunk]) -> Iterator[tuple[int, replay.Rows, np.ndarray]]:
    """Yields the first time of each chunk before its rows and priorities."""
    at = 0
    for rows, priority in chunks:
        yield at, rows, priority
        at += len(priority)


class _Encoder:
    """Writes the latents of the rows of one seed into its latent ring, chunk by chunk.

    Args:
      full: the phase that ends.
      ring: the latent ring.
      params: parameters of the frozen agent.
      key: PRNG key of the augmentation.
    """

    def __init__(self, full: Phase, ring: SeedRing, params: base.Params, key: jax.Array) -> None:
        self._full, self._ring, self._key = full, ring, key
        self._params = [jax.device_put(params, device) for device in ring.devices]
        spec = full.ring_spec
        # The oldest stacks reach back to frames that were overwritten; such rows are not sampleable.
        self._tail = (
            np.zeros((spec.stack - 1, *full.row.observation.shape), np.uint8),
            np.zeros((spec.stack - 1, spec.num_envs), bool),
        )

    def encode(self, at: int, rows: replay.Rows) -> None:
        """Encodes rows `[M, E, ...]` and writes them as the times from `at` on; rows come in the order of time."""
        steps = len(rows.first)
        frames, first = (
            np.concatenate([before, new])
            for before, new in zip(self._tail, (rows.observation, rows.first), strict=True)
        )

        def load(ring: replay.Ring, share: tuple[replay.Rows, np.ndarray], shard: int) -> replay.Ring:
            key = jax.random.fold_in(self._key, at)
            key = key if len(self._params) == 1 else jax.random.fold_in(key, shard)
            full, (rows, first) = self._full, share
            latents = _encode_chunk(
                full.agent, full.ring_spec.of_shard, self._params[shard], rows.observation, first, key
            )
            rows = rows.replace(observation=latents)
            written = placed_ring.write(self._ring.spec.of_shard, ring, np.int32(at), rows, self._ring.at)
            return jax.block_until_ready(written)  # rows that wait for the device could not be stopped

        self._ring.update(load, (rows.replace(observation=frames), first))
        self._tail = frames[steps:], first[steps:]


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
