"""The rings of all seeds, of which one is read or written at a time, in the order of time.

A seed's rows lie on one device, or on several that hold a share of its environments each. They are read and written
there, chunk by chunk: a program over the whole mesh could gather a ring on one device. Of several hosts, each writes
the rows of its own devices. Process 0 reads those of all: it asks the others for each chunk.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from seer_jax import replay
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.placement import Placement

_Chunk = tuple[replay.Rows, np.ndarray]  # rows [M, E, ...] and their priorities [M, E]
_Place = tuple[int, int]  # of a device in a mesh; (0, 0) without one


class PlacedRing:
    """Rings in blocks, one block for each device. An item is the ring of a seed, numbered from 0 on.

    Args:
      placement: the seeds and their devices.
      spec: static part of a seed's ring.
      blocks: what each device of this host holds.
      hosts: the hosts of the devices, all of which make this object.
    """

    def __init__(
        self, placement: Placement, spec: replay.RingSpec, blocks: dict[_Place, replay.Ring], hosts: Hosts
    ) -> None:
        self._placement, self._spec, self._blocks, self._hosts = placement, spec, blocks, hosts
        self._remote: dict[int, dict[str, np.ndarray]] = {}
        if placement.on_several_hosts:
            mine = [[i, *(each.item() for each in self[i].counters().values())] for i in placement.seeds_here]
            for i, written, max_priority in (each for of_host in hosts.exchange(mine) for each in of_host):
                self._remote[i] = {"written": np.int32(written), "max_priority": np.float32(max_priority)}  # pyright: ignore[reportArgumentType]

    @classmethod
    def of(
        cls, placement: Placement, spec: replay.RingSpec, ring: replay.Ring, hosts: Hosts | None = None
    ) -> "PlacedRing":
        """Returns the blocks of a ring, which share its memory; `hosts` are one if they are not given."""
        hosts = hosts or Hosts()
        if placement.mesh is None:
            return cls(placement, spec, {(0, 0): ring}, hosts)
        leaves, structure = jax.tree.flatten(ring)
        held = [{shard.device: shard.data for shard in leaf.addressable_shards} for leaf in leaves]
        devices = placement.mesh.devices
        blocks = {
            (k, d): structure.unflatten([on_device[devices[k, d]] for on_device in held])
            for k, d in np.ndindex(*devices.shape)
            if devices[k, d] in held[0]
        }
        return cls(placement, spec, blocks, hosts)

    def __getitem__(self, seed: int) -> "SeedRing":
        place = self._placement
        on_device = place.num_seeds_on_device
        in_seeds = (np.int32(seed % on_device),) if place.num_seeds > 1 else ()
        at = (*in_seeds, *((np.int32(0),) if place.num_shards > 1 else ()))
        places = [(seed // on_device, shard) for shard in range(place.num_shards)]

        def fetch(shard: int, begin: int, count: int) -> _Chunk:
            self._hosts.request({"seed": seed, "shard": shard, "begin": begin, "count": count})
            return self._send(seed, shard, begin, count)

        return SeedRing(self._spec, self._blocks, places, at, self._remote.get(seed, {}), fetch)

    def serve(self, request: dict[str, int] | None) -> None:
        """Sends the rows that `SeedRing.read` of process 0 requests, if they are here; see `Hosts.lead`."""
        if request is not None:
            self._send(**request)

    def _send(self, seed: int, shard: int, begin: int, count: int) -> _Chunk:
        """Returns rows of a device in all processes."""
        owner, arrays = self._placement.host_of(seed, shard), None
        if owner == self._hosts.index:
            rows, priority = self[seed].read_shard(shard, begin, count)
            arrays = {**vars(rows), "priority": priority}
        arrays = self._hosts.broadcast(arrays, owner)
        priority = arrays.pop("priority")
        return replay.Rows(**arrays), priority

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
      blocks: what each device of this host holds, of this and of other seeds.
      places: the devices that hold the environments of this seed, in order.
      at: indices of the seed in the leading axes of the arrays of a block.
      remote: counters, if the first of the devices is not of this host.
      fetch: `(number of the device, begin, count) -> rows and priorities` of a device that is not of this host.
    """

    def __init__(
        self,
        spec: replay.RingSpec,
        blocks: dict[_Place, replay.Ring],
        places: list[_Place],
        at: tuple[np.int32, ...],
        remote: dict[str, np.ndarray],
        fetch: Callable[[int, int, int], _Chunk],
    ) -> None:
        self.spec = spec
        self._blocks, self._places, self._at = blocks, places, at
        self._here = [shard for shard, place in enumerate(places) if place in blocks]
        self._remote, self._fetch = remote, fetch

    def counters(self) -> dict[str, np.ndarray]:
        """Returns `written` and `max_priority`, which are those of all devices."""
        if not self._here:
            return self._remote
        index = self._blocks[self._places[self._here[0]]].index
        return {name: np.asarray(getattr(index, name))[self._at] for name in ("written", "max_priority")}

    @property
    def size(self) -> int:
        """Times that the ring holds."""
        return min(int(self.counters()["written"]), self.spec.num_steps)

    @property
    def oldest(self) -> int:
        """The oldest time that the ring holds."""
        return int(self.counters()["written"]) - self.size

    def read(self, chunk_rows: int, *, here: bool = False) -> Iterator[_Chunk]:
        """Yields rows `[M, E, ...]` and priorities `[M, E]` of all times on the host, oldest first.

        Args:
          chunk_rows: rows, over all environments, that are in transit at one time.
          here: leave out the environments of other hosts, whose rows are zeros.
        """
        size, oldest = self.size, self.oldest
        chunk_steps = max(1, chunk_rows // self.spec.num_envs)
        for begin in range(0, size, chunk_steps):
            times = oldest + begin, min(chunk_steps, size - begin)
            held = {shard: self.read_shard(shard, *times) for shard in self._here}
            for shard in range(len(self._places)):
                if shard not in held:
                    held[shard] = (
                        jax.tree.map(np.zeros_like, next(iter(held.values()))) if here else self._fetch(shard, *times)
                    )
            shares = [held[shard] for shard in range(len(self._places))]
            yield shares[0] if len(shares) == 1 else jax.tree.map(lambda *x: np.concatenate(x, axis=1), *shares)

    def read_shard(self, shard: int, begin: int, count: int) -> _Chunk:
        """Returns rows and priorities of a device of this host, on the host; arguments as of `replay.read`."""
        block = self._blocks[self._places[shard]]
        return jax.device_get(replay.read(self.spec.of_shard, block, begin, count, at=self._at))

    def write(self, begin: int, rows: replay.Rows) -> None:
        """Writes rows `[M, E, ...]` as the times from `begin` on; `restore` makes them part of the ring."""

        def put(ring: replay.Ring, rows: replay.Rows, shard: int) -> replay.Ring:
            del shard
            return write(self.spec.of_shard, ring, np.int32(begin), rows, self._at)

        self.update(put, rows)

    def update(self, change: Callable[[replay.Ring, Any, int], replay.Ring], rows: Any) -> None:
        """Changes what the devices of this host hold.

        Args:
          change: `(ring, rows, number of the device) -> ring`; it consumes its ring, in whose arrays `at` are the
            indices of this seed.
          rows: arrays `[M, E, ...]`, of which `change` gets those of the device's environments.
        """
        num_envs = self.spec.of_shard.num_envs
        for shard in self._here:
            place, lanes = self._places[shard], slice(shard * num_envs, (shard + 1) * num_envs)
            share = jax.tree.map(lambda x: x[:, lanes], rows) if len(self._places) > 1 else rows  # noqa: B023
            self._blocks[place] = change(self._blocks[place], share, shard)

    @property
    def devices(self) -> dict[int, Any]:
        """The devices of this host that hold environments of the seed, by number, in order."""
        held = {shard: self._blocks[self._places[shard]] for shard in self._here}
        return {shard: next(iter(block.index.written.devices())) for shard, block in held.items()}

    @property
    def num_shards(self) -> int:
        """D, the devices that hold the environments of the seed, those of other hosts included."""
        return len(self._places)

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
