"""The interface of environments: one `TimeStep` of `E` environments, and what makes and checks it.

All arrays live on the host. Moving them to the device is the caller's business.
"""

import contextlib
from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from dm_env import specs

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)


class TimeStep(NamedTuple, Generic[ArrayT]):
    """The arrival at one time in each of `E` environments: NumPy arrays on the host, JAX arrays in a program.

    Attributes:
      frame: `[E, H, W, C]` uint8, the newest frame only (stacks are built on the device).
      reward: `[E]` float32, the reward to learn from, earned by the action before this frame.
      score: `[E]` float32, the reward of the environment, never clipped.
      terminated: `[E]` bool, nothing follows: the value from here on is 0. True at the end of a game and, under some
        protocols, at the loss of a life in a game that continues.
      truncated: `[E]` bool, a time limit ended the episode here; returns bootstrap from this observation.
      last: `[E]` bool, the final observation of an episode. The action taken on it is never executed.
      first: `[E]` bool, the first observation of an episode; reward, score and terminated are 0.
    """

    frame: ArrayT
    reward: ArrayT
    score: ArrayT
    terminated: ArrayT
    truncated: ArrayT
    last: ArrayT
    first: ArrayT


class VectorEnv(Protocol):
    """`num_envs` environments stepped together. Each starts a new episode by itself one step after its `last`."""

    @property
    def num_envs(self) -> int:
        """E."""
        ...

    @property
    def action_spec(self) -> specs.Array:
        """Action of one environment: a `DiscreteArray`, or a `BoundedArray` between -1 and 1."""
        ...

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """`(H, W, C)`."""
        ...

    def reset(self) -> TimeStep:
        """Starts an episode in every environment, also where one is running."""
        ...

    def step(self, action: np.ndarray) -> TimeStep:
        """Executes `action`, `[E, ...]`. In an environment whose last TimeStep was `last` it starts an episode."""
        ...

    def step_some(self, action: np.ndarray, running: np.ndarray) -> TimeStep:
        """Steps the environments where `running`, `[E]` bool, at least one of them.

        The others do not change: when they are stepped again, they continue as if there had been no pause. What the
        TimeStep holds of them has no meaning.
        """
        ...

    def close(self) -> None:
        """Frees the environments."""
        ...


class InvalidTimeStepError(ValueError):
    """An environment sent a value that cannot be learned from; the message names it."""


class EnvironmentFailedError(Exception):
    """An environment raised an exception, which is the cause of this one."""


@contextlib.contextmanager
def environment_errors() -> Iterator[None]:
    """Raises EnvironmentFailedError from an exception of an environment that is called inside."""
    try:
        yield
    except (InvalidTimeStepError, EnvironmentFailedError):
        raise
    except Exception as error:
        raise EnvironmentFailedError(f"an environment raised {type(error).__name__}: {error}") from error


def check(step: TimeStep) -> TimeStep:
    """Returns the step, or raises InvalidTimeStepError if its frame is not uint8 or a reward is not finite."""
    if step.frame.dtype != np.uint8:
        raise InvalidTimeStepError(f"an environment sent a frame of {step.frame.dtype}; frames must be uint8")
    if not np.isfinite(step.reward).all():
        raise InvalidTimeStepError(f"an environment sent a reward that is not finite: {step.reward.tolist()}")
    return step


def cut(step: TimeStep, lanes: np.ndarray) -> TimeStep:
    """Returns the same arrivals, those where `lanes`, `[E]` bool, as the last of their episodes.

    They end as a time limit would end them.
    """
    truncated = step.truncated | (lanes & ~(step.terminated & step.last))
    return step._replace(truncated=truncated, last=step.last | lanes)
