"""A ring that is spread over devices: each holds the rows of its share of the environments, and samples from them.

The arrays of such a ring have a leading axis of D devices. Each device draws its share of a batch from its own rows: a
row of a device that holds fewer rows which may start a window is drawn a little more often than one of another device.
Importance weights take that into account.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from seer_jax.replay import priorities, sampling
from seer_jax.replay import ring as ring_lib
from seer_jax.replay.records import Batch, Ring, RingSpec, Rows

SHARDS = "data"  # axis of the mesh
_SPREAD, _SAME = PartitionSpec(SHARDS), PartitionSpec()


def init(spec: RingSpec, row: Rows) -> Ring:
    """Returns an empty ring for rows like `row`, whose leaves are `[E, ...]` arrays or their shapes."""
    if spec.num_shards == 1:
        return ring_lib.init(spec, row)
    num_envs = spec.of_shard.num_envs
    of_shard = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_envs, *x.shape[1:]), x.dtype), row)
    return jax.tree.map(
        lambda x: jnp.broadcast_to(x, (spec.num_shards, *x.shape)), ring_lib.init(spec.of_shard, of_shard)
    )


def add(spec: RingSpec, ring: Ring, row: Rows, steps: jax.Array | None = None) -> Ring:
    """Writes the rows of one time, `[E, ...]`, over the oldest.

    Args:
      spec: static part of the ring.
      ring: the ring.
      row: the rows.
      steps: bool `[]`, False leaves the ring as it is; None stands for True.
    """
    return _map(ring_lib.add, spec, (_SPREAD, _SPREAD, _SAME), _SPREAD)(ring, row, steps)


def end_episodes(spec: RingSpec, ring: Ring, ends: jax.Array | None = None) -> Ring:
    """Makes the newest rows the last of their episodes, as if they had been added so; the ring holds some rows.

    Args:
      spec: static part of the ring.
      ring: the ring.
      ends: bool `[]`, False leaves the ring as it is; None stands for True.
    """
    return _map(ring_lib.end_episodes, spec, (_SPREAD, _SAME), _SPREAD)(ring, ends)


def sample(
    spec: RingSpec, ring: Ring, key: jax.Array, *, batch_size: int, importance_exponent: jax.Array | float = 0.0
) -> Batch:
    """Draws starts with replacement and rebuilds their n-step transitions.

    Args:
      spec: static part of the ring.
      ring: the ring.
      key: PRNG key.
      batch_size: B, a multiple of the devices over which the ring is spread.
      importance_exponent: beta of Schaul et al. 2016; ignored if replay is uniform.

    Returns:
      A batch. Its content is undefined while no row is sampleable.
    """
    if spec.num_shards == 1:
        return sampling.sample(spec, ring, key, batch_size=batch_size, importance_exponent=importance_exponent)

    def share(of_shard: RingSpec, ring: Ring, key: jax.Array, exponent: jax.Array) -> Batch:
        key = jax.random.fold_in(key, jax.lax.axis_index(SHARDS))
        batch = sampling.sample(of_shard, ring, key, batch_size=batch_size // spec.num_shards)
        if not spec.prioritized:
            return batch
        chance = priorities.chances(ring.index, batch.start)
        return batch.replace(weight=(chance / jax.lax.pmin(chance.min(), SHARDS)) ** -exponent)

    return _map(share, spec, (_SPREAD, _SAME, _SAME), _SPREAD)(ring, key, jnp.asarray(importance_exponent))


def update_priorities(spec: RingSpec, ring: Ring, start: jax.Array, loss: jax.Array) -> Ring:
    """Sets the priorities of sampled starts to `loss ** priority_exponent`; `start` and `loss` are `[B]`.

    Unsampleable rows keep priority 0. Where a loss is not finite the priority does not change.
    """

    def share(of_shard: RingSpec, ring: Ring, start: jax.Array, loss: jax.Array) -> Ring:
        ring = priorities.update_priorities(of_shard, ring, start, loss)
        if spec.num_shards == 1:
            return ring
        highest = jax.lax.pmax(ring.index.max_priority, SHARDS)
        return ring.replace(index=ring.index.replace(max_priority=highest))

    return _map(share, spec, (_SPREAD, _SPREAD, _SPREAD), _SPREAD)(ring, start, loss)


def _map(fn: Callable[..., Any], spec: RingSpec, in_specs: tuple[PartitionSpec, ...], out_specs: PartitionSpec) -> Any:
    """Returns a function of a ring, and of more, that does on each device what `fn` does with a ring of one device."""
    if spec.num_shards == 1:
        return functools.partial(fn, spec)

    def on_shard(ring: Ring, *args: Any) -> Any:
        result = fn(spec.of_shard, jax.tree.map(lambda x: x[0], ring), *args)
        return jax.tree.map(lambda x: x[None], result) if isinstance(result, Ring) else result

    return jax.shard_map(on_shard, in_specs=in_specs, out_specs=out_specs, axis_names={SHARDS}, check_vma=False)
