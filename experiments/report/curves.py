"""Learning curves: the evaluations of each arm on each task over seeds, from the records of runs."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report import records
from experiments.report.records import RecordsError, RunRecords
from seer_jax.envs import atari_scores
from seer_jax.run.records import Record

# Fields of an evaluation that may be on the x axis, and the label of that axis.
AXES = {
    "env_steps": "agent steps",
    "frames": "frames",
    "macs_total": "FLOPs (multiply-accumulates)",
    "flops_total": "FLOPs (XLA's count)",
    "seconds": "wall-clock seconds",
    "replay_used": "replay bytes in use",
}


class Trunk(NamedTuple):
    """The arm that the runs of another arm are forks of.

    Attributes:
      arm: its label.
      last_shared: index of the last evaluation that each fork shares with its trunk.
    """

    arm: str
    last_shared: int


@dataclasses.dataclass(frozen=True)
class Curve:
    """Evaluations of one arm on one task, with S seeds and P evaluations of each.

    Attributes:
      task: of the environment.
      arm: label of what was trained.
      seeds: of the runs, in the order of the rows of `x` and `scores`.
      x: `[S, P]` values of each field of `AXES`.
      scores: `[S, P]` mean returns of the evaluations; NaN where one has none.
      human_normalized: `[S, P]` the same as human-normalised scores; NaN where they are not available.
      freeze: mean over seeds of each field of `AXES` at the freeze; None if no run froze its encoder.
      origins: of each seed, the name of the run that its own began as (`records.origin_of`).
      trunk: what the curve shares with that of another arm; None if its runs are not all forks of runs of that arm.
    """

    task: str
    arm: str
    seeds: list[int]
    x: dict[str, np.ndarray]
    scores: np.ndarray
    human_normalized: np.ndarray
    freeze: dict[str, float] | None
    origins: list[str]
    trunk: Trunk | None

    @property
    def first_drawn(self) -> int:
        """Index of the evaluation with which the curve begins where that of its trunk is drawn, too."""
        return self.trunk.last_shared if self.trunk else 0

    def mean_x(self, field: str) -> np.ndarray:
        """Returns the mean over seeds of a field of `AXES`, `[P]`."""
        return self.x[field].mean(axis=0)

    @property
    def mean(self) -> np.ndarray:
        """Mean score over seeds, `[P]`."""
        return self.scores.mean(axis=0)

    @property
    def std(self) -> np.ndarray:
        """Sample standard deviation of the scores over seeds, `[P]`; 0 for a single seed."""
        return self.scores.std(axis=0, ddof=1) if len(self.scores) > 1 else np.zeros(self.scores.shape[1])

    def scores_at(self, field: str, value: float | None, *, human_normalized: bool = False) -> np.ndarray:
        """Returns what `scores_by_seed` does, `[at most S]`."""
        return np.array([*self.scores_by_seed(field, value, human_normalized=human_normalized).values()], float)

    def scores_by_seed(self, field: str, value: float | None, *, human_normalized: bool = False) -> dict[int, float]:
        """Returns the score of each seed's evaluation nearest to `value` of a field of `AXES`.

        A seed is left out if its run ended earlier than `value` by more than the distance of its last two evaluations.

        Args:
          field: of `AXES`.
          value: of the field; None takes the last evaluation of every seed.
          human_normalized: whether to return human-normalised scores.

        Returns:
          Scores of at most S seeds, by seed; NaN where one is not available.
        """
        scores = self.human_normalized if human_normalized else self.scores
        if value is None:
            return dict(zip(self.seeds, scores[:, -1].tolist(), strict=True))
        x = self.x[field]
        reached = x[:, -1] + np.diff(x, axis=1, prepend=0.0)[:, -1] >= value
        nearest = np.abs(x - value).argmin(axis=1)
        rows = zip(self.seeds, reached, nearest, scores, strict=True)
        return {seed: float(row[at]) for seed, is_reached, at, row in rows if is_reached}


def learning_curves(runs: Sequence[RunRecords]) -> list[Curve]:
    """Returns a curve for each arm on each task, in the order in which they first appear.

    Where runs of an arm have different numbers of evaluations, each is cut to the smallest number. Runs without an
    evaluation are left out.

    Raises:
      RecordsError: two runs of an arm on a task have the same seed.
    """
    groups: dict[tuple[str, str], list[RunRecords]] = {}
    for run in runs:
        if run.of_kind("eval"):
            members = groups.setdefault((run.task, run.arm), [])
            if duplicate := next((other for other in members if other.seed == run.seed), None):
                raise RecordsError(
                    f"{duplicate.name} and {run.name} both have seed {run.seed} of {run.arm} on {run.task}; leave one"
                    " out"
                )
            members.append(run)
    evaluated = [run for members in groups.values() for run in members]
    return [_curve(task, arm, members, evaluated) for (task, arm), members in groups.items()]


def _curve(task: str, arm: str, runs: Sequence[RunRecords], all_runs: Sequence[RunRecords]) -> Curve:
    evaluations = [run.of_kind("eval") for run in runs]
    shared = min(map(len, evaluations))
    rows = [list(map(_with_replay_used, lines[:shared])) for lines in evaluations]
    freezes = [_with_replay_used(run.of_kind("freeze")[0]) for run in runs if run.of_kind("freeze")]
    return Curve(
        task=task,
        arm=arm,
        seeds=[run.seed for run in runs],
        x={field: np.array([[line[field] for line in lines] for lines in rows], float) for field in AXES},
        scores=np.array([[line["eval_return_mean"] for line in lines] for lines in rows], float),
        human_normalized=np.array([[_human_normalized(task, line) for line in lines] for lines in rows], float),
        freeze={field: float(np.mean([line[field] for line in freezes])) for field in AXES} if freezes else None,
        origins=[records.origin_of(run, all_runs) for run in runs],
        trunk=_trunk(runs, all_runs),
    )


def _trunk(runs: Sequence[RunRecords], all_runs: Sequence[RunRecords]) -> Trunk | None:
    """Returns what all runs of an arm share with runs of another arm; None if they share no evaluation."""
    trunks = [records.trunk_of(run, all_runs) for run in runs]
    arms = {trunk.arm if trunk else None for trunk in trunks}
    num_shared = min(map(records.num_shared_evaluations, runs, trunks))
    (arm, *others) = arms
    return Trunk(arm, num_shared - 1) if arm and not others and num_shared else None


def _with_replay_used(line: Record) -> Record:
    return line | {"replay_used": line["replay_bytes"] * line["replay_size"] / line["replay_capacity"]}


def _human_normalized(task: str, line: Record) -> float | None:
    """Returns the human-normalised score of an evaluation; None, as in its line, for one that was cut short."""
    score = line["eval_return_mean"]
    return line.get("human_normalized", None if score is None else atari_scores.human_normalized(task, score))
