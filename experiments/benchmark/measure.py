"""Times an agent and its PyTorch twin in turns, so that a disturbance of the machine affects both.

In each turn a side first does its work once untimed, which brings back its threads and caches, and then repeatedly. The
result of a turn is the median of its repetitions.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from experiments.benchmark.timing import time_each
from seer_jax.seer import phases

_MATMUL_SIZE = 2048


class Side(Protocol):
    """What is timed of an agent or of its twin; each method returns milliseconds of repetitions within `seconds`."""

    def time_act(self, seconds: float) -> list[float]:
        """Encoding an observation and choosing an action, without the ring."""
        ...

    def time_learn(self, phase: str, seconds: float) -> list[float]:
        """An update, with sampling of its batch."""
        ...

    def time_interact(self, phase: str, seconds: float) -> list[float]:
        """Writing a row and choosing the actions of all environments."""
        ...

    def time_steps(self, phase: str, seconds: float) -> list[float]:
        """An agent step in the environments with its updates."""
        ...

    def time_handover(self) -> list[float]:
        """A row of a handover; one handover is enough."""
        ...


def measure(ours: Side, twin: Side, *, turns: int, seconds: float) -> tuple[dict[str, dict[str, list[float]]], float]:
    """Measures all kinds of work in turns.

    Args:
      ours: the agent.
      twin: its PyTorch twin.
      turns: number of medians of each kind of work.
      seconds: for which agent steps are repeated in a turn; shorter work is repeated for a tenth of it.

    Returns:
      Milliseconds by kind of work and by side (`ours`, `twin`), a median for each turn; and the rate of a float32
      matrix product of JAX in GFLOP/s.
    """
    works = {"ours": _works(ours, seconds), "twin": _works(twin, seconds)}
    matrix, product = jnp.ones((_MATMUL_SIZE, _MATMUL_SIZE), jnp.float32), jax.jit(jnp.matmul)
    ours.time_handover()  # compiles
    times = {name: {"ours": [], "twin": []} for name in works["ours"]}
    products = []
    for _ in range(turns):
        for name, by_side in times.items():
            for side, medians in by_side.items():
                medians.append(statistics.median(works[side][name]()))
        products += time_each(seconds / 10, lambda: product(matrix, matrix).block_until_ready())
    return times, 2 * _MATMUL_SIZE**3 / statistics.median(products) / 1e6


def _works(side: Side, seconds: float) -> dict[str, Callable[[], list[float]]]:
    """Returns the kinds of work in the order in which they are timed."""
    short = seconds / 10
    works: dict[str, Callable[[], list[float]]] = {"act": functools.partial(side.time_act, short)}
    for phase, update in ((phases.FULL, "full_update"), (phases.FROZEN, "latent_update")):
        works |= {
            f"interact_{phase}": functools.partial(side.time_interact, phase, short),
            update: functools.partial(side.time_learn, phase, short),
            f"end_to_end_{phase}": functools.partial(side.time_steps, phase, seconds),
        }
    return works | {"handover_row": side.time_handover}
