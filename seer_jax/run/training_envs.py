"""The environments that the seeds of a run train in: what has arrived from them, and new ones at checkpoints."""

from collections.abc import Iterator, Sequence

import numpy as np

from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs import timestep as timestep_lib
from seer_jax.envs.timestep import TimeStep, VectorEnv
from seer_jax.run.episodes import EpisodeTracker


class TrainingEnvs:
    """Environments of S seeds, started, that can be replaced by new ones.

    Each seed has E = `num_envs` of them: environment e of seed s is number `s * E + e`. A seed may wait for the others:
    its environments are not stepped, and what has arrived from them stays until the seed goes on.

    Args:
      config: the configuration.
      env: the first environments, S * E.
      num_seeds: S.

    Attributes:
      timestep: what has arrived and is not in the ring yet, `[S * E]`.
      untouched: whether that is still the start of new environments, `[S]` bool.

    Raises:
      EnvironmentFailedError: an environment raised an exception. `step` and `renew` raise it, too.
      InvalidTimeStepError: an environment sent a value that cannot be learned from. `step` and `renew` raise it, too.
    """

    def __init__(self, config: RunConfig, env: VectorEnv, num_seeds: int) -> None:
        self._config, self._env, self._num_seeds = config, env, num_seeds
        self._episodes = EpisodeTracker(num_seeds * config.num_envs)
        self._start()

    def _start(self) -> None:
        with timestep_lib.environment_errors():
            self.timestep = timestep_lib.check(self._env.reset())
        self.untouched = np.ones(self._num_seeds, bool)

    def _lanes(self, seeds: np.ndarray) -> np.ndarray:
        """Returns for each environment, `[S * E]`, what `seeds`, `[S]`, says of its seed."""
        return np.repeat(seeds, self._config.num_envs)

    def take(self, running: np.ndarray, *, cut: np.ndarray) -> TimeStep:
        """Returns what has arrived, for the ring, `[S * E]`.

        Args:
          running: `[S]` bool, the seeds that put it into the ring. What is returned for the others is not theirs yet.
          cut: `[S]` bool, the seeds of which it becomes the last of all episodes.
        """
        self.untouched = self.untouched & ~running
        return timestep_lib.cut(self.timestep, self._lanes(cut)) if cut.any() else self.timestep

    @property
    def steps_taken(self) -> np.ndarray:
        """Agent steps that led to what has arrived, `[S]`; a reset is none. Those of a seed that waits stay."""
        return np.add.reduce(~self.timestep.first.reshape(self._num_seeds, -1), axis=1, dtype=int)

    def step(self, action: np.ndarray, running: np.ndarray) -> Iterator[tuple[int, float, int]]:
        """Steps the environments of some seeds.

        Args:
          action: `[S * E, ...]`.
          running: `[S]` bool, the seeds that go on, at least one of them. Nothing arrives from the others.

        Returns:
          Seed (0 to S - 1), score and length, in agent steps, of each episode that ended.
        """
        lanes = self._lanes(running)
        with timestep_lib.environment_errors():
            if running.all():
                arrived = self._env.step(action)
            else:
                arrived = _replace(self.timestep, self._env.step_some(action, lanes), lanes)
            self.timestep = timestep_lib.check(arrived)
        episodes = self._episodes.add(self.timestep, lanes)
        return ((lane // self._config.num_envs, score, length) for lane, score, length in episodes)

    def renew(self, pools: Sequence[int]) -> None:
        """Replaces the environments of all seeds by new ones; `pools` as in `registry.make_env`."""
        with timestep_lib.environment_errors():
            self._env.close()
            self._env = registry.make_env(self._config, training=True, pools=pools)
        self._episodes.reset()
        self._start()

    def close(self) -> None:
        """Frees the environments."""
        self._env.close()


def _replace(timestep: TimeStep, new: TimeStep, lanes: np.ndarray) -> TimeStep:
    """Returns `timestep` with the environments where `lanes`, `[S * E]` bool, replaced by those of `new`."""

    def replace(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.where(lanes.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return TimeStep(*map(replace, timestep, new))
