"""The records that a ring is made of, and its static part.

A ring holds `[T, E, ...]` rows: T times of E environments. Before the freeze the observation of a row is one frame, and
a sampled observation is the stack of k frames that ends at the row. After the freeze both are a latent. Nothing else
differs between the two.

A row holds what arrived (observation, reward, terminated, last, first) and what was done next (action). The reward of
row t was therefore earned by the action of row t-1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass(frozen=True)
class RingSpec:
    """The static part of a ring.

    Attributes:
      num_steps: T, rows of each environment.
      num_envs: E.
      stack: frames in a sampled observation, or 0 if rows hold latents.
      first_stack: `black` or `repeat`, what stands in a stack before an episode's first frame; see `frames`.
      n_step: transitions in a full window.
      discount: gamma, per agent step.
      prioritized: sample in proportion to priority (Schaul et al. 2016, https://arxiv.org/abs/1511.05952).
      priority_exponent: alpha of that paper.
    """

    num_steps: int
    num_envs: int
    stack: int
    n_step: int
    discount: float
    prioritized: bool = False
    priority_exponent: float = 0.5
    first_stack: str = "black"

    def __post_init__(self) -> None:
        needed = min_steps(self.n_step, self.stack)
        if self.num_steps < needed:
            raise ValueError(
                f"a ring of {self.num_steps} rows per environment cannot hold one {self.n_step}-step window and its"
                f" frame stack ({needed} rows); raise replay.capacity or lower agent.n_step or num_envs"
            )

    @property
    def capacity(self) -> int:
        """T * E, rows in all."""
        return self.num_steps * self.num_envs


def min_steps(n_step: int, stack: int) -> int:
    """Returns the rows of each environment that a ring needs for something to be sampleable at any time.

    One full window with its stack, and one row more: the only start might be a `last` row.
    """
    return n_step + max(stack, 1) + 1


class Rows(struct.PyTreeNode):
    """Rows of one time, `[E, ...]`, or of several times, `[M, E, ...]`.

    Attributes:
      observation: `[..., H, W, C]` uint8 frame, or `[..., K, N, L]` latents (K copies, N encoders).
      action: `[...]` int32 or `[..., A]` float32, chosen on seeing the observation.
      reward: `[...]` float32, received on arrival.
      terminated: `[...]` bool, nothing follows this arrival.
      last: `[...]` bool, the final observation of an episode; its action was never executed.
      first: `[...]` bool, the first observation of an episode.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    last: jax.Array
    first: jax.Array


class Index(struct.PyTreeNode):
    """How much a ring holds, and which rows may be sampled.

    Attributes:
      written: int32 `[]`, times written since birth; the next goes to slot `written % T`.
      sums: levels of a tree, each float32 `[blocks, width]`. The first holds the priorities, leaf `slot * E + env`; 0
        marks a row that may not start a window. Entry i of the others is the sum of block i of the level before.
      max_priority: float32 `[]`, given to new starts.
    """

    written: jax.Array
    sums: tuple[jax.Array, ...]
    max_priority: jax.Array

    @property
    def priorities(self) -> jax.Array:
        """The priorities, in blocks."""
        return self.sums[0]


class Ring(struct.PyTreeNode):
    """The ring's arrays. Other packages use the functions of `seer_jax.replay` and do not read inside.

    Attributes:
      rows: `[T, E, ...]`, whose observations are flat and padded, `[T, E, W]`; see `layout`.
      index: counters and priorities.
      observation: shape `[H, W, C]` or `[K, N, L]`, and type, of the observation of one row.
    """

    rows: Rows
    index: Index
    observation: jax.ShapeDtypeStruct = struct.field(pytree_node=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays, the padding of observations included."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))


class Batch(struct.PyTreeNode):
    """Sampled n-step transitions.

    Attributes:
      obs: `[B, H, W, k * C]` uint8 stack, or `[B, N, L]` latents.
      action: `[B]` int32 or `[B, A]` float32.
      reward: `[B]` float32, discounted sum over the window.
      discount: `[B]` float32, gamma to the number of steps really taken, or 0 after termination.
      next_obs: like obs, at the end of the window.
      weight: `[B]` float32, importance weights with maximum 1.
      start: `[B]` int32, leaf index, for `update_priorities`.
    """

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_obs: jax.Array
    weight: jax.Array
    start: jax.Array


def row_shapes(observation: jax.Array | jax.ShapeDtypeStruct, action: jax.Array | jax.ShapeDtypeStruct) -> Rows:
    """Returns the shapes of one time's rows, given those of its observations and actions, `[E, ...]`."""

    def rows(observation: jax.Array, action: jax.Array) -> Rows:
        number, flag = (jnp.zeros(observation.shape[:1], dtype) for dtype in (jnp.float32, bool))
        return Rows(observation=observation, action=action, reward=number, terminated=flag, last=flag, first=flag)

    return jax.eval_shape(rows, observation, action)
