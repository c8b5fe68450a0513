"""Suites of random frames in place of games and tasks, so that neither EnvPool nor a renderer is needed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from dm_env import specs

from seer_jax.config import EnvConfig
from seer_jax.envs import atari, dmc, registry
from seer_jax.envs.suite import Suite, fill_from_protocol
from seer_jax.envs.timestep import TimeStep

# Actions by suite: all of the console, and those of walker.
ACTIONS: dict[str, specs.Array] = {
    "atari": specs.DiscreteArray(18),
    "dmc": specs.BoundedArray((6,), np.float32, -1.0, 1.0),
}
_TIMES = 64  # steps whose frames are drawn; they come again and again, so that a step costs no drawing


class SyntheticEnv:
    """Random frames and rewards behind `timestep.VectorEnv`, in one episode without an end.

    Args:
      num_envs: E.
      frame_shape: `(H, W, C)`.
      action_spec: action of one environment; what is sent has no effect.
    """

    def __init__(self, num_envs: int, frame_shape: tuple[int, int, int], action_spec: specs.Array) -> None:
        self.num_envs, self.frame_shape, self.action_spec = num_envs, frame_shape, action_spec
        rng = np.random.default_rng(0)
        self._frames = rng.integers(0, 256, (_TIMES, num_envs, *frame_shape), np.uint8)
        self._rewards = rng.normal(size=(_TIMES, num_envs)).astype(np.float32)
        self._steps = 0

    def reset(self) -> TimeStep:
        self._steps = 0
        return self._timestep()

    def step(self, action: np.ndarray) -> TimeStep:
        del action
        self._steps += 1
        return self._timestep()

    def step_some(self, action: np.ndarray, running: np.ndarray) -> TimeStep:
        del running  # there is nothing that a pause could disturb
        return self.step(action)

    def close(self) -> None:
        pass

    def _timestep(self) -> TimeStep:
        time, first = self._steps % _TIMES, np.full(self.num_envs, self._steps == 0)
        false = np.zeros(self.num_envs, bool)
        reward = np.where(first, np.float32(0.0), self._rewards[time])
        return TimeStep(self._frames[time], reward, reward, false, false, false, first)


def use_synthetic_suites() -> None:
    """Replaces both suites for the rest of the process. Names of tasks and renderers are no longer checked."""
    registry.SUITES.update(
        {name: _synthetic(registry.SUITES[name], _FILL_UNSET[name], actions) for name, actions in ACTIONS.items()}
    )


def _synthetic(suite: Suite, fill_unset: Callable[[Mapping[str, Any]], dict[str, Any]], actions: specs.Array) -> Suite:
    def make_env(env: EnvConfig, *, seeds: list[int], training: bool) -> SyntheticEnv:
        del training  # both kinds are alike
        return SyntheticEnv(len(seeds), (env.image_size, env.image_size, suite.channels), actions)

    return dataclasses.replace(suite, make_env=make_env, fill_unset=fill_unset, check=lambda env: None)


def _fill_atari(env: Mapping[str, Any]) -> dict[str, Any]:
    return fill_from_protocol(env, dataclasses.asdict(atari.PROTOCOLS[env["protocol"]]))


def _fill_dmc(env: Mapping[str, Any]) -> dict[str, Any]:
    return fill_from_protocol(env, dmc.protocol_items(dmc.PROTOCOLS[env["protocol"]], env["task"]))


_FILL_UNSET = {"atari": _fill_atari, "dmc": _fill_dmc}
