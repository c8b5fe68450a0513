"""The environments that the seeds of a run train in: what has arrived from them, and new ones at checkpoints."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs import timestep as timestep_lib
from seer_jax.envs.timestep import TimeStep, VectorEnv
from seer_jax.run.episodes import EpisodeTracker
from seer_jax.seer.hosts import Hosts
from seer_jax.seer.placement import Placement

Episode = tuple[int, float, int]  # number of the environment or seed, score, and length in agent steps


def make(config: RunConfig, place: Placement, pools: Sequence[int]) -> VectorEnv:
    """Builds the environments of this host, which are all of them if it is the only one; see `registry.make_env`."""
    if not place.on_several_hosts:
        return registry.make_env(config, training=True, pools=pools)
    return registry.make_env(config, training=True, pools=pools, lanes=place.lanes_here(config.num_envs).tolist())


class TrainingEnvs:
    """Environments of S seeds, started, that can be replaced by new ones.

    Each seed has E = `num_envs` of them: environment e of seed s is number `s * E + e`. A seed may wait for the others:
    its environments are not stepped, and what has arrived from them stays until the seed goes on.

    This object has the L environments of its host; with one host these are all. What it says of seeds is the same on
    all hosts, which make the same calls.

    Args:
      config: the configuration.
      env: the first environments, L.
      place: S seeds, and the environments of this host.
      hosts: the hosts.

    Attributes:
      timestep: what has arrived and is not in the ring yet, `[L]`.
      steps_taken: agent steps that led to what has arrived, `[S]`; a reset is none. Those of a seed that waits stay.
      untouched: whether that is still the start of new environments, `[S]` bool.

    Raises:
      EnvironmentFailedError: an environment raised an exception. `step` and `renew` raise it, too.
      InvalidTimeStepError: an environment sent a value that cannot be learned from. `step` and `renew` raise it, too.
    """

    timestep: TimeStep

    def __init__(self, config: RunConfig, env: VectorEnv, place: Placement, hosts: Hosts) -> None:
        self._config, self._env, self._place, self._hosts = config, env, place, hosts
        self._here = place.lanes_here(config.num_envs)  # numbers of the environments of this host
        self._episodes = EpisodeTracker(len(self._here))
        self._start(self._env.reset)

    def _start(self, reset: Callable[[], TimeStep]) -> None:
        self._arrive(reset, ())
        self.untouched = np.ones(self._place.num_seeds, bool)

    def _arrive(self, arrive: Callable[[], TimeStep], ended: Iterable[Episode]) -> list[Episode]:
        """Takes what arrives on all hosts; returns the episodes that `ended` there, by environment."""

        def take() -> list[Any]:
            with timestep_lib.environment_errors():
                self.timestep = timestep_lib.check(arrive())
            return [self._place.seeds_here.start, self._steps_here().tolist(), list(ended)]

        found = self._hosts.attempt(take)
        self.steps_taken = np.zeros(self._place.num_seeds, int)
        for first, steps, _ in found:
            self.steps_taken[first : first + len(steps)] += steps
        return sorted(tuple(episode) for _, _, episodes in found for episode in episodes)

    def _steps_here(self) -> np.ndarray:
        return np.add.reduce(~self.timestep.first.reshape(len(self._place.seeds_here), -1), axis=1, dtype=int)

    def _lanes(self, seeds: np.ndarray) -> np.ndarray:
        """Returns for each environment of this host, `[L]`, what `seeds`, `[S]`, says of its seed."""
        return np.repeat(seeds, self._config.num_envs)[self._here]

    def take(self, running: np.ndarray, *, cut: np.ndarray) -> TimeStep:
        """Returns what has arrived, for the ring, `[L]`.

        Args:
          running: `[S]` bool, the seeds that put it into the ring. What is returned for the others is not theirs yet.
          cut: `[S]` bool, the seeds of which it becomes the last of all episodes.
        """
        self.untouched = self.untouched & ~running
        return timestep_lib.cut(self.timestep, self._lanes(cut)) if cut.any() else self.timestep

    def step(self, action: np.ndarray, running: np.ndarray) -> list[Episode]:
        """Steps the environments of some seeds.

        Args:
          action: `[L, ...]`.
          running: `[S]` bool, the seeds that go on, at least one of them. Nothing arrives from the others.

        Returns:
          Seed (0 to S - 1), score and length, in agent steps, of each episode that ended on any host.
        """
        lanes = self._lanes(running)

        def arrive() -> TimeStep:
            if lanes.all():
                return self._env.step(action)
            return _replace(self.timestep, self._env.step_some(action, lanes), lanes) if lanes.any() else self.timestep

        def ended() -> Iterator[Episode]:
            for lane, score, length in self._episodes.add(self.timestep, lanes):
                yield int(self._here[lane]), score, length

        episodes = self._arrive(arrive, ended())
        return [(lane // self._config.num_envs, score, length) for lane, score, length in episodes]

    def renew(self, pools: Sequence[int]) -> None:
        """Replaces the environments of all seeds by new ones; `pools` as in `registry.make_env`."""

        def reset() -> TimeStep:
            self._env.close()
            self._env = make(self._config, self._place, pools)
            return self._env.reset()

        self._episodes.reset()
        self._start(reset)

    def close(self) -> None:
        """Frees the environments."""
        self._env.close()


def _replace(timestep: TimeStep, new: TimeStep, lanes: np.ndarray) -> TimeStep:
    """Returns `timestep` with the environments where `lanes`, `[S * E]` bool, replaced by those of `new`."""

    def replace(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.where(lanes.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return TimeStep(*map(replace, timestep, new))
