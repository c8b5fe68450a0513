"""A trained agent, loaded from the directory of a run, that acts on frames of any environment."""

import pathlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from dm_env import specs
from ml_collections import ConfigDict

from seer_jax import files, replay
from seer_jax.agents import base
from seer_jax.agents.registry import AGENTS
from seer_jax.config import RunConfig
from seer_jax.envs import registry
from seer_jax.envs.timestep import TimeStep
from seer_jax.fields import ConfigError
from seer_jax.run import best as best_lib
from seer_jax.run import checkpoint, evaluation, group, resolve, run_dir


class SavedRun(NamedTuple):
    """What a checkpoint of a run holds of its agent.

    Attributes:
      config: the configuration.
      env_steps: agent steps until the checkpoint.
      params: parameters, as nested dictionaries of NumPy arrays.
    """

    config: RunConfig
    env_steps: int
    params: dict[str, Any]

    def make_agent(self, action_spec: specs.Array) -> tuple[base.Agent, base.Params]:
        """Returns the agent for actions like `action_spec`, and its parameters.

        Raises:
          DamagedFileError: the parameters are not those of this configuration.
        """
        agent = AGENTS[self.config.agent.name].make_agent(self.config, action_spec)
        shapes = jax.eval_shape(agent.init, jax.random.PRNGKey(0)).params
        return agent, files.fit_tree(shapes, self.params)


def read_saved(
    directory: pathlib.Path,
    trusted: ConfigDict | None = None,
    warn: Callable[[str], None] = warnings.warn,
    *,
    best: bool = False,
) -> SavedRun:
    """Reads the newest checkpoint of a run, or what it kept of its best evaluation.

    Args:
      directory: directory of the run.
      trusted: configuration whose file has registered agents, suites or encoders of the user's; None without any.
      warn: receives one line about each newer checkpoint that is damaged.
      best: read the training state of the best evaluation, which runs with `keep_best=True` keep.

    Raises:
      ConfigError: the configuration is that of several seeds, cannot be used here, or imports code that `trusted` does
        not name.
      DamagedFileError: there are no parameters that can be read.
    """
    config = run_dir.read_config(directory)
    if seeds := group.seeds_in(directory):
        raise ConfigError(f"{directory} {group.name_seeds(seeds)}")
    if code := run_dir.foreign_code(config, trusted):
        raise ConfigError(f"the run imports code of yours, {code}; if you trust it, add its configuration file")
    source = directory / (best_lib.DIRECTORY if best else checkpoint.DIRECTORY)
    trees, progress = checkpoint.load_newest_state(source, warn)
    try:
        env_steps, params = int(progress["env_steps"]), trees["train"]["params"]
    except (TypeError, KeyError, ValueError) as error:
        raise files.DamagedFileError(f"the newest checkpoint in {source} lacks {error}") from None
    return SavedRun(resolve.resolve(config), env_steps, params)


class Policy:
    """The evaluation policy of a trained agent. It stacks frames itself.

    Args:
      agent: the agent.
      params: its parameters.
      frame_stack: frames in an observation.
      first_stack: `env.first_stack` of the agent's configuration.
      seed: seed of the random actions that evaluation keeps.
    """

    def __init__(
        self, agent: base.Agent, params: base.Params, *, frame_stack: int, first_stack: str, seed: int = 0
    ) -> None:
        self._params, self._frame_stack, self._key = params, frame_stack, jax.random.PRNGKey(seed)
        self._act = evaluation.make_act(agent, first_stack=first_stack)
        self._stack: jax.Array | None = None
        self._steps = 0

    def __call__(self, frame: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Returns the next action of each of E environments, `[E, ...]`.

        Args:
          frame: `[E, H, W, C]` uint8, the newest frames.
          first: `[E]` bool, whether each is the first frame of an episode.
        """
        if self._stack is None:
            self._stack = replay.empty_stack(frame.shape, self._frame_stack)
        number, flag = np.zeros(len(frame), np.float32), np.zeros(len(frame), bool)
        timestep = TimeStep(frame, number, number, flag, flag, flag, np.asarray(first, bool))
        action, self._stack = self._act(self._params, self._stack, timestep, self._key, np.int32(self._steps))
        self._steps += 1
        return np.asarray(action)


def load_policy(directory: str | pathlib.Path, trusted: ConfigDict | None = None, *, best: bool = False) -> Policy:
    """Returns the evaluation policy of a run's newest checkpoint.

    Args:
      directory: directory of the run.
      trusted: configuration whose file has registered agents, suites or encoders of the user's; None without any.
      best: take the parameters of the best evaluation instead, which runs with `keep_best=True` keep.

    Raises:
      ConfigError: the configuration cannot be used here, or imports code that `trusted` does not name.
      DamagedFileError: there are no parameters that can be read.
    """
    saved = read_saved(pathlib.Path(directory), trusted, best=best)
    env = registry.make_env(saved.config, training=False)  # its actions are the agent's
    try:
        agent, params = saved.make_agent(env.action_spec)
    finally:
        env.close()
    env_config = saved.config.env
    return Policy(
        agent,
        params,
        frame_stack=env_config.frame_stack,
        first_stack=env_config.first_stack,
        seed=saved.config.seed,
    )
