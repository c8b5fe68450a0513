"""A run on the terminal, shown from the records that it writes."""

import datetime
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import rich.console
import rich.table

from seer_jax import status
from seer_jax.config import RunConfig
from seer_jax.envs import atari_scores
from seer_jax.run.records import Record


class End(NamedTuple):
    """The end of a seed.

    Attributes:
      record: of kind `end`.
      evals: the records of the first and the last evaluation, or of the only one.
      phases: names of its phases.
    """

    record: Record
    evals: Sequence[Record]
    phases: Sequence[str]


class Display:
    """The state of a run: a live table on a terminal, a line for each record that changes it elsewhere.

    Args:
      config: the configuration.
      run_dir: directory of the run.
    """

    def __init__(self, config: RunConfig, run_dir: pathlib.Path) -> None:
        self._config = config
        self._title = f"{config.env.task} -> {run_dir}"
        self._console = rich.console.Console()
        self._fields: dict[int, dict[str, str]] = {seed: {} for seed in _seeds(config)}
        status.enable()

    def show(self, seed: int, record: Record) -> None:
        """Shows a record of kind `train`, `freeze` or `eval` of a seed; the other kinds change nothing."""
        kind, fields = record["kind"], self._fields[seed]
        if kind == "train":
            fields |= self._progress(record)
        elif kind == "freeze":
            steps = f"{record['env_steps']:,}"
            progress = {"phase": record["phase"], "steps": f"{steps}/{self._config.total_steps:,}"}
            fields |= progress | {"froze": f"{_moved(record)} after {steps} steps"}
        elif kind == "eval":
            fields |= {"evaluation": f"{_score(record)} after {record['env_steps']:,} steps"}
        else:
            return
        if not status.on_terminal():
            named = ({"seed": seed} if len(self._fields) > 1 else {}) | fields
            print("  ".join(f"{name} {value}" for name, value in named.items()), flush=True)
            status.printed()
            return
        status.show(self._table())

    def _table(self) -> rich.table.Table:
        """Returns what is known so far, a column for each seed."""
        several = len(self._fields) > 1
        table = rich.table.Table(title=self._title, show_header=several, min_width=60)
        table.add_column("")
        for seed in self._fields:
            table.add_column(f"seed {seed}")
        for name in dict.fromkeys(name for fields in self._fields.values() for name in fields):
            table.add_row(name.replace("_", " "), *(fields.get(name, "-") for fields in self._fields.values()))
        return table

    def _progress(self, record: Record) -> dict[str, str]:
        rate, recent, loss = record["steps_per_second"], record["return_mean"], record.get("loss")
        rows = f"{record['replay_size']:,}/{record['replay_capacity']:,} rows"
        return {
            "phase": record["phase"],
            "steps": f"{record['env_steps']:,}/{self._config.total_steps:,}",
            "steps_per_second": f"{rate:,.0f}" if rate else "-",
            "time_left": self._time_left(record["env_steps"], rate),
            "recent_return": "-" if recent is None else f"{recent:,.1f}",
            "loss": "-" if loss is None else f"{loss:.3f}",
            "replay": f"{rows}, {record['replay_bytes'] / 1e6:,.0f} MB",
        }

    def _time_left(self, env_steps: int, rate: float | None) -> str:
        if rate is None:
            return "-"
        return str(datetime.timedelta(seconds=round(max(self._config.total_steps - env_steps, 0) / rate)))

    def end(self, ends: Mapping[int, End]) -> None:
        """Prints the costs and the scores of a run of one seed, or the scores of several.

        Args:
          ends: by seed, of those that have not stopped.
        """
        self.close()
        reference = atari_scores.REFERENCE_SCORES.get(self._config.env.task)
        random = f"; random play scores {reference.random:,.1f}" if reference else ""
        episodes = f"of {self._config.eval_episodes} episodes"
        if len(self._fields) == 1:
            ((record, evals, phases),) = ends.values()
            title = f"{self._config.env.task}, {record['env_steps']:,} agent steps"
            self._console.print(_phase_table(title, record, phases))
            scores = ", ".join(f"{_score(each)} after {each['env_steps']:,} steps" for each in evals)
            self._console.print(f"evaluation {episodes}: {scores}{random}")
            return
        self._console.print(_seed_table(f"{self._config.env.task}, evaluations {episodes}{random}", ends))
        for seed in self._fields:
            if seed not in ends:
                self._console.print(f"seed {seed} stopped: a loss or a parameter was not finite")

    def close(self) -> None:
        """Ends the live table."""
        status.show(None)


def _seeds(config: RunConfig) -> range:
    return range(config.seed, config.seed + config.num_seeds)


def _score(record: Record) -> str:
    return f"{record['eval_return_mean']:,.1f} ± {record['eval_return_std']:,.1f}"


def _seed_table(title: str, ends: Mapping[int, End]) -> rich.table.Table:
    """Returns the first and the last score of each seed, and the mean over seeds."""
    table = rich.table.Table(title=title)
    for column in ("seed", "agent steps", "first score", "last score", "agent steps/s"):
        table.add_column(column, justify="right")
    for i, (seed, (record, evals, phases)) in enumerate(ends.items(), start=1):
        speed = f"{record[f'{phases[-1]}_steps_per_second']:,.0f}"
        scores = _score(evals[0]), _score(evals[-1])
        table.add_row(str(seed), f"{record['env_steps']:,}", *scores, speed, end_section=i == len(ends))
    if len(ends) > 1:
        means = np.array([[each.evals[i]["eval_return_mean"] for each in ends.values()] for i in (0, -1)])
        spread = [f"{scores.mean():,.1f} ± {scores.std(ddof=1):,.1f}" for scores in means]
        table.add_row("mean", "", *spread, "")
    return table


def _moved(record: Record) -> str:
    before, after = (record[name] / 1e6 for name in ("replay_bytes_before", "replay_bytes"))
    return f"{record['rows_moved']:,} rows, {before:,.0f} MB of frames -> {after:,.0f} MB of latents"


def _phase_table(title: str, record: Record, phases: Sequence[str]) -> rich.table.Table:
    """Returns the costs of the phases of a run, side by side.

    Args:
      title: title of the table.
      record: holds `PHASE_steps_per_second`, `PHASE_flops_per_step`, `PHASE_replay_capacity` and
        `PHASE_replay_bytes` for each phase.
      phases: names of one phase, or of two to compare.
    """
    table = rich.table.Table(title=title)
    table.add_column("")
    for column in (*(f"{phase} phase" for phase in phases), "ratio")[: 2 * len(phases) - 1]:
        table.add_column(column, justify="right")
    for label, name, unit in (
        ("agent steps/s", "steps_per_second", 1),
        ("MFLOP per agent step", "flops_per_step", 1e6),
        ("replay rows", "replay_capacity", 1),
        ("replay MB", "replay_bytes", 1e6),
    ):
        values = [record[f"{phase}_{name}"] / unit for phase in phases]
        ratio = [f"{values[1] / values[0]:.2f}x"] if len(values) == 2 else []
        table.add_row(label, *(f"{value:,.0f}" for value in values), *ratio)
    return table
