"""The record of a family of tasks: what the rest of the system must know of it."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from seer_jax.config import EnvConfig
from seer_jax.envs.timestep import VectorEnv
from seer_jax.fields import ConfigError


class MakeEnv(Protocol):
    """Builds environments."""

    def __call__(self, env: Any, *, seeds: list[int], training: bool) -> VectorEnv:
        """Builds an environment for each seed.

        Args:
          env: the resolved section `env` of the suite's own class.
          seeds: seed of each environment, `[E]`.
          training: whether they are trained in; otherwise they play evaluation episodes.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Suite:
    """A family of tasks.

    Attributes:
      make_env: builds the environments of a run.
      channels: C of a frame.
      discrete_actions: whether actions are integers; otherwise they are vectors between -1 and 1.
      config_class: class of the section `env`.
      fill_unset: maps the values of the section `env` to the same with unset ones filled in; raises ConfigError.
      check: raises ConfigError if a resolved section `env` cannot run on this machine.
    """

    make_env: MakeEnv
    channels: int
    discrete_actions: bool
    config_class: type[EnvConfig] = EnvConfig
    fill_unset: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda env: env
    check: Callable[[Any], None] = lambda env: None


def fill_from_protocol(env: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a section `env` with each unset one replaced by the protocol's."""
    return {name: protocol.get(name) if value is None else value for name, value in env.items()}


def unknown_task(task: str, known: Iterable[str], description: str) -> ConfigError:
    """Returns the error for a task that does not exist; it names similar tasks, or all tasks if none is similar."""
    names = list(known)
    near = difflib.get_close_matches(task.lower(), names, n=3) or difflib.get_close_matches(
        task.lower().replace("_", ""), [name.replace("_", "") for name in names], n=3
    )
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names)}"
    return ConfigError(f"env.task={task!r} is no {description}; {hint}")
