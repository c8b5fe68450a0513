"""Rules that say when to freeze, judged by regret: what a run lost against the best of some fixed steps.

The score of a run is the mean of its evaluations in the last fifth of a budget of multiply-accumulates. All runs of one
task and seed fork one trunk, so that they differ in the step of the freeze alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.report import statistics
from experiments.report.records import RecordsError, RunRecords
from experiments.report.tables import Table
from seer_jax.envs import atari_scores

LAST_SHARE = 0.2  # of the budget, whose evaluations count
MIN_EPISODES = 30
_LEAST_SCORE = 1e-6  # normalised
_HIGHEST_CONTROL_RETURN = 1000.0  # of DeepMind Control, by which its scores are divided

_NOTE = (
    "Regret is the normalised score of the best fixed step of the same task and seed, minus that of the row. It is"
    " never negative for a fixed step. The best of several noisy scores is too high, so that all regrets are. Medians"
    " are over all tasks and seeds; brackets hold 95% intervals of a bootstrap over the seeds of each task, which few"
    " seeds make too narrow. Steps are the lowest and the highest over tasks and seeds."
)

_LEFT_OUT_NOTE = (
    "Median regrets over seeds, and there also over tasks, as shares of the best fixed step's score. A rule that was"
    " chosen among many on the tasks that judge it looks better than it is; here it was not."
)

Key = tuple[str, int]  # task and seed


@dataclasses.dataclass(frozen=True)
class Judged:
    """The scores of runs of one trunk.

    Attributes:
      by_step: normalised score by the step of the freeze, of the runs that are there; None stands for the run without a
        freeze.
      fixed: the steps that others are compared with, all of which are there.
      steps: where each rule freezes, by its name; None for a rule that never does. One that was not tried is missing.
    """

    by_step: Mapping[int | None, float]
    fixed: Sequence[int]
    steps: Mapping[str, int | None]

    @property
    def best(self) -> float:
        """The score of the best fixed step."""
        return max(self.by_step[step] for step in self.fixed)

    def regret(self, step: int | None) -> float:
        """Returns how far the score of a step, of which there is a run, lies below that of the best fixed one."""
        return self.best - self.by_step[step]

    def relative_regret(self, step: int | None) -> float:
        """Returns the regret as a share of the best score; 0 is no regret also where no fixed step scores anything."""
        return self.regret(step) / max(abs(self.best), _LEAST_SCORE)

    def knows(self, rule: str) -> bool:
        """Returns whether a rule was tried, and there is a run that was frozen at its step."""
        return rule in self.steps and self.steps[rule] in self.by_step


def score(run: RunRecords, budget: float) -> float:
    """Returns the mean return of the evaluations in the last fifth of a budget, normalised.

    Scores of games are human-normalised; returns of DeepMind Control are divided by 1,000.

    Args:
      run: a finished run.
      budget: multiply-accumulates.

    Raises:
      RecordsError: the run did not reach the budget, or was evaluated on fewer than 30 episodes in its last fifth.
    """
    if run.lines[-1]["macs_total"] < budget:
        raise RecordsError(f"{run.name} ended before {budget:.3g} multiply-accumulates")
    lines = [line for line in run.of_kind("eval") if line["macs_total"] >= (1 - LAST_SHARE) * budget]
    returns = np.concatenate([line["eval_returns"] for line in lines]) if lines else np.zeros(0)
    if returns.size < MIN_EPISODES:
        raise RecordsError(
            f"{run.name} has {returns.size} episodes of evaluation in the last fifth of {budget:.3g}"
            f" multiply-accumulates, and {MIN_EPISODES} are needed; set eval_every lower"
        )
    normalised = atari_scores.human_normalized(run.task, float(returns.mean()))
    return float(returns.mean()) / _HIGHEST_CONTROL_RETURN if normalised is None else normalised


def regret_table(title: str, judged: Mapping[Key, Judged], rules: Sequence[str]) -> Table:
    """Returns a row for each fixed step, for no freeze and for each rule.

    A rule has no regret where a run is missing that was frozen at its step. Fixed steps have rows if they are the same
    everywhere.

    Args:
      title: of the table.
      judged: by task and seed, as many seeds of each task.
      rules: names of the rules to show.
    """
    tasks = list(dict.fromkeys(task for task, _ in judged))
    (fixed, *others) = {tuple(each.fixed) for each in judged.values()}
    choices = {} if others else {f"{step:,}": dict.fromkeys(judged, step) for step in fixed}
    choices |= {"never": dict.fromkeys(judged)}
    choices |= {name: {key: each.steps[name] for key, each in judged.items() if name in each.steps} for name in rules}
    rows = []
    for name, steps in choices.items():
        if missing := [key for key, each in judged.items() if name in rules and not each.knows(name)]:
            which = ", ".join(f"{task} {seed}" for task, seed in missing)
            rows.append([name, _steps(steps), *[""] * len(tasks), f"not tried: {which}", ""])
            continue
        regrets = {key: judged[key].regret(step) for key, step in steps.items()}
        relative = {key: judged[key].relative_regret(step) for key, step in steps.items()}
        by_task = [_mean(regrets, task) for task in tasks]
        rows.append([name, _steps(steps), *by_task, _summary(relative, tasks), _summary(regrets, tasks)])
    return Table(
        title=title,
        head=["freeze", "steps", *(f"regret, {task}" for task in tasks), "median, share of the best", "median"],
        rows=rows,
        note=_NOTE,
    )


def left_out_table(judged: Mapping[Key, Judged], rules: Sequence[str]) -> Table:
    """Returns a row for each task: which rule the other tasks choose, and its regret on this one.

    Args:
      judged: of at least two tasks.
      rules: names of the rules to choose from; those that were not tried everywhere are left out.
    """
    tasks = list(dict.fromkeys(task for task, _ in judged))
    tried = [rule for rule in rules if all(each.knows(rule) for each in judged.values())]

    def median(rule: str, keys: Sequence[Key]) -> float:
        return float(np.median([judged[key].relative_regret(judged[key].steps[rule]) for key in keys]))

    rows = []
    for task in tasks:
        here, there = ([key for key in judged if (key[0] == task) == wanted] for wanted in (True, False))
        if tried:
            chosen = min(tried, key=lambda rule: median(rule, there))
            rows.append([task, chosen, f"{median(chosen, there):.3f}", f"{median(chosen, here):.3f}"])
    return Table(
        title="Rules that were chosen without the task",
        head=["task", "rule with the lowest median regret on the others", "there", "here"],
        rows=rows,
        note=_LEFT_OUT_NOTE,
    )


def _mean(regrets: Mapping[Key, float], task: str) -> str:
    return f"{np.mean([regret for (name, _), regret in regrets.items() if name == task]):.3f}"


def _steps(steps: Mapping[Key, int | None]) -> str:
    found = sorted({step for step in steps.values() if step is not None})
    texts = [f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"] if found else []
    never = sum(step is None for step in steps.values())
    return ", ".join([*texts, *([f"{never} never"] if never else [])])


def _summary(values: Mapping[Key, float], tasks: Sequence[str]) -> str:
    """Returns the median over all tasks and seeds with its interval."""
    table = np.array([[value for (name, _), value in values.items() if name == task] for task in tasks]).T

    def median(x: np.ndarray) -> np.ndarray:
        return np.median(x, axis=(-2, -1))

    low, high = statistics.confidence_interval(median, table)
    return f"{float(median(table)):.3f} [{float(low):.3f}, {float(high):.3f}]"
