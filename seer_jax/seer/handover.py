"""The handover at the freeze: the image ring becomes the latent ring.

The image ring is streamed to disk, freed, and streamed back through the frozen encoder. Memory therefore never holds
more than the larger of the two rings and one chunk. If the disk does not take it, the rows go from ring to ring,
provided that there is memory for both. Of several hosts, process 0 writes the rows of all, and each reads those of its
own devices and encodes them.
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
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.phases import Phase
from seer_jax.seer.placed_ring import PlacedRing, SeedRing

_Chunk = tuple[replay.Rows, np.ndarray]  # rows [M, E, ...] and their priorities [M, E]
_CHUNK_ROWS = 256  # rows, over all environments, that are in transit at one time
_ENCODE_ROWS = 32  # rows of a chunk that are encoded together
_CHUNKS_PER_EXCHANGE = 4  # between two questions to the other hosts whether to stop


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
    hosts: Hosts | None = None,
) -> tuple[base.TrainState, replay.Ring]:
    """Freezes the encoder and turns stored frames into latents, in order, oldest first.

    Args:
      full: the phase that ends.
      frozen: the phase that begins; its ring has at least as many rows.
      state: training state of the full phase.
      ring: the image ring; its memory is freed.
      seeds: the seeds whose frames become latents, by number from 0 on; the others have none from here on.
      memory_bytes: memory of the device, the same on all hosts; if both rings fit into it, a snapshot is not required.
      warn: receives one line if there is no snapshot.
      stop: called before each chunk of rows; True ends the handover, which can be done again from its start.
      hosts: the hosts of the run, all of which call this; None stands for one.

    Returns:
      State and ring of the frozen phase.

    Raises:
      HandoverError: the snapshot cannot be written and there is no memory for both rings, or it cannot be read back.
      HandoverStopped: `stop` returned True.
    """
    place, hosts = full.placement, hosts or Hosts()
    rings = PlacedRing.of(place, full.ring_spec, ring, hosts)
    counters = {i: (rings[i].size, rings[i].counters()) for i in seeds}
    here = [i for i in seeds if i in place.seeds_here]
    states = place.unstack(state, hosts)
    try:
        hosts.lead(lambda: _write_snapshots(seeds, states, rings, hosts.asking(stop)), rings.serve)
        rings.free()
        chunks = {i: _reread(seeds[i].snapshot_dir, counters[i][0]) for i in here}
    except OSError as error:
        if hosts.leads:
            for each in seeds.values():
                shutil.rmtree(each.snapshot_dir, ignore_errors=True)
        needed, problem = ring.num_bytes + frozen.ring.num_bytes, f"no snapshot of the frames ({error.strerror})"
        if needed > memory_bytes:
            raise HandoverError(
                f"{problem}, and there is no memory for both rings at once ({needed / 1e9:,.1f} of"
                f" {memory_bytes / 1e9:,.1f} GB); free {ring.num_bytes / 1e9:,.1f} GB on the disk"
            ) from None
        warn(f"{problem}; frames become latents in memory")
        chunks = {i: rings[i].read(_CHUNK_ROWS, here=True) for i in here}
    except _Stopped:
        raise HandoverStopped(ring) from None
    state = full.agent.freeze(state) if place.num_seeds == 1 else jax.jit(place.map_seeds(full.agent.freeze))(state)
    latents = PlacedRing.of(place, frozen.ring_spec, frozen.init_ring(), hosts)
    params = place.unstack(state.params, hosts)
    encoders = {i: functools.partial(_Encoder, full, latents[i], params[i], seeds[i].key) for i in here}
    try:
        hosts.apart(lambda stop: _encode(full, encoders, chunks, counters, stop), stop, _Stopped, _CHUNKS_PER_EXCHANGE)
    except _Stopped:
        latents.free()
        freed = any(array.is_deleted() for array in jax.tree.leaves(ring))
        raise HandoverStopped(_reread_rings(full, counters, seeds, hosts) if freed else ring) from None
    replay.free(ring)
    return state, latents.join()


class _Stopped(Exception):
    """The handover was asked to stop while the image ring was intact."""


def _write_snapshots(
    seeds: Mapping[int, SeedFreeze], states: list[base.TrainState], rings: PlacedRing, stop: Callable[[], bool]
) -> None:
    """Writes states and rows of all seeds.

    Raises:
      OSError: not all could be written.
      _Stopped: `stop` returned True.
    """
    sizes, done = {i: rings[i].size for i in seeds}, 0
    with status.activity(lambda: _progress("writing the frames to the disk", done, sum(sizes.values()))):
        for i, (directory, _) in seeds.items():
            shutil.rmtree(directory, ignore_errors=True)  # of a handover that was interrupted
            directory.parent.mkdir(exist_ok=True)
            files.save_tree(directory, states[i])
            snapshot = files.ChunkStream(directory)
            for rows, priority in rings[i].read(_CHUNK_ROWS):
                if stop():
                    raise _Stopped
                snapshot.append(**vars(rows), priority=priority)
                done += len(priority)


def _encode(
    full: Phase,
    encoders: Mapping[int, Callable[[], "_Encoder"]],
    chunks: Mapping[int, Iterator[_Chunk]],
    counters: Mapping[int, tuple[int, Any]],
    stop: Callable[[], bool],
) -> None:
    """Writes the latents of all rows of some seeds into their rings; raises _Stopped if `stop` returned True."""
    total, done = sum(counters[i][0] for i in encoders), 0
    with status.activity(lambda: _progress("encoding the frames", done, total)):
        for i, make_encoder in encoders.items():
            encoder, (size, seed_counters) = make_encoder(), counters[i]
            priorities = np.zeros((size, full.ring_spec.num_envs), np.float32)
            for at, rows, priority in _with_times(chunks[i]):
                if stop():
                    raise _Stopped
                encoder.encode(at, rows)
                priorities[at : at + len(priority)] = priority
                done += len(priority)
            encoder.ring.restore(seed_counters["max_priority"], priorities)


def _progress(text: str, done: int, size: int) -> str:
    return f"freezing the encoder: {text}, {100 * done // max(size, 1)}%"


def _reread_rings(
    full: Phase, counters: Mapping[int, tuple[int, Any]], seeds: Mapping[int, SeedFreeze], hosts: Hosts
) -> replay.Ring:
    """Returns the image rings, with their rows and priorities as read back from the snapshots."""
    rings = PlacedRing.of(full.placement, full.ring_spec, full.init_ring(), hosts)
    here = {i: each for i, each in counters.items() if i in full.placement.seeds_here}
    total, done = sum(size for size, _ in here.values()), 0
    with status.activity(lambda: _progress("reading the frames back", done, total)):
        for i, (size, seed_counters) in here.items():
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

    Attributes:
      ring: the latent ring.
    """

    def __init__(self, full: Phase, ring: SeedRing, params: base.Params, key: jax.Array) -> None:
        self._full, self.ring, self._key = full, ring, key
        self._params = {shard: jax.device_put(params, device) for shard, device in ring.devices.items()}
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
            key = key if self.ring.num_shards == 1 else jax.random.fold_in(key, shard)
            full, (rows, first) = self._full, share
            latents = _encode_chunk(
                full.agent, full.ring_spec.of_shard, self._params[shard], rows.observation, first, key
            )
            rows = rows.replace(observation=latents)
            written = placed_ring.write(self.ring.spec.of_shard, ring, np.int32(at), rows, self.ring.at)
            return jax.block_until_ready(written)  # rows that wait for the device could not be stopped

        self.ring.update(load, (rows.replace(observation=frames), first))
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
