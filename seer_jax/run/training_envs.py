"""The environments that a run trains in: what has arrived from them, and new ones at checkpoints."""

from collections.abc import Iterator

import numpy as np

from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs import timestep as timestep_lib
from seer_jax.envs.timestep import TimeStep, VectorEnv
from seer_jax.run.episodes import EpisodeTracker


class TrainingEnvs:
    """Environments, started, that can be replaced by new ones.

    Args:
      config: the configuration.
      env: the first environments.

    Attributes:
      timestep: what has arrived and is not in the ring yet.
      untouched: whether that is still the start of new environments.

    Raises:
      EnvironmentFailedError: an environment raised an exception. `step` and `renew` raise it, too.
      InvalidTimeStepError: an environment sent a value that cannot be learned from. `step` and `renew` raise it, too.
    """

    def __init__(self, config: RunConfig, env: VectorEnv) -> None:
        self._config, self._env = config, env
        self._episodes = EpisodeTracker(config.num_envs)
        self._start()

    def _start(self) -> None:
        with timestep_lib.environment_errors():
            self.timestep = timestep_lib.check(self._env.reset())
        self.untouched = True

    def take(self, *, cut: bool) -> TimeStep:
        """Returns what has arrived, for the ring; with `cut` as the last of all episodes."""
        self.untouched = False
        return timestep_lib.cut(self.timestep) if cut else self.timestep

    @property
    def steps_taken(self) -> int:
        """Agent steps that led to what has arrived; a reset is none."""
        return int(np.count_nonzero(~self.timestep.first))

    def step(self, action: np.ndarray) -> Iterator[tuple[float, int]]:
        """Steps all environments; returns score and length, in agent steps, of each episode that ended."""
        with timestep_lib.environment_errors():
            self.timestep = timestep_lib.check(self._env.step(action))
        return self._episodes.add(self.timestep)

    def renew(self, pool: int) -> None:
        """Replaces the environments by new ones; `pool` as in `registry.make_env`."""
        with timestep_lib.environment_errors():
            self._env.close()
            self._env = registry.make_env(self._config, training=True, pool=pool)
        self._episodes.reset()
        self._start()

    def close(self) -> None:
        """Frees the environments."""
        self._env.close()
