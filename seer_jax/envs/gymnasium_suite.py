"""Any environment of Gymnasium whose observations are images, as a suite. `docs/tutorial.md` uses it."""

from collections.abc import Callable, Mapping

import gymnasium
import numpy as np
from dm_env import specs

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

    def make_env(env: EnvConfig, *, seeds: list[int], training: bool) -> GymnasiumEnv:
        del training  # both kinds are alike
        return GymnasiumEnv(tasks[env.task], seeds)

    def check(env: EnvConfig) -> None:
        if env.task not in tasks:
            raise unknown_task(env.task, tasks, "task of this suite")
        instance = tasks[env.task]()
        try:
            _check_spaces(instance, (env.image_size, env.image_size, channels), discrete_actions)
            _check_observations(instance)
        finally:
            instance.close()

    return Suite(make_env, channels, discrete_actions, check=check)


def _check_spaces(env: gymnasium.Env, shape: tuple[int, int, int], discrete_actions: bool) -> None:
    frames, actions = env.observation_space, env.action_space
    if frames.shape != shape or frames.dtype != np.uint8:
        size = "set env.image_size, or " if (frames.shape or ())[:2] != shape[:2] else ""
        raise ConfigError(
            f"the environment's observations are {frames.dtype} {frames.shape} and must be uint8 {shape};"
            f" {size}wrap it in {_wrapper(frames.shape or (), frames.dtype, shape)}"
        )
    if discrete_actions:
        fits, expected = isinstance(actions, gymnasium.spaces.Discrete) and actions.start == 0, "Discrete from 0 on"
    else:
        fits = isinstance(actions, gymnasium.spaces.Box) and bool(np.all((actions.low == -1) & (actions.high == 1)))
        expected = "a Box from -1 to 1: wrap it in gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)"
    if not fits:
        raise ConfigError(f"the environment's actions are {actions}; they must be {expected}")


def _check_observations(env: gymnasium.Env) -> None:
    """Raises ConfigError if the first two observations are not those that the environment declares."""
    env.action_space.seed(0)
    try:
        _frame_of(env, env.reset(seed=0)[0])
        _frame_of(env, env.step(env.action_space.sample())[0])
    except timestep.InvalidTimeStepError as error:
        raise ConfigError(str(error)) from None


def _frame_of(env: gymnasium.Env, observation: object) -> np.ndarray:
    """Returns an observation as an array; raises InvalidTimeStepError if it is not what the environment declares."""
    frame, declared = np.asarray(observation), env.observation_space
    if frame.shape != declared.shape or frame.dtype != declared.dtype:
        raise timestep.InvalidTimeStepError(
            f"the environment declares observations of {declared.dtype} {declared.shape} and sent a frame of"
            f" {frame.dtype} {frame.shape}; wrap it in {_wrapper(frame.shape, frame.dtype, declared.shape or ())}"
        )
    return frame


def _wrapper(shape: tuple[int, ...], dtype: np.dtype | None, wanted: tuple[int, ...]) -> str:
    """Returns the wrapper of Gymnasium that brings images nearer to uint8 images of the shape `wanted`."""
    if dtype != np.uint8:
        scaled = "255 * image" if dtype is not None and np.issubdtype(dtype, np.floating) else "image"
        transform = f"lambda image: ({scaled}).astype(np.uint8)"
        return f"gymnasium.wrappers.TransformObservation(env, {transform}, Box(0, 255, {shape}, np.uint8))"
    if shape[:2] != wanted[:2]:
        return f"gymnasium.wrappers.ResizeObservation(env, {wanted[:2]})"
    if shape[2:] == (3,):
        return "gymnasium.wrappers.GrayscaleObservation(env, keep_dim=True)"
    return f"gymnasium.wrappers.ReshapeObservation(env, {wanted})"


class GymnasiumEnv:
    """Environments of Gymnasium behind `timestep.VectorEnv`, stepped one after the other in this process.

    Args:
      make: returns an environment whose spaces `make_suite` accepts.
      seeds: seed of each environment, for its first episode; their number is E.
    """

    def __init__(self, make: Make, seeds: list[int]) -> None:
        self._envs = [make() for _ in seeds]
        self._seeds: list[int | None] = [*seeds]
        self._frames: list[np.ndarray] = []
        self._last = np.zeros(len(seeds), bool)
        self.num_envs = len(seeds)
        self.frame_shape: tuple[int, ...] = self._envs[0].observation_space.shape or ()
        actions = self._envs[0].action_space
        if isinstance(actions, gymnasium.spaces.Discrete):
            self.action_spec: specs.Array = specs.DiscreteArray(int(actions.n))
        else:
            self.action_spec = specs.BoundedArray(actions.shape, np.float32, -1.0, 1.0)

    def reset(self) -> timestep.TimeStep:
        self._frames = [self._reset(i) for i in range(self.num_envs)]
        self._last = np.zeros(self.num_envs, bool)
        zeros, false = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        return timestep.TimeStep(np.stack(self._frames), zeros, zeros, false, false, false, ~false)

    def step(self, action: np.ndarray) -> timestep.TimeStep:
        return self.step_some(action, np.ones(self.num_envs, bool))

    def step_some(self, action: np.ndarray, running: np.ndarray) -> timestep.TimeStep:
        first, reward = self._last & running, np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for i in range(self.num_envs):
            if not running[i]:
                continue
            if first[i]:
                self._frames[i] = self._reset(i)
                continue
            env = self._envs[i]
            observation, reward[i], terminated[i], truncated[i], _ = env.step(action[i])
            self._frames[i] = _frame_of(env, observation)
        last = terminated | truncated
        self._last = np.where(running, last, self._last)
        frame = np.stack(self._frames)  # a copy, since an environment may write into the array that it sent
        return timestep.check(
            timestep.TimeStep(frame, reward, reward, terminated, truncated & ~terminated, last, first)
        )

    def _reset(self, i: int) -> np.ndarray:
        """Starts an episode; those after the first continue with the same random generator."""
        seed, self._seeds[i] = self._seeds[i], None
        return _frame_of(self._envs[i], self._envs[i].reset(seed=seed)[0])

    def close(self) -> None:
        for env in self._envs:
            env.close()
