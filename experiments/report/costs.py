"""What the runs of each arm cost: time, computation and replay memory, from the records of runs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.report.records import RunRecords
from seer_jax.run.records import Record

ByPhase = dict[str, float | None]  # keys `full` and `frozen`; None for a phase that the runs do not have


@dataclasses.dataclass(frozen=True)
class Cost:
    """Mean cost of the finished runs of one arm on one task.

    Attributes:
      task: of the environment.
      arm: label of what was trained.
      steps_per_second: agent steps, by phase.
      macs_per_step: multiply-accumulates per agent step, by phase.
      replay_rows: allocated rows, by phase.
      replay_bytes: allocated bytes, by phase.
      env_steps: agent steps of the whole run.
      flops: of the whole run, as XLA counts them.
      macs: multiply-accumulates of the whole run.
      seconds: wall-clock time of the whole run.
    """

    task: str
    arm: str
    steps_per_second: ByPhase
    macs_per_step: ByPhase
    replay_rows: ByPhase
    replay_bytes: ByPhase
    env_steps: float
    flops: float
    macs: float
    seconds: float


def mean_costs(runs: Sequence[RunRecords]) -> list[Cost]:
    """Returns the mean cost over seeds of the finished runs of each arm on each task, as they first appear."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for run in runs:
        if run.end is not None:
            groups.setdefault((run.task, run.arm), []).append(run.end)
    return [_mean_cost(task, arm, ends) for (task, arm), ends in groups.items()]


def _mean_cost(task: str, arm: str, ends: Sequence[Record]) -> Cost:
    def mean(field: str) -> float:
        return float(np.mean([end[field] for end in ends]))

    def by_phase(field: str) -> ByPhase:
        return {phase: _mean_of_known(ends, f"{phase}_{field}") for phase in ("full", "frozen")}

    return Cost(
        task=task,
        arm=arm,
        steps_per_second=by_phase("steps_per_second"),
        macs_per_step=by_phase("macs_per_step"),
        replay_rows=by_phase("replay_capacity"),
        replay_bytes=by_phase("replay_bytes"),
        env_steps=mean("env_steps"),
        flops=mean("flops_total"),
        macs=mean("macs_total"),
        seconds=mean("seconds"),
    )


def _mean_of_known(ends: Sequence[Record], field: str) -> float | None:
    values = [end[field] for end in ends if end.get(field) is not None]
    return float(np.mean(values)) if values else None
