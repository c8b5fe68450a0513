"""The pace of learning: which updates are due after so many agent steps, and after which agent step each became due.

The replay ratio of a phase is its number of updates per agent step, a fraction p / q. It counts from an agent step on:
from `learn_start`, or from the step at which the ratio changed. From there n agent steps make floor(n p / q) updates
due, and update i becomes due at step ceil(i q / p).
"""

import fractions
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from seer_jax.agents import base

_MAX_DENOMINATORS = 10_000, 1000  # of ratios below 1 and others: they keep the products below within 32 bits


class Due(struct.PyTreeNode):
    """The updates of a call of `learn`, for one seed.

    Attributes:
      since: `[3]` int32, the agent steps and the updates from which the replay ratio counts, and the agent steps at
        which the last of these updates became due.
      cycles: int32 `[]`, cycles of the agent's updates to make; None stands for those of a whole call.
    """

    since: jax.Array
    cycles: jax.Array | None = None


def replay_ratio(value: float) -> fractions.Fraction:
    """Returns the value of a field `replay_ratio` as the nearest fraction with a small denominator.

    It is at most 1000, or 10,000 if the value is below 1.
    """
    return fractions.Fraction(value).limit_denominator(_MAX_DENOMINATORS[value >= 1])


def since_start(learn_start: int) -> tuple[int, int, int]:
    """Returns from what the replay ratio of a run counts at first; as in `Due`."""
    return learn_start, 0, learn_start


def updates_due(ratio: fractions.Fraction, since: Sequence[int], env_steps: int) -> int:
    """Returns the updates that a run has to have made after so many agent steps; `since` as in `Due`."""
    steps, updates, _ = since
    return updates + (env_steps - steps) * ratio.numerator // ratio.denominator


def since_now(ratio: fractions.Fraction, since: Sequence[int], env_steps: int) -> list[int]:
    """Returns from what another replay ratio counts that begins after so many agent steps; `since` as in `Due`."""
    steps, updates, last = since
    due = updates_due(ratio, since, env_steps)
    return [env_steps, due, last if due == updates else steps + math.ceil((due - updates) / ratio)]


def steps_of(ratio: fractions.Fraction, since: jax.Array, updates: jax.Array) -> base.Steps:
    """Returns the agent steps at which the next update, and the one before it, became due.

    Args:
      ratio: the replay ratio.
      since: as in `Due`.
      updates: int32 `[]`, updates so far.
    """
    begun, counted, last = since
    before, now = (begun + _steps(ratio, updates + i - counted) for i in (0, 1))
    return base.Steps(jnp.where(updates == counted, last, before), now)


def _steps(ratio: fractions.Fraction, updates: jax.Array) -> jax.Array:
    """Returns ceil(updates / ratio), without the product of both, which may not fit into 32 bits."""
    whole, rest = jnp.divmod(updates, ratio.numerator)
    return whole * ratio.denominator - -rest * ratio.denominator // ratio.numerator
