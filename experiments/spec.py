"""What an experiment is made of: training runs, each a configuration file and overrides, as a command line has them."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from seer_jax import cli, flops
from seer_jax.envs import registry
from seer_jax.run import assembly
from seer_jax.run import resolve as config_lib
from seer_jax.seer import phases

SCALES = ("smoke", "cpu", "paper")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
      name: of its directory; runs of the same name are the same run, whatever experiment asks for them.
      arm: what is compared, as a plot's legend says it.
      config: configuration file with `:PRESET`.
      overrides: values by dotted name.
      source: name of the run whose encoder this one starts from; None starts from a new one.
      budget: multiply-accumulates, the paper's FLOPs, that it spends and then ends, whatever `total_steps` says; None
        leaves it to that.
    """

    name: str
    arm: str
    config: str
    overrides: Mapping[str, Any]
    source: str | None = None
    budget: float | None = None

    def arguments(self, runs_dir: pathlib.Path) -> list[str]:
        """Returns the flags of `seer_jax.train` that say what this run is.

        Args:
          runs_dir: holds the directories of all runs.
        """
        overrides = dict(self.overrides)
        if self.source is not None:
            overrides["seer.init_from"] = str(runs_dir / self.source)
        if self.budget is not None:
            unseeded = tuple(sorted((overrides | {"seed": 0}).items()))
            overrides["total_steps"] = _steps_within(self.config, unseeded, self.budget)
        return [f"--config={self.config}", *(f"--config.{name}={_text(value)}" for name, value in overrides.items())]

    def load(self, runs_dir: pathlib.Path = pathlib.Path()) -> ConfigDict:
        """Returns the resolved configuration.

        Raises:
          UsageError: the file or an override is wrong.
          ConfigError: the values are.
        """
        return config_lib.resolve(cli.read_config(self.arguments(runs_dir)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of scores.

    Attributes:
      title: what it compares.
      arms: that it shows, the baseline first; None shows all.
      x: field of a record that `budget` is a value of.
      budget: at which scores are compared; None compares at the end of each run.
    """

    title: str = "Scores at the end"
    arms: Sequence[str] | None = None
    x: str = "macs_total"
    budget: float | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """Something of an experiment's own between the scores and the costs.

    Attributes:
      title: of the section.
      text: what one sees.
      images: PNG files' contents, and what each shows.
    """

    title: str
    text: str
    images: Sequence[tuple[str, bytes]]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A figure or a table of the paper, or an ablation.

    Attributes:
      title: what it shows.
      runs: by scale, what it trains.
      x: field of a record that its curves are drawn over.
      comparisons: by scale, its tables of scores.
      sections: of its own, by scale, from the directories of the runs that are done.
      note: how it differs from the paper's, if it does.
    """

    title: str
    runs: Callable[[str], list[Run]]
    x: str = "macs_total"
    comparisons: Callable[[str], list[Comparison]] = lambda scale: [Comparison()]
    sections: Callable[[str, Sequence[pathlib.Path]], list[Section]] = lambda scale, directories: []
    note: str = ""


@functools.cache
def _steps_within(config_file: str, overrides: tuple[tuple[str, Any], ...], budget: float) -> int:
    """Returns the agent steps in which a run spends `budget`, at least what its phase before a freeze takes."""
    config = Run("", "", config_file, dict(overrides)).load()
    env = registry.make_env(config, training=True)
    try:
        parts = assembly.assemble(config, env.action_spec)
    finally:
        env.close()
    full = _macs_per_step(parts, phases.FULL)
    if not config.seer.enabled:
        return config.learn_start + math.ceil(budget / full)
    left = budget - (config.seer.freeze_step - config.learn_start) * full
    return config.seer.freeze_step + math.ceil(left / _macs_per_step(parts, phases.FROZEN))


def _macs_per_step(parts: assembly.Assembly, phase: str) -> float:
    """Returns what an agent step costs once learning has begun; compiles nothing."""
    config, jitted = parts.config, parts.jit(phase, jax.default_backend())
    acting = flops.count_macs(
        jitted.interact, parts.state(phase).params, parts.actor, parts.ring(phase), parts.timestep
    )
    return acting / config.num_envs + jitted.learn_macs / (parts.updates_per_learn * config.update_every)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
