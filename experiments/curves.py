"""Learning curves of arms over seeds, and what each arm costs, from the records of runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.records import Records, RecordsError

# Fields of an evaluation's record that a curve may be drawn over, and what an axis calls them.
AXES = {
    "env_steps": "agent steps",
    "frames": "frames",
    "macs_total": "FLOPs (multiply-accumulates)",
    "flops_total": "FLOPs (XLA's count)",
    "seconds": "wall-clock seconds",
    "replay_used": "replay bytes in use",
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Evaluations of one arm on one task, over seeds.

    Attributes:
      task: of the environment.
      arm: that was trained.
      seeds: of the runs behind it.
      x: `[S, P]` of each field of `AXES`.
      scores: `[S, P]` mean returns of the evaluations.
      freeze: mean over seeds of each field of `AXES` at the freeze; None if the arm has none.
    """

    task: str
    arm: str
    seeds: list[int]
    x: dict[str, np.ndarray]
    scores: np.ndarray
    freeze: dict[str, float] | None

    def mean_x(self, field: str) -> np.ndarray:
        """Returns means over seeds of a field of `AXES`, `[P]`."""
        return self.x[field].mean(axis=0)

    @property
    def mean(self) -> np.ndarray:
        return self.scores.mean(axis=0)

    @property
    def std(self) -> np.ndarray:
        """Over seeds, `[P]`; 0 for one."""
        return self.scores.std(axis=0, ddof=1) if len(self.scores) > 1 else np.zeros(self.scores.shape[1])

    def at(self, field: str, value: float | None) -> np.ndarray:
        """Returns scores of each seed's evaluation nearest to `value` of a field of `AXES`, `[S]`, or of the last.

        Seeds that ended more than the time between two evaluations before it are left out.
        """
        if value is None:
            return self.scores[:, -1]
        x = self.x[field]
        reached = x[:, -1] + np.diff(x, axis=1, prepend=0.0)[:, -1] >= value
        nearest = np.abs(x - value).argmin(axis=1)
        return np.take_along_axis(self.scores, nearest[:, None], axis=1)[reached, 0]


def curves(runs: Sequence[Records]) -> list[Curve]:
    """Returns a curve for each arm on each task, in the order in which they first appear.

    Runs of an arm that were cut off at different points are compared as far as all of them went.

    Raises:
      RecordsError: two runs of an arm on a task have the same seed.
    """
    groups: dict[tuple[str, str], list[Records]] = {}
    for run in runs:
        if run.of_kind("eval"):
            members = groups.setdefault((run.task, run.arm), [])
            if twin := next((other for other in members if other.seed == run.seed), None):
                raise RecordsError(
                    f"{twin.name} and {run.name} are both of seed {run.seed} of {run.arm} on {run.task}; leave one out"
                )
            members.append(run)
    return [_curve(task, arm, members) for (task, arm), members in groups.items()]


def _curve(task: str, arm: str, runs: Sequence[Records]) -> Curve:
    evaluations = [run.of_kind("eval") for run in runs]
    shared = min(map(len, evaluations))
    rows = [list(map(_with_replay_used, lines[:shared])) for lines in evaluations]
    freezes = [_with_replay_used(run.of_kind("freeze")[0]) for run in runs if run.of_kind("freeze")]
    return Curve(
        task=task,
        arm=arm,
        seeds=[run.seed for run in runs],
        x={field: np.array([[line[field] for line in lines] for lines in rows], float) for field in AXES},
        scores=np.array([[line["eval_return_mean"] for line in lines] for lines in rows]),
        freeze={field: float(np.mean([line[field] for line in freezes])) for field in AXES} if freezes else None,
    )


def _with_replay_used(line: dict[str, Any]) -> dict[str, Any]:
    return line | {"replay_used": line["replay_bytes"] * line["replay_size"] / line["replay_capacity"]}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run of an arm costs, as its records say it; phases that it does not have are None.

    Attributes:
      task, arm: of the runs.
      steps_per_second, macs_per_step, replay_rows, replay_bytes: by phase.
      env_steps, flops, macs, seconds: of the whole run.
    """

    task: str
    arm: str
    steps_per_second: dict[str, float | None]
    macs_per_step: dict[str, float | None]
    replay_rows: dict[str, float | None]
    replay_bytes: dict[str, float | None]
    env_steps: float
    flops: float
    macs: float
    seconds: float


def costs(runs: Sequence[Records]) -> list[Cost]:
    """Returns mean costs over seeds of the runs that came to their end, for each arm on each task."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if run.finished:
            groups.setdefault((run.task, run.arm), []).append(run.of_kind("end")[-1])
    return [_cost(task, arm, ends) for (task, arm), ends in groups.items()]


def _cost(task: str, arm: str, ends: Sequence[dict[str, Any]]) -> Cost:
    def mean(name: str) -> float | None:
        values = [end[name] for end in ends if end.get(name) is not None]
        return float(np.mean(values)) if values else None

    def by_phase(name: str) -> dict[str, float | None]:
        return {phase: mean(f"{phase}_{name}") for phase in ("full", "frozen")}

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
