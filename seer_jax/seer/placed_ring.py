"""The rings of all seeds, of which one is read or written at a time, in the order of time.

A seed's rows lie on one device, or on several that hold a share of its environments each. They are read and written
there, chunk by chunk: a program over the whole mesh could gather a ring on one device.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from seer_jax import replay
from seer_jax.seer.placement import Placement

_Place = tuple[int, int]  # of a device in a mesh; (0, 0) without one


class PlacedRing:
    """Rings in blocks, one block for each device. An item is the ring of a seed, numbered from 0 on.

    Args:
      placement: the seeds and their devices.
      spec: static part of a seed's ring.
      blocks: what each device holds.
    """

    def __init__(self, placement: Placement, spec: replay.RingSpec, blocks: dict[_Place, replay.Ring]) -> None:
        self._placement, self._spec, self._blocks = placement, spec, blocks

    @classmethod
    def of(cls, placement: Placement, spec: replay.RingSpec, ring: replay.Ring) -> "PlacedRing":
        """Returns the blocks of a ring, which share its memory."""
        if placement.mesh is None:
            return cls(placement, spec, {(0, 0): ring})
        leaves, structure = jax.tree.flatten(ring)
        held = [{shard.device: shard.data for shard in leaf.addressable_shards} for leaf in leaves]
        devices = placement.mesh.devices
        blocks = {
            (k, d): structure.unflatten([on_device[devices[k, d]] for on_device in held])
            for k, d in np.ndindex(*devices.shape)
        }
        return cls(placement, spec, blocks)

    def __getitem__(self, seed: int) -> "SeedRing":
        place = self._placement
        on_device = place.num_seeds_on_device
        in_seeds = (np.int32(seed % on_device),) if place.num_seeds > 1 else ()
        at = (*in_seeds, *((np.int32(0),) if place.num_shards > 1 else ()))
        places = [(seed // on_device, shard) for shard in range(place.num_shards)]
        return SeedRing(self._spec, self._blocks, places, at)

    def join(self) -> replay.Ring:
        """Returns the blocks as one ring, which shares their memory."""
        sharding = self._placement.sharding(lanes=True)
        if sharding is None:
            return self._blocks[0, 0]
        leading = [n for n in (self._placement.num_seeds, self._placement.num_shards) if n > 1]

        def joined(*blocks: jax.Array) -> jax.Array:
            shape = (*leading, *blocks[0].shape[len(leading) :])
            return jax.make_array_from_single_device_arrays(shape, sharding, list(blocks))

        return jax.tree.map(joined, *self._blocks.values())

    def free(self) -> None:
        """Frees the memory of all arrays, which cannot be used after it."""
        for block in self._blocks.values():
            replay.free(block)


class SeedRing:
    """The ring of one seed.

    Args:
      spec: static part of the ring.
      blocks: what each device holds, of this and of other seeds.
      places: the devices that hold the environments of this seed, in order.
      at: indices of the seed in the leading axes of the arrays of a block.
    """

    def __init__(
        self,
        spec: replay.RingSpec,
        blocks: dict[_Place, replay.Ring],
        places: list[_Place],
        at: tuple[np.int32, ...],
    ) -> None:
        self.spec = spec
        self._blocks, self._places, self._at = blocks, places, at

    def counters(self) -> dict[str, np.ndarray]:
        """Returns `written` and `max_priority`, which are those of all devices."""
        index = self._blocks[self._places[0]].index
        return {name: np.asarray(getattr(index, name))[self._at] for name in ("written", "max_priority")}

    @property
    def size(self) -> int:
        """Times that the ring holds."""
        return min(int(self.counters()["written"]), self.spec.num_steps)

    @property
    def oldest(self) -> int:
        """The oldest time that the ring holds."""
        return int(self.counters()["written"]) - self.size

    def read(self, chunk_rows: int) -> Iterator[tuple[replay.Rows, np.ndarray]]:
        """Yields rows `[M, E, ...]` and priorities `[M, E]` of all times on the host, oldest first.

        Args:
          chunk_rows: rows, over all environments, that are in transit at one time.
        """
        size, oldest = self.size, self.oldest
        chunk_steps = max(1, chunk_rows // self.spec.num_envs)
        for begin in range(0, size, chunk_steps):
            count = min(chunk_steps, size - begin)
            shares = [
                jax.device_get(replay.read(self.spec.of_shard, self._blocks[place], oldest + begin, count, at=self._at))
                for place in self._places
            ]
            yield shares[0] if len(shares) == 1 else jax.tree.map(lambda *x: np.concatenate(x, axis=1), *shares)

    def write(self, begin: int, rows: replay.Rows) -> None:
        """Writes rows `[M, E, ...]` as the times from `begin` on; `restore` makes them part of the ring."""

        def put(ring: replay.Ring, rows: replay.Rows, shard: int) -> replay.Ring:
            del shard
            return write(self.spec.of_shard, ring, np.int32(begin), rows, self._at)

        self.update(put, rows)

    def update(self, change: Callable[[replay.Ring, Any, int], replay.Ring], rows: Any) -> None:
        """Changes what the devices hold.

        Args:
          change: `(ring, rows, number of the device) -> ring`; it consumes its ring, in whose arrays `at` are the
            indices of this seed.
          rows: arrays `[M, E, ...]`, of which `change` gets those of the device's environments.
        """
        num_envs = self.spec.of_shard.num_envs
        for shard, place in enumerate(self._places):
            lanes = slice(shard * num_envs, (shard + 1) * num_envs)
            share = jax.tree.map(lambda x: x[:, lanes], rows) if len(self._places) > 1 else rows  # noqa: B023
            self._blocks[place] = change(self._blocks[place], share, shard)

    @property
    def devices(self) -> list[Any]:
        """The devices that hold the environments of the seed, in order."""
        return [next(iter(self._blocks[place].index.written.devices())) for place in self._places]

    @property
    def at(self) -> tuple[np.int32, ...]:
        """Indices of the seed in the leading axes of the arrays of a block."""
        return self._at

    def restore(self, max_priority: Any, priorities: np.ndarray, *, begin: int = 0) -> None:
        """Makes the newest M times, from `begin` on, those that were written.

        Args:
          max_priority: of the ring whose rows these are.
          priorities: `[M, E]` priorities of these rows, oldest first.
          begin: the oldest time.
        """

        def put(ring: replay.Ring, priorities: np.ndarray, shard: int) -> replay.Ring:
            del shard
            return replay.restore(self.spec.of_shard, ring, max_priority, priorities, begin=begin, at=self._at)

        self.update(put, priorities)


# `replay.write` as a program, which consumes its ring.
write = jax.jit(replay.write, static_argnums=0, donate_argnums=1)
