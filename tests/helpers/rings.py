"""Rings and their naive twins, filled with the same random episodes."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from seer_jax import replay
from seer_jax.replay.priorities import set_all_priorities
from tests.helpers.naive import NaiveReplay

FRAME = (3, 3, 2)  # several channels, whose order in a stack shows


def random_rows(
    rng: np.random.Generator,
    num_envs: int,
    frame_shape: tuple[int, ...] = FRAME,
    dtype: Any = np.uint8,
    end_prob: float = 0.2,
    life_prob: float = 0.1,
) -> Iterator[replay.Rows]:
    """Yields rows of consistent episodes: `first` follows `last`, rewards and actions rarely repeat."""
    first = np.ones(num_envs, bool)
    while True:
        ends = rng.random(num_envs) < end_prob
        last = ends & ~first
        terminated = ((rng.random(num_envs) < life_prob) | (last & (rng.random(num_envs) < 0.5))) & ~first
        frame = rng.integers(1, 255, (num_envs, *frame_shape)).astype(dtype)
        reward = np.where(first, 0, rng.normal(size=num_envs)).astype(np.float32)
        action = rng.integers(0, 1000, num_envs).astype(np.int32)
        yield replay.Rows(frame, action, reward, terminated, last, first.copy())
        first = last


def as_dicts(rows: replay.Rows) -> list[dict[str, np.ndarray]]:
    """Splits the rows of one time into a dictionary for each environment."""
    return [{name: np.asarray(value)[e] for name, value in vars(rows).items()} for e in range(len(rows.reward))]


@functools.cache
def add_program(spec: replay.RingSpec) -> Any:
    """Returns the compiled `replay.add` of a spec."""
    return jax.jit(functools.partial(replay.add, spec))


@functools.cache
def _sample_one(spec: replay.RingSpec) -> Any:
    """Returns the compiled `(ring, priorities [T, E]) -> batch of one`."""

    def sample(ring: replay.Ring, priorities: jax.Array) -> replay.Batch:
        ring = ring.replace(index=set_all_priorities(spec, ring.index, priorities))
        return replay.sample(spec, ring, jax.random.PRNGKey(0), batch_size=1)

    return jax.jit(sample)


def make_twin(spec: replay.RingSpec) -> NaiveReplay:
    """Returns the naive replay of a spec, empty."""
    return NaiveReplay(
        capacity=spec.num_steps,
        num_envs=spec.num_envs,
        stack=spec.stack,
        n_step=spec.n_step,
        discount=spec.discount,
        first_stack=spec.first_stack,
    )


def empty_ring(spec: replay.RingSpec, frame_shape: tuple[int, ...] = FRAME, dtype: Any = np.uint8) -> replay.Ring:
    """Returns an empty ring for observations of this shape and type."""
    observation = jax.ShapeDtypeStruct((spec.num_envs, *frame_shape), dtype)
    return replay.init(spec, replay.row_shapes(observation, jax.ShapeDtypeStruct((spec.num_envs,), np.int32)))


def build(
    spec: replay.RingSpec,
    rows: Iterable[replay.Rows],
    count: int,
    frame_shape: tuple[int, ...] = FRAME,
    dtype: Any = np.uint8,
) -> tuple[replay.Ring, NaiveReplay]:
    """Returns a ring and its twin, both with the first `count` of `rows`."""
    ring, twin, add = empty_ring(spec, frame_shape, dtype), make_twin(spec), add_program(spec)
    for _, row in zip(range(count), rows, strict=False):
        ring = add(ring, row)
        twin.add(as_dicts(row))
    return ring, twin


def observations(spec: replay.RingSpec, ring: replay.Ring) -> np.ndarray:
    """Returns the observations of all rows that the ring holds, `[M, E, ...]`, oldest first."""
    rows, _ = replay.read(spec, ring, replay.oldest(spec, ring), replay.size(spec, ring))
    return np.asarray(rows.observation)


def priorities_by_slot(spec: replay.RingSpec, ring: replay.Ring) -> np.ndarray:
    """Returns the priorities of all rows, `[T, E]`, by slot."""
    return np.asarray(ring.index.priorities).ravel()[: spec.capacity].reshape(spec.num_steps, spec.num_envs)


def sampleable_starts(spec: replay.RingSpec, ring: replay.Ring) -> set[tuple[int, int]]:
    """Returns every (environment, time) with a positive priority."""
    priorities, written = priorities_by_slot(spec, ring), int(ring.index.written)
    times = {t % spec.num_steps: t for t in range(max(0, written - spec.num_steps), written)}
    assert all(slot in times for slot in np.nonzero(priorities)[0])
    return {(int(env), times[slot]) for slot, env in zip(*np.nonzero(priorities), strict=True)}


def sample_at(spec: replay.RingSpec, ring: replay.Ring, starts: Iterable[tuple[int, int]]) -> Iterator[replay.Batch]:
    """Yields the transition of each (environment, time), sampled while no other row has a priority."""
    for env, time in starts:
        priorities = np.zeros((spec.num_steps, spec.num_envs), np.float32)
        priorities[time % spec.num_steps, env] = 1.0
        yield jax.tree.map(lambda x: np.asarray(x)[0], _sample_one(spec)(ring, priorities))
