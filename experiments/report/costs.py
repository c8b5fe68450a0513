"""What the runs of each arm cost: time, computation and replay memory, from the records of runs."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.report import records
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


@dataclasses.dataclass(frozen=True)
class TotalCost:
    """Cost of all finished runs together.

    Attributes:
      macs: multiply-accumulates, those that several runs share with their trunk counted once.
      seconds: wall-clock time, counted in the same way.
      macs_alone: multiply-accumulates if each run had been trained alone.
      seconds_alone: wall-clock time if each run had been trained alone.
    """

    macs: float
    seconds: float
    macs_alone: float
    seconds_alone: float


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


def total_cost(runs: Sequence[RunRecords]) -> TotalCost | None:
    """Returns the cost of all finished runs; None if no part of it is shared."""
    finished = [run for run in runs if run.end is not None]
    alone = {field: sum(run.end[field] for run in finished if run.end) for field in ("macs_total", "seconds")}
    shared = {field: _shared(finished, field) for field in alone}
    if not shared["macs_total"]:
        return None
    return TotalCost(
        macs=alone["macs_total"] - shared["macs_total"],
        seconds=alone["seconds"] - shared["seconds"],
        macs_alone=alone["macs_total"],
        seconds_alone=alone["seconds"],
    )


def _shared(runs: Sequence[RunRecords], field: str) -> float:
    """Returns how much of a field of the runs was spent once and is counted in a trunk or another fork, too.

    A trunk that is not among the runs is counted as part of that fork that shares most with it.
    """
    shared, without_trunk = 0.0, dict[str, list[float]]()
    for run in runs:
        if run.fork is not None:
            trunk = records.trunk_of(run, runs)
            value = _value_at(run.fork.env_steps, trunk or run, field)
            if trunk:
                shared += value
            else:
                without_trunk.setdefault(run.fork.trunk, []).append(value)
    return shared + sum(sum(values) - max(values) for values in without_trunk.values())


def _value_at(env_steps: int, run: RunRecords, field: str) -> float:
    """Returns a total of a run after a number of agent steps, between two lines by interpolation."""
    # Freezes are left out: one at the step of a fork follows it.
    lines = [line for line in run.lines if line["kind"] in ("train", "eval", "end")]
    return float(
        np.interp(env_steps, [0, *(line["env_steps"] for line in lines)], [0.0, *(line[field] for line in lines)])
    )


def _mean_of_known(ends: Sequence[Record], field: str) -> float | None:
    values = [end[field] for end in ends if end.get(field) is not None]
    return float(np.mean(values)) if values else None
