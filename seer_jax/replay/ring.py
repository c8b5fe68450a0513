"""The replay ring: time-major rows on the device, observations and n-step windows rebuilt at sampling.

A ring holds `[T, E, ...]` rows, one for each time and environment: T times of E environments. Before
the freeze a row's observation is one frame and a sample's is the stack of k frames that ends at the
row; after it, both are a latent. Nothing else differs between the two.

A row says what was seen on arrival (observation, reward, terminated, last, first) and what was done
next (action). The reward of row t was therefore earned by the action of row t-1.

A start is sampleable when all rows that its observation and its n-step window need are in the ring.
That can change only near the write head, so `add` re-evaluates the rule there and keeps the answer
as a leaf of a two-level sum: 0 for rows that may not be sampled, and their priority for the others
(1 for all of them where replay is uniform). Sampling costs O(sqrt(T * E)).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

_MIN_PRIORITY = 1e-6  # keeps a start with a vanishing loss sampleable


@dataclasses.dataclass(frozen=True)
class RingSpec:
    """The static part of a ring.

    Attributes:
      num_steps: T, rows of each environment.
      num_envs: E.
      stack: frames in a sampled observation, or 0 where rows hold latents.
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

    def __post_init__(self):
        least = min_steps(self.n_step, self.stack)
        if self.num_steps < least:
            raise ValueError(
                f"a ring of {self.num_steps} rows per environment cannot hold one {self.n_step}-step window and its"
                f" frame stack ({least} rows); raise replay.capacity or lower agent.n_step or num_envs"
            )

    @property
    def capacity(self) -> int:
        return self.num_steps * self.num_envs


def min_steps(n_step: int, stack: int) -> int:
    """Rows of each environment that a ring needs for something to be sampleable at any time.

    One full window with its stack, and one row more: the only start might be a `last` row.
    """
    return n_step + max(stack, 1) + 1


@struct.dataclass
class Rows:
    """Rows of one time, `[E, ...]`, or of the whole ring, `[T, E, ...]`.

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


@struct.dataclass
class Ring:
    """The ring's arrays.

    Attributes:
      rows: `[T, E, ...]`.
      written: int32 `[]`, times written since birth; the next goes to slot `written % T`.
      priorities: float32 `[num_blocks, block]`, leaf `slot * E + env`; 0 marks a row that is no start.
      block_sums: float32 `[num_blocks]`.
      max_priority: float32 `[]`, given to new starts.
    """

    rows: Rows
    written: jax.Array
    priorities: jax.Array
    block_sums: jax.Array
    max_priority: jax.Array

    @property
    def num_bytes(self) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))


@struct.dataclass
class Batch:
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


def row_shapes(observation: jax.ShapeDtypeStruct, action: jax.ShapeDtypeStruct) -> Rows:
    """Returns the shapes of one time's rows, given those of its observations and actions, `[E, ...]`."""

    def per_env(dtype):
        return jax.ShapeDtypeStruct(observation.shape[:1], dtype)

    return Rows(
        observation=observation,
        action=action,
        reward=per_env(jnp.float32),
        terminated=per_env(bool),
        last=per_env(bool),
        first=per_env(bool),
    )


def init(spec: RingSpec, row: Rows) -> Ring:
    """Returns an empty ring for rows like `row`, whose leaves are `[E, ...]` arrays or their shapes."""
    block = math.isqrt(spec.capacity - 1) + 1
    num_blocks = -(-spec.capacity // block)
    return Ring(
        rows=jax.tree.map(lambda x: jnp.zeros((spec.num_steps, *x.shape), x.dtype), row),
        written=jnp.zeros((), jnp.int32),
        priorities=jnp.zeros((num_blocks, block), jnp.float32),
        block_sums=jnp.zeros((num_blocks,), jnp.float32),
        max_priority=jnp.ones((), jnp.float32),
    )


def add(spec: RingSpec, ring: Ring, row: Rows) -> Ring:
    """Writes the rows of one time, `[E, ...]`, over the oldest."""
    slot = ring.written % spec.num_steps
    rows = jax.tree.map(lambda buf, x: jax.lax.dynamic_update_index_in_dim(buf, x, slot, 0), ring.rows, row)
    ring = ring.replace(rows=rows, written=ring.written + 1)

    # Windows that the new row completes, the row itself, and the stacks that lost a row to it.
    newest = ring.written - 1
    oldest = newest - spec.num_steps + 1
    times = jnp.concatenate([newest - jnp.arange(spec.n_step + 1), oldest + jnp.arange(max(spec.stack, 1) - 1)])  # [M]
    start = (times % spec.num_steps)[:, None] * spec.num_envs + jnp.arange(spec.num_envs)  # [M, E]
    before = ring.priorities.reshape(-1)[start]
    kept_or_new = jnp.where(before > 0, before, ring.max_priority)
    return _set_priorities(ring, start.ravel(), jnp.where(sampleable(spec, ring, times), kept_or_new, 0.0).ravel())


def sampleable(spec: RingSpec, ring: Ring, times: jax.Array) -> jax.Array:
    """Tells which rows may start a sampled window.

    Args:
      times: `[M]` int32, times since birth; times that are no longer or not yet in the ring are not sampleable.

    Returns:
      `[M, E]` bool.
    """
    newest = ring.written - 1
    oldest = jnp.maximum(ring.written - spec.num_steps, 0)
    slot = times % spec.num_steps

    age = jnp.arange(max(spec.stack, 1))
    stack_first = ring.rows.first[(slot[:, None] - age) % spec.num_steps]  # [M, k, E]
    in_ring = (times[:, None] - age >= oldest)[..., None]
    stack_ok = (in_ring | _cut(stack_first, axis=1)).all(axis=1)

    ahead = slot[:, None] + 1 + jnp.arange(spec.n_step)
    ahead = ahead % spec.num_steps
    window_ends = ring.rows.terminated[ahead] | ring.rows.last[ahead]  # [M, n, E]
    written = (times[:, None] + 1 + jnp.arange(spec.n_step) <= newest)[..., None]
    window_ok = written[:, -1] | (window_ends & written).any(axis=1)

    there = ((times >= oldest) & (times <= newest))[:, None]
    return there & stack_ok & window_ok & ~ring.rows.last[slot]


def sample(
    spec: RingSpec, ring: Ring, key: jax.Array, *, batch_size: int, importance_exponent: jax.Array | float = 0.0
) -> Batch:
    """Draws starts with replacement and rebuilds their n-step transitions.

    Args:
      key: PRNG key.
      batch_size: B.
      importance_exponent: beta of Schaul et al. 2016; ignored where replay is uniform.

    Returns:
      A batch. Its content is undefined while no row is sampleable.
    """
    k_start, k_obs, k_next = jax.random.split(key, 3)
    start, priority = _draw_starts(ring, k_start, batch_size)
    slot, env = start // spec.num_envs, start % spec.num_envs  # [B]

    ahead = (slot[:, None] + 1 + jnp.arange(spec.n_step)) % spec.num_steps  # [B, n]
    terminated, last = (x[ahead, env[:, None]] for x in (ring.rows.terminated, ring.rows.last))
    ended_before = _cut(terminated | last, axis=1)
    taken = jnp.sum(~ended_before, axis=1)  # [B], m of the n steps belong to the window
    discounts = jnp.asarray(spec.discount ** np.arange(spec.n_step + 1), jnp.float32)
    rewards = jnp.where(ended_before, 0.0, ring.rows.reward[ahead, env[:, None]])
    stops = jnp.any(terminated & ~ended_before, axis=1)
    bootstrap = (slot + taken) % spec.num_steps

    return Batch(
        obs=_observe(spec, ring.rows, slot, env, k_obs),
        action=ring.rows.action[slot, env],
        reward=jnp.dot(rewards, discounts[:-1], precision=jax.lax.Precision.HIGHEST),  # TPUs would round it
        discount=jnp.where(stops, 0.0, discounts[taken]),
        next_obs=_observe(spec, ring.rows, bootstrap, env, k_next),
        weight=_importance_weights(spec, priority, importance_exponent),
        start=start,
    )


def update_priorities(spec: RingSpec, ring: Ring, start: jax.Array, loss: jax.Array) -> Ring:
    """Sets the priorities of sampled starts to `loss ** priority_exponent`; `start` and `loss` are `[B]`.

    What is no start stays none, and where a loss is not finite the priority stays what it was.
    """
    before = ring.priorities.reshape(-1)[start]
    priority = (jnp.abs(loss) + _MIN_PRIORITY) ** spec.priority_exponent
    priority = jnp.where((before > 0) & jnp.isfinite(priority), priority, before)
    ring = ring.replace(max_priority=jnp.maximum(ring.max_priority, priority.max()))
    return _set_priorities(ring, start, priority)


def push_frame(stack: jax.Array, frame: jax.Array, first: jax.Array) -> jax.Array:
    """Rolls `[E, H, W, k * C]` stacks by one `[E, H, W, C]` frame; where `first`, older frames turn black."""
    older = jnp.where(first[:, None, None, None], 0, stack[..., frame.shape[-1] :])
    return jnp.concatenate([older, frame], axis=-1)


def stack_frames(frames: jax.Array, first: jax.Array) -> jax.Array:
    """Stacks `[k, H, W, C]` frames of consecutive rows, blackening those before the last `first` of `[k]`.

    Returns:
      `[H, W, k * C]`, newest last: what `push_frame` gives for the same rows.
    """
    cut = _cut(first[::-1], axis=0)[::-1]
    kept = jnp.where(cut[:, None, None, None], 0, frames)
    return jnp.moveaxis(kept, 0, -2).reshape(*frames.shape[1:3], -1)


def _cut(flag: jax.Array, axis: int) -> jax.Array:
    """True at the positions along `axis` that have a true `flag` somewhere before them."""
    seen = jax.lax.cumsum(flag.astype(jnp.int32), axis=axis)
    return seen - flag > 0


def _observe(spec: RingSpec, rows: Rows, slot: jax.Array, env: jax.Array, key: jax.Array) -> jax.Array:
    """Rebuilds the observations of rows `slot`, `env` (both `[B]`)."""
    if spec.stack:
        back = jnp.arange(spec.stack)[::-1]

        def read(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            slot, env = row
            at = (slot - back) % spec.num_steps, env
            return stack_frames(rows.observation[at], rows.first[at])

        # In two halves, since a loop is a border that XLA:CPU does not fuse across: it would rebuild the stacks, with
        # their indices and cuts, for every pixel of every product that reads them.
        return jax.lax.map(read, (slot, env), batch_size=max(1, slot.size // 2))
    num_copies = rows.observation.shape[2]
    copy = 0 if num_copies == 1 else jax.random.randint(key, slot.shape, 0, num_copies)
    return rows.observation[slot, env, copy].astype(jnp.float32)


def _draw_starts(ring: Ring, key: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Returns `[B]` leaf indices drawn in proportion to priority, and their priorities.

    Block and leaf use numbers of their own: one 24-bit number would favour some of a million leaves.
    """
    block_u, leaf_u = jax.random.uniform(key, (2, batch_size))
    block = jax.vmap(_pick, in_axes=(None, 0))(ring.block_sums, block_u)
    leaves = ring.priorities[block]  # [B, block]
    leaf = jax.vmap(_pick)(leaves, leaf_u)
    priority = jnp.take_along_axis(leaves, leaf[:, None], axis=1)[:, 0]
    return block * ring.priorities.shape[1] + leaf, priority


def _pick(mass: jax.Array, u: jax.Array) -> jax.Array:
    """Inverts the cumulative distribution of `mass`, `[M]`, at `u` in [0, 1); never picks a mass of 0."""
    cumulative = jnp.cumsum(mass)
    # Rounding may leave no hit at the far end; the last positive mass is the right answer there.
    hit = (cumulative > u * cumulative[-1]) & (mass > 0)
    last = mass.shape[0] - 1 - jnp.argmax(mass[::-1] > 0)
    return jnp.where(hit.any(), jnp.argmax(hit), last)


def _importance_weights(spec: RingSpec, priority: jax.Array, exponent: jax.Array | float) -> jax.Array:
    """Returns `(N * P(i)) ** -beta` over its maximum in the batch; N and the sum of priorities cancel."""
    if not spec.prioritized:
        return jnp.ones_like(priority)
    return (priority / priority.min()) ** -exponent


def _set_priorities(ring: Ring, start: jax.Array, priority: jax.Array) -> Ring:
    """Sets leaves, `[M]`, and sums their blocks anew, so that rounding errors never add up."""
    block, leaf = start // ring.priorities.shape[1], start % ring.priorities.shape[1]
    priorities = ring.priorities.at[block, leaf].set(priority)
    block_sums = ring.block_sums.at[block].set(priorities[block].sum(axis=1))
    return ring.replace(priorities=priorities, block_sums=block_sums)


def restore_priorities(spec: RingSpec, ring: Ring, priorities: jax.Array) -> Ring:
    """Sets the priorities of all T * E leaves from `[T, E]`."""
    padded = jnp.pad(priorities.ravel(), (0, ring.priorities.size - spec.capacity)).reshape(ring.priorities.shape)
    return ring.replace(priorities=padded, block_sums=padded.sum(axis=1))
