"""Scores and lengths of the training episodes that are running."""

from collections.abc import Iterator

import numpy as np

from seer_jax.envs.timestep import TimeStep


class EpisodeTracker:
    """Sums rewards and counts steps of the running episode of each environment.

    Args:
      num_envs: number of environments, E.
    """

    def __init__(self, num_envs: int) -> None:
        self._scores = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, int)

    def add(self, timestep: TimeStep, lanes: np.ndarray) -> Iterator[tuple[int, float, int]]:
        """Counts one arrival in each environment where `lanes`, `[E]` bool.

        Yields environment, score and length, in agent steps, of each episode that ended.
        """
        self._scores += np.where(lanes, timestep.score, 0.0)
        self._lengths += lanes & ~timestep.first
        for lane in np.flatnonzero(lanes & timestep.last):
            yield int(lane), float(self._scores[lane]), int(self._lengths[lane])
            self._scores[lane] = self._lengths[lane] = 0

    def reset(self) -> None:
        """Drops the running episodes, after which the environments start new ones."""
        self._scores[:], self._lengths[:] = 0.0, 0
