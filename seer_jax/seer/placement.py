"""Where the arrays of a run live: its axis of seeds, and the devices over which seeds and lanes are spread.

The programs of a phase are written for one seed. With several seeds, arrays have a leading axis of seeds, and a program
is mapped over it. A mesh has two axes of devices. `seed` spreads the axis of seeds: no device waits for another. `data`
spreads the environments of each seed, with their rows of the replay ring and their share of a batch; parameters are the
same on all its devices, and XLA sums the gradients.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seer_jax.config import RunConfig
from seer_jax.fields import ConfigError
from seer_jax.replay import SHARDS as DATA

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
        """The places of the first seed if it were alone."""
        if self.mesh is None or self.num_shards == 1:
            return Placement()
        return Placement(mesh=_mesh(self.mesh.devices[:1]))

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
        """Puts arrays of all seeds, those of the environments as `[S * E, ...]`, where they belong."""
        if self.num_seeds > 1 and lanes:
            tree = jax.tree.map(lambda x: x.reshape(self.num_seeds, -1, *x.shape[1:]), tree)
        return jax.device_put(tree, self.sharding(lanes=lanes))

    def move(self, tree: Any, *, lanes: bool) -> Any:
        """Returns arrays of all seeds where they belong."""
        sharding = self.sharding(lanes=lanes)
        return tree if sharding is None else jax.device_put(tree, sharding)

    def stack(self, trees: Sequence[Any], *, lanes: bool) -> Any:
        """Returns the trees of arrays of all seeds as one."""
        tree = trees[0] if self.num_seeds == 1 else jax.tree.map(lambda *x: jnp.stack(x), *trees)
        return self.move(tree, lanes=lanes)

    def unstack(self, tree: Any) -> list[Any]:
        """Returns the trees of arrays of each seed; those of several seeds on the host."""
        if self.num_seeds == 1:
            return [tree]
        host = jax.device_get(tree)
        return [_item(host, i) for i in range(self.num_seeds)]


def _on_only_seed(fn: Callable) -> Callable:
    """Returns a function of arrays with an axis of one seed, which computes what `fn` does without that axis."""

    def mapped(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[None], fn(*_item(args, 0)))

    return mapped


def _item(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def make_placement(config: RunConfig, devices: Sequence[Any] | None = None) -> Placement:
    """Returns the places of the arrays of a run.

    Args:
      config: the configuration.
      devices: to use; None stands for those of this machine, or of all hosts.

    Raises:
      ConfigError: the mesh needs more devices than there are.
    """
    shape = config.mesh.seed, config.mesh.data
    if shape == (1, 1):
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
