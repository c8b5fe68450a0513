"""What an environment tells the agent: one `TimeStep` of `E` environments, and the interface they share.

All arrays live on the host. Moving them to the device is the caller's business.
"""

from typing import NamedTuple, Protocol

import numpy as np


class TimeStep(NamedTuple):
    """The arrival at one time in each of `E` environments.

    Attributes:
      frame: `[E, H, W]` uint8, the newest frame alone (stacks are built on the device).
      reward: `[E]` float32, the reward to learn from, earned by the action before this frame.
      score: `[E]` float32, the same reward as the game counts it, never clipped.
      terminated: `[E]` bool, nothing follows: a bootstrap from here is worth 0. True at the end of
        a game and, where the protocol says so, at the loss of a life in a game that goes on.
      truncated: `[E]` bool, a time limit ended the episode here; bootstrapping goes on.
      last: `[E]` bool, the final observation of an episode. The action taken on it is never executed.
      first: `[E]` bool, the first observation of an episode; reward, score and terminated are 0.
    """

    frame: np.ndarray
    reward: np.ndarray
    score: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    last: np.ndarray
    first: np.ndarray


class VectorEnv(Protocol):
    """`num_envs` environments stepped together, each restarting by itself one step after its `last`."""

    num_envs: int
    num_actions: int
    frame_shape: tuple[int, int]

    def reset(self) -> TimeStep:
        """Starts an episode in every environment, whatever it was at."""

    def step(self, action: np.ndarray) -> TimeStep:
        """Executes `action`, `[E]` int32. In an environment whose last TimeStep was `last` it starts an episode."""

    def close(self) -> None:
        """Frees the environments."""
