"""What a family of tasks must say of itself for a run to use it."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from seer_jax.envs.timestep import VectorEnv
from seer_jax.fields import ConfigError, Fields


@dataclasses.dataclass(frozen=True)
class Suite:
    """A family of tasks.

    Attributes:
      make_env: `(config, training=, pool=) -> VectorEnv`: `num_envs` environments to train in, or one for each
        evaluation episode; `pool` counts how many times the run has made such environments before.
      channels: C of a frame.
      discrete_actions: whether actions are choices; else they are vectors between -1 and 1.
      fields: of its own in `config.env`.
      resolve: fills in what the user left open, before numbers and flags are checked; raises ConfigError.
      check: refuses what cannot run, after they were; raises ConfigError.
    """

    make_env: Callable[..., VectorEnv]
    channels: int
    discrete_actions: bool
    fields: Fields = dataclasses.field(default_factory=dict)
    resolve: Callable[[ConfigDict], None] = lambda config: None
    check: Callable[[ConfigDict], None] = lambda config: None


def fill(config: ConfigDict, items: Mapping[str, Any]) -> None:
    """Gives a protocol's value to every item of `config.env` that the user left open.

    Raises:
      ConfigError: an item is no field of the configuration.
    """
    for item, value in items.items():
        if item not in config.env:
            raise ConfigError(f"env.{item} is missing; start from a file in configs/")
        if config.env[item] is None:
            config.env[item] = value


def unknown_task(task: str, known: Iterable[str], what: str) -> ConfigError:
    """Returns the error that names tasks which look like this one, or all that there are."""
    names = list(known)
    near = difflib.get_close_matches(task.lower(), names, n=3) or difflib.get_close_matches(
        task.lower().replace("_", ""), [name.replace("_", "") for name in names], n=3
    )
    hint = f"did you mean {' or '.join(near)}?" if near else f"they are {', '.join(names)}"
    return ConfigError(f"env.task={task!r} is no {what}; {hint}")
