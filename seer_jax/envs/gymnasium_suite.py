"""Any environment of Gymnasium whose observations are images, as a suite. `docs/tutorial.md` uses it."""

from collections.abc import Callable, Mapping

import gymnasium
import numpy as np
from dm_env import specs
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from seer_jax.config import EnvConfig
from seer_jax.envs import timestep
from seer_jax.envs.suite import Suite, unknown_task
from seer_jax.fields import ConfigError

Make = Callable[[], gymnasium.Env]


def make_suite(tasks: Mapping[str, Make], *, channels: int, discrete_actions: bool) -> Suite:
    """Returns a suite, for `SUITES` of `seer_jax.envs.registry`.

    Rewards are not changed. A step of the environment is an agent step. An environment that repeats actions does so
    itself; `env.action_repeat` then holds the number of frames, so that frames are counted correctly.

    Args:
      tasks: for each name a function that returns an environment whose observations are
        `[image_size, image_size, channels]` uint8.
      channels: 1 or 3.
      discrete_actions: whether action spaces are `Discrete`; otherwise they are a `Box` between -1 and 1.
    """

    def make_env(env: EnvConfig, *, num_envs: int, seed: int, training: bool, pool: int) -> GymnasiumEnv:
        return GymnasiumEnv(tasks[env.task], timestep.environment_seeds(seed, num_envs, training=training, pool=pool))

    def check(env: EnvConfig) -> None:
        if env.task not in tasks:
            raise unknown_task(env.task, tasks, "task of this suite")
        instance = tasks[env.task]()
        try:
            _check_spaces(instance, (env.image_size, env.image_size, channels), discrete_actions)
        finally:
            instance.close()

    return Suite(make_env, channels, discrete_actions, check=check)


def _check_spaces(env: gymnasium.Env, shape: tuple[int, int, int], discrete_actions: bool) -> None:
    frames, actions = env.observation_space, env.action_space
    if frames.shape != shape or frames.dtype != np.uint8:
        raise ConfigError(
            f"the environment's observations are {frames.dtype} {frames.shape} and must be uint8 {shape}; set"
            " env.image_size, or wrap it in gymnasium.wrappers.ResizeObservation or GrayscaleObservation(keep_dim=True)"
        )
    if discrete_actions:
        fits, expected = isinstance(actions, gymnasium.spaces.Discrete) and actions.start == 0, "Discrete from 0 on"
    else:
        fits = isinstance(actions, gymnasium.spaces.Box) and bool(np.all((actions.low == -1) & (actions.high == 1)))
        expected = "a Box from -1 to 1: wrap it in gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)"
    if not fits:
        raise ConfigError(f"the environment's actions are {actions}; they must be {expected}")


class GymnasiumEnv:
    """Environments of Gymnasium behind `timestep.VectorEnv`, stepped one after the other in this process.

    Args:
      make: returns an environment whose spaces `make_suite` accepts.
      seeds: seed of each environment, for its first episode.
    """

    def __init__(self, make: Make, seeds: list[int]) -> None:
        self._envs = SyncVectorEnv([make] * len(seeds), autoreset_mode=AutoresetMode.NEXT_STEP)
        self._seeds: list[int] | None = seeds
        self._last = np.zeros(len(seeds), bool)
        self.num_envs = len(seeds)
        self.frame_shape: tuple[int, ...] = self._envs.single_observation_space.shape or ()
        actions = self._envs.single_action_space
        if isinstance(actions, gymnasium.spaces.Discrete):
            self.action_spec: specs.Array = specs.DiscreteArray(int(actions.n))
        else:
            self.action_spec = specs.BoundedArray(actions.shape, np.float32, -1.0, 1.0)

    def reset(self) -> timestep.TimeStep:
        frame, _ = self._envs.reset(seed=self._seeds)  # pyright: ignore[reportArgumentType]
        self._seeds = None  # later episodes continue with the same generators
        self._last = np.zeros(self.num_envs, bool)
        zeros, false = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        return timestep.TimeStep(frame, zeros, zeros, false, false, false, ~false)

    def step(self, action: np.ndarray) -> timestep.TimeStep:
        frame, reward, terminated, truncated, _ = self._envs.step(np.asarray(action))
        first, self._last = self._last, terminated | truncated
        reward = reward.astype(np.float32)
        return timestep.check(
            timestep.TimeStep(frame, reward, reward, terminated, truncated & ~terminated, self._last, first)
        )

    def close(self) -> None:
        self._envs.close()
