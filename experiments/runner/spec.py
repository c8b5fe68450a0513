"""What an experiment consists of: training runs, each a configuration file and overrides, and what its report shows."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report.content import Comparison, Section
from experiments.report.records import RunRecords
from experiments.report.tables import Table
from experiments.runner import budget
from seer_jax import cli
from seer_jax.config import AUTO, RunConfig
from seer_jax.envs import registry
from seer_jax.fields import ConfigError
from seer_jax.run import assembly, needs, resolve

SCALES = ("smoke", "cpu", "paper")
_PROCESS_BYTES = 1.5e9  # memory of a run apart from its rings and states: packages, programs, environments


class Fork(NamedTuple):
    """Where a run begins that goes on from another one.

    Attributes:
      trunk: name of the other run.
      env_steps: agent steps of the trunk, at which it keeps a checkpoint.
    """

    trunk: str
    env_steps: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
      name: of its directory. Runs of the same name are the same run, also in different experiments.
      arm: label of what is compared, for the legend of a plot.
      config: configuration file with `:PRESET`.
      overrides: values by dotted name.
      source: name of the run whose encoder this one starts from; None for a new encoder.
      fork: the trunk that this run forks, and where; None for a run that begins with its first step.
      budget: multiply-accumulates (the paper's FLOPs) after which the run ends, whatever `total_steps` is; None ends it
        at `total_steps`.
    """

    name: str
    arm: str
    config: str
    overrides: Mapping[str, Any]
    source: str | None = None
    fork: Fork | None = None
    budget: float | None = None

    @property
    def needs(self) -> list[str]:
        """Names of the runs that must be finished before this one can start."""
        return [name for name in (self.source, self.fork and self.fork.trunk) if name is not None]

    def arguments(self, runs_dir: pathlib.Path) -> list[str]:
        """Returns the flags of `seer_jax.train` that configure this run.

        Args:
          runs_dir: directory that holds the run directories of the experiment.
        """
        overrides = dict(self.overrides)
        if self.source is not None:
            overrides["seer.init_from"] = str(runs_dir / self.source)
        if self.budget is not None:
            any_seed = tuple(sorted((overrides | {"seed": 0}).items()))
            overrides["total_steps"] = _steps_within(self.config, any_seed, self.budget)
        return [f"--config={self.config}", *(f"--config.{name}={_format(value)}" for name, value in overrides.items())]

    def origin(self, runs_dir: pathlib.Path) -> str | None:
        """Returns the checkpoint that this run forks, `RUN_DIR@STEP`; None for one that begins with its first step.

        Args:
          runs_dir: directory that holds the run directories of the experiment.
        """
        return f"{runs_dir / self.fork.trunk}@{self.fork.env_steps}" if self.fork is not None else None

    def command(self, out: pathlib.Path) -> list[str]:
        """Returns the command line that trains the run, or resumes it.

        Args:
          out: directory that holds `runs/`.
        """
        runs_dir = (out / "runs").absolute()
        origin = self.origin(runs_dir)
        arguments = [f"--fork={origin}"] if origin is not None else []
        arguments += [*self.arguments(runs_dir), f"--run_dir={runs_dir / self.name}", "--resume"]
        return [sys.executable, "-m", "seer_jax.train", *arguments]

    def load(self, runs_dir: pathlib.Path = pathlib.Path()) -> RunConfig:
        """Returns the resolved configuration.

        Args:
          runs_dir: directory that holds the run directories of the experiment.

        Raises:
          UsageError: the configuration file cannot be read, or has no field of an override's name.
          ConfigError: a value is invalid, the run has several seeds, or a budget and an automatic freeze.
        """
        config = resolve.resolve(cli.read_config(self.arguments(runs_dir)))
        if config.num_seeds > 1:
            raise ConfigError(
                f"num_seeds={config.num_seeds}: each seed of {self.name} is trained in a process of its own; leave"
                " num_seeds out, and give their number with --seeds"
            )
        return config

    def estimate_memory(self) -> int:
        """Returns an estimate of the run's peak memory in bytes."""
        config = self.load()
        env = registry.make_env(config, training=True)
        try:
            parts = assembly.assemble(config, env.action_spec)
            return int(_PROCESS_BYTES + max(part.device_bytes for part in needs.sizes(parts)))
        finally:
            env.close()


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A figure or a table of the paper, or an ablation. Each function gets the name of a scale first.

    Attributes:
      title: what it shows.
      runs: returns the runs to train.
      x: key of `report.curves.AXES` that learning curves are drawn over at first.
      comparisons: returns the tables of scores.
      tables: returns tables of this experiment alone, given the records of the finished runs.
      sections: returns sections of this experiment alone, given the directories of the finished runs.
      note: how it differs from the paper's.
    """

    title: str
    runs: Callable[[str], list[Run]]
    x: str = "macs_total"
    comparisons: Callable[[str], list[Comparison]] = lambda scale: [Comparison()]
    tables: Callable[[str, Sequence[RunRecords]], list[Table]] = lambda scale, runs: []
    sections: Callable[[str, Sequence[pathlib.Path]], list[Section]] = lambda scale, directories: []
    note: str = ""


@functools.cache  # all seeds of a run take the same steps
def _steps_within(config_file: str, overrides: tuple[tuple[str, Any], ...], macs: float) -> int:
    run = Run("", "", config_file, dict(overrides))
    given = resolve.flat(cli.read_config(run.arguments(pathlib.Path())).to_dict())
    if given.get("seer.enabled", True) and given.get("seer.freeze_step", AUTO) == AUTO:
        raise ConfigError(
            f"budget={macs:.3g} with seer.freeze_step={AUTO}: the freeze is a share of the steps, and they follow from"
            " the freeze; set seer.freeze_step to a number"
        )
    return budget.steps_within(run.load(), macs)


def _format(value: Any) -> str:
    return (",".join(map(str, value)) or "()") if isinstance(value, (list, tuple)) else str(value)
