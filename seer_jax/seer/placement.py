"""Where the arrays of a run live: its axis of seeds, and the devices over which seeds and lanes are spread.

The programs of a phase are written for one seed. With several seeds, arrays have a leading axis of seeds, and a program
is mapped over it. A mesh has two axes of devices. `seed` spreads the axis of seeds: no device waits for another. `data`
spreads the environments of each seed, with their rows of the replay ring and their share of a batch; parameters are the
same on all its devices, and XLA sums the gradients.

Devices may belong to several hosts, the same number of them to each. A host steps the environments whose rows lie on
its own devices: here is what this process sees of the arrays of a run.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seer_jax.config import RunConfig
from seer_jax.fields import ConfigError
from seer_jax.replay import SHARDS as DATA
from seer_jax.seer import hosts as hosts_lib
from seer_jax.seer.hosts import Hosts

SEED = "seed"


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """The places of the arrays of a run.

    Attributes:
      num_seeds: S; arrays have an axis of seeds if there are several.
      mesh: devices by `seed` and `data`; None for the default device alone.
    """

    num_seeds: int = 1
    mesh: Mesh | None = None

    @property
    def num_shards(self) -> int:
        """D, the devices over which the environments of a seed are spread."""
        return 1 if self.mesh is None else self.mesh.shape[DATA]

    @property
    def num_seeds_on_device(self) -> int:
        """Seeds whose programs run on one device."""
        return self.num_seeds if self.mesh is None else self.num_seeds // self.mesh.shape[SEED]

    @property
    def of_one_seed(self) -> "Placement":
        """The places of the first seed of this host if it were alone."""
        if self.mesh is None or self.num_shards == 1:
            return Placement()
        row = self._here[0].start
        return Placement(mesh=_mesh(self.mesh.devices[row : row + 1]))

    @functools.cached_property
    def on_several_hosts(self) -> bool:
        """Whether some devices belong to other processes."""
        return self.mesh is not None and bool((_owners(self.mesh.devices) != jax.process_index()).any())

    @functools.cached_property
    def _here(self) -> tuple[slice, slice]:
        """Rows and columns of the mesh that belong to this process."""
        if self.mesh is None or not self.on_several_hosts:
            return slice(0, 1 if self.mesh is None else self.mesh.shape[SEED]), slice(0, self.num_shards)
        rows, columns = np.nonzero(_owners(self.mesh.devices) == jax.process_index())
        return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)

    @property
    def seeds_here(self) -> range:
        """Numbers of the seeds, from 0 on, of which some environments belong to this host."""
        rows, on_device = self._here[0], self.num_seeds_on_device
        return range(rows.start * on_device, rows.stop * on_device) if self.num_seeds > 1 else range(1)

    @property
    def seeds_first_here(self) -> range:
        """Those of `seeds_here` whose first environment belongs to this host: each seed is one of one host."""
        return self.seeds_here if self._here[1].start == 0 else range(0)

    def lanes_here(self, num_envs: int) -> np.ndarray:
        """Returns the numbers, among the S * E environments, of those that belong to this host, `[L]`.

        Args:
          num_envs: E, the environments of a seed.
        """
        numbers, columns = np.arange(self.num_seeds * num_envs).reshape(self.num_seeds, num_envs), self._here[1]
        on_device = num_envs // self.num_shards
        seeds = self.seeds_here
        return numbers[seeds.start : seeds.stop, columns.start * on_device : columns.stop * on_device].ravel()

    @functools.cached_property
    def here(self) -> "Placement":
        """The places of `seeds_here` on the devices of this host alone."""
        if self.mesh is None or not self.on_several_hosts:
            return self
        devices = self.mesh.devices[self._here]
        return Placement(len(self.seeds_here), _mesh(devices) if devices.size > 1 else None)

    def host_of(self, seed: int, shard: int) -> int:
        """Returns the process that has a device of a seed; both are numbers from 0 on."""
        return 0 if self.mesh is None else self.mesh.devices[seed // self.num_seeds_on_device, shard].process_index

    def sharding(self, *, lanes: bool) -> NamedSharding | None:
        """Returns how an array is spread; None without a mesh.

        Args:
          lanes: whether the first axis, after that of seeds, belongs to environments.
        """
        if self.mesh is None:
            return None
        seeds = (SEED,) if self.num_seeds > 1 else ()
        shards = (DATA,) if lanes and self.num_shards > 1 else ()
        return NamedSharding(self.mesh, PartitionSpec(*seeds, *shards))

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which programs are compiled, which names the mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def map_seeds(self, fn: Callable) -> Callable:
        """Returns a function of one seed as a function of all seeds: arguments and results get the axis of seeds."""
        if self.num_seeds == 1:
            return fn
        mapped = jax.vmap(fn) if self.num_seeds_on_device > 1 else _on_only_seed(fn)
        if self.mesh is None:
            return mapped
        spec = PartitionSpec(SEED)
        return jax.shard_map(mapped, mesh=self.mesh, in_specs=spec, out_specs=spec, axis_names={SEED}, check_vma=False)

    def shapes(self, tree: Any, *, lanes: bool) -> Any:
        """Returns the shapes of all seeds' arrays, with their places, from the shapes of one seed's."""
        seeds = (self.num_seeds,) if self.num_seeds > 1 else ()
        sharding = self.sharding(lanes=lanes)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*seeds, *x.shape), x.dtype, sharding=sharding), tree)

    def put(self, tree: Any, *, lanes: bool) -> Any:
        """Puts arrays on the host where they belong.

        Args:
          tree: arrays of the environments of this host, `[L, ...]`, in the order of `lanes_here`; those of one host are
            `[S * E, ...]`. Or arrays of all seeds.
          lanes: whether they are arrays of environments.
        """
        if self.on_several_hosts:
            return jax.tree.map(self._put_lanes if lanes else self._put_all, tree)
        if self.num_seeds > 1 and lanes:
            tree = jax.tree.map(lambda x: x.reshape(self.num_seeds, -1, *x.shape[1:]), tree)
        return jax.device_put(tree, self.sharding(lanes=lanes))

    def put_of_seeds(self, values: np.ndarray) -> jax.Array:
        """Puts values of all seeds, `[S, ...]`, where programs take them: without that axis if there is one seed."""
        return self.put(values if self.num_seeds > 1 else values[0], lanes=False)

    def _put_lanes(self, x: np.ndarray) -> jax.Array:
        """Puts the lanes of this host, `[L, ...]`, on its devices, as part of the array of all."""
        columns = self._here[1]
        num_seeds, num_shards = len(self.seeds_here), columns.stop - columns.start
        num_envs = len(x) // num_seeds // num_shards * self.num_shards
        shape, begins = [num_envs, *x.shape[1:]], [columns.start * num_envs // self.num_shards]
        if self.num_seeds > 1:
            shape, begins = [self.num_seeds, *shape], [self.seeds_here.start, *begins]
            x = x.reshape(num_seeds, -1, *x.shape[1:])

        def share(index: tuple[slice, ...]) -> np.ndarray:
            return x[tuple(slice(*_moved(at, begin)) for at, begin in zip(index, begins, strict=False))]

        return _make_array(tuple(shape), self.sharding(lanes=True), share)

    def _put_all(self, x: np.ndarray) -> jax.Array:
        """Puts what belongs to this host of an array of all seeds."""
        return _make_array(x.shape, self.sharding(lanes=False), lambda index: x[index])

    def fetch(self, x: jax.Array) -> np.ndarray:
        """Returns the lanes of this host, `[L, ...]`, of an array of environments."""
        if not self.on_several_hosts:
            host = jax.device_get(x)
            return host.reshape(-1, *host.shape[2:]) if self.num_seeds > 1 else host
        axis = 1 if self.num_seeds > 1 else 0
        blocks = jax.device_get(self._blocks(x))
        host = np.concatenate([np.concatenate(row, axis) for row in blocks]) if axis else np.concatenate(blocks[0])
        return host.reshape(-1, *host.shape[2:]) if axis else host

    def _blocks(self, x: jax.Array) -> list[list[jax.Array]]:
        """Returns what the devices of this host hold of an array, by rows and columns of the mesh."""
        held = {shard.device: shard.data for shard in x.addressable_shards}
        return [[held[device] for device in row] for row in self.mesh.devices[self._here]]  # pyright: ignore[reportOptionalMemberAccess]

    def local(self, tree: Any) -> Any:
        """Returns the arrays of `seeds_here`, which are no arrays of environments, as those of `here`."""
        if not self.on_several_hosts:
            return tree
        sharding, has_axis = self.here.sharding(lanes=False), self.here.num_seeds > 1

        def local(x: jax.Array) -> jax.Array:
            blocks = [block for row in self._blocks(x) for block in row]
            if self.num_seeds > 1 and not has_axis:
                blocks = [block.reshape(block.shape[1:]) for block in blocks]
            if sharding is None:
                return blocks[0]
            shape = (self.here.num_seeds, *blocks[0].shape[1:]) if has_axis else blocks[0].shape
            return jax.make_array_from_single_device_arrays(shape, sharding, blocks)

        return jax.tree.map(local, tree)

    def move(self, tree: Any, *, lanes: bool) -> Any:
        """Returns arrays of all seeds where they belong; on several hosts, each has them all."""
        sharding: Any = self.sharding(lanes=lanes)
        if not self.on_several_hosts:
            return tree if sharding is None else jax.device_put(tree, sharding)

        def move(x: Any) -> jax.Array:
            host = np.asarray(x)
            # Copies: arrays that NumPy owns cannot be donated.
            return _make_array(host.shape, sharding, lambda index: jnp.array(host[index]))

        return jax.tree.map(move, jax.device_get(tree))

    def stack(self, trees: Sequence[Any], *, lanes: bool) -> Any:
        """Returns the trees of arrays of all seeds as one."""
        tree = trees[0] if self.num_seeds == 1 else jax.tree.map(lambda *x: jnp.stack(x), *trees)
        return self.move(tree, lanes=lanes)

    def unstack(self, tree: Any, hosts: Hosts | None = None) -> list[Any]:
        """Returns the trees of arrays of each seed; those of several seeds or hosts on the host.

        Args:
          tree: arrays of all seeds.
          hosts: all of which call this; None stands for one.
        """
        if hosts is not None and self.on_several_hosts:
            return [self._gather_seed(tree, i, hosts) for i in range(self.num_seeds)]
        if self.num_seeds == 1:
            return [tree]
        host = jax.device_get(tree)
        return [_item(host, i) for i in range(self.num_seeds)]

    def _gather_seed(self, tree: Any, seed: int, hosts: Hosts) -> Any:
        """Returns the arrays of one seed, whose devices may be those of several hosts."""
        leaves, structure = jax.tree.flatten(tree)
        spread = [DATA in leaf.sharding.spec for leaf in leaves]
        owners = dict.fromkeys(self.host_of(seed, shard) for shard in range(self.num_shards))
        parts = []
        for number, owner in enumerate(owners):
            mine = None
            if owner == hosts.index:
                wanted = {str(i): self._part(x, seed) for i, x in enumerate(leaves) if spread[i] or not number}
                mine = jax.device_get(wanted)
            parts.append(hosts.broadcast(mine, owner))
        whole = [
            np.concatenate([part[str(i)] for part in parts]) if spread[i] else parts[0][str(i)]
            for i in range(len(leaves))
        ]
        return structure.unflatten(whole)

    def _part(self, x: jax.Array, seed: int) -> Any:
        """Returns what this host has of an array of a seed that is on one of its devices at least."""
        on_device = self.num_seeds_on_device
        row = self._blocks(x)[seed // on_device - self._here[0].start if self.num_seeds > 1 else 0]
        blocks = jax.device_get(row if DATA in x.sharding.spec else row[:1])  # pyright: ignore[reportAttributeAccessIssue]
        blocks = [block[seed % on_device] for block in blocks] if self.num_seeds > 1 else blocks
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _on_only_seed(fn: Callable) -> Callable:
    """Returns a function of arrays with an axis of one seed, which computes what `fn` does without that axis."""

    def mapped(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[None], fn(*_item(args, 0)))

    return mapped


def _item(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _make_array(shape: tuple[int, ...], sharding: Any, share: Callable[[tuple[slice, ...]], Any]) -> jax.Array:
    """Returns an array of all hosts, of which `share` returns what belongs to a device of this one."""
    indices = sharding.addressable_devices_indices_map(shape)
    shards = jax.device_put([share(index) for index in indices.values()], list(indices))
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _moved(at: slice, begin: int) -> tuple[int | None, int | None]:
    """Returns the bounds of a slice of an array as those of a part of it that begins at `begin`."""
    return None if at.start is None else at.start - begin, None if at.stop is None else at.stop - begin


def make_placement(config: RunConfig, devices: Sequence[Any] | None = None) -> Placement:
    """Returns the places of the arrays of a run.

    Args:
      config: the configuration.
      devices: to use; None stands for those of this machine, or of all hosts, the same number of each.

    Raises:
      ConfigError: the mesh needs more devices than there are, or cannot be spread over the hosts.
    """
    shape = config.mesh.seed, config.mesh.data
    if devices is None and hosts_lib.are_several():
        devices = _devices_of_hosts(*shape)
    elif shape == (1, 1):
        return Placement(config.num_seeds)
    devices = jax.devices() if devices is None else devices
    needed = config.mesh.num_devices
    if needed > len(devices):
        raise ConfigError(
            f"mesh.seed={shape[0]} and mesh.data={shape[1]} need {needed} devices, and there are {len(devices)}; lower"
            " one of them"
        )
    return Placement(config.num_seeds, _mesh(np.asarray(devices[:needed]).reshape(shape)))


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, (SEED, DATA), axis_types=(AxisType.Auto, AxisType.Auto))


def _devices_of_hosts(seed: int, data: int) -> list[Any]:
    """Returns the devices of a mesh, the same number of each host, in the order of the hosts.

    Raises:
      ConfigError: there are not as many, or a seed would have other numbers of devices on its hosts.
    """
    count, needed, mesh = jax.process_count(), seed * data, f"mesh.seed={seed} and mesh.data={data}"
    by_host = [[each for each in jax.devices() if each.process_index == i] for i in range(count)]
    if needed % count:
        raise ConfigError(
            f"{mesh} need {needed} devices, which {count} processes cannot have the same number of; choose a multiple"
            f" of {count}"
        )
    of_host, fewest = needed // count, min(map(len, by_host))
    if of_host > fewest:
        raise ConfigError(
            f"{mesh} need {of_host} devices of each of {count} processes, and one has {fewest}; lower one of them, or"
            " start more processes"
        )
    if of_host % data and data % of_host:
        raise ConfigError(
            f"{mesh} give each process {of_host} devices: that and mesh.data={data} must be multiples of each other;"
            " choose others"
        )
    return [device for devices in by_host for device in devices[:of_host]]


def _owners(devices: np.ndarray) -> np.ndarray:
    """Returns the process of each device."""
    return np.vectorize(lambda device: device.process_index, otypes=[int])(devices)
