"""When to freeze: runs that fork one trunk and freeze at several steps, and rules that choose among these steps."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.paper import curl, rainbow
from experiments.report import regret
from experiments.report.content import Comparison
from experiments.report.records import RecordsError, RunRecords
from experiments.report.regret import Judged
from experiments.report.tables import Table
from experiments.runner.spec import Experiment, Fork, Run
from experiments.studies import shadow_heads
from experiments.studies.freeze_rules import RULES, Length

_NEVER, _FROZEN = "{}, never frozen", "{}, frozen at {:,}"  # labels of arms


class _Study(NamedTuple):
    """The runs of one algorithm.

    Attributes:
      make_run: as `rainbow.make_run`.
      label: of the algorithm.
      tasks: to train on.
      seeds: of each task.
      budget: multiply-accumulates of each run; None ends runs at their `total_steps`.
      steps: of the freezes.
      fixed: those of `steps` that rules are compared with.
      checkpoints: of the trunk; an arm forks the last of them before its freeze.
      settings: overrides of all runs.
      trunk: overrides of the trunk.
      arms: overrides of its forks.
    """

    make_run: Callable[..., Run]
    label: str
    tasks: Sequence[str]
    seeds: Sequence[int]
    budget: float | None
    steps: Sequence[int]
    fixed: Sequence[int]
    checkpoints: Sequence[int]
    settings: Mapping[str, Any] = {}
    trunk: Mapping[str, Any] = {}
    arms: Mapping[str, Any] = {}

    @property
    def labels(self) -> dict[int | None, str]:
        """The label of each arm, by the step of its freeze; None stands for the trunk, which never freezes."""
        return {None: _NEVER.format(self.label)} | {step: _FROZEN.format(self.label, step) for step in self.steps}


_SHADOWS = pathlib.Path(__file__).parents[1] / "results" / "shadow_heads.json"  # of the kept trunks

_SPARSE = {"checkpoint_every": 0, "params_every": 0}
_STUDIES = {
    "smoke": (
        _Study(
            rainbow.make_run,
            rainbow.RAINBOW,
            ("krull",),
            (0,),
            None,
            (90, 120),
            (90, 120),
            (90, 120),
            settings={"seer__signal_every": 30},
        ),
    ),
    "cpu": (
        _Study(
            rainbow.make_run,
            rainbow.RAINBOW,
            ("krull", "qbert", "road_runner"),
            (0, 1),
            12e12,
            range(5000, 30_001, 5000),
            (5000, 10_000, 20_000, 30_000),
            range(5000, 30_001, 5000),
            settings=_SPARSE | {"seer__signal_every": 1000},
            trunk={"eval_every": 2000},
            arms={"eval_every": 5000},
        ),
        # Learning begins at 1,000 steps. A step after the freeze costs a fortieth of one before it.
        _Study(
            curl.make_run,
            curl.CURL,
            ("cartpole-swingup",),
            (0, 1),
            15e12,
            (2000, 3000, 4000),
            (2000, 3000, 4000),
            (2000, 3000, 4000),
            settings=_SPARSE | {"eval_episodes": 10, "seer__signal_every": 250},
            trunk={"eval_every": 300},
            arms={"eval_every": 2500},
        ),
    ),
    "paper": (
        _Study(
            rainbow.make_run,
            rainbow.RAINBOW,
            rainbow.TASKS["paper"],
            (0, 1, 2),
            45e12,
            (10_000, 20_000, 25_000, *range(30_000, 140_001, 10_000)),
            (10_000, 25_000, 50_000, 100_000),
            (10_000, 20_000, 25_000, *range(30_000, 140_001, 10_000)),
            settings={"seer__signal_every": 1000},
        ),
        _Study(
            curl.make_run,
            curl.CURL,
            curl.TASKS["paper"][:1],
            (0, 1, 2),
            None,
            (5000, 10_000, 20_000, 40_000),
            (5000, 10_000, 20_000, 40_000),
            (5000, 10_000, 20_000, 40_000),
            settings={"seer__signal_every": 1000},
        ),
    ),
}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale: a trunk of each task and seed, and its forks."""
    return [
        run
        for study in _STUDIES[scale]
        for task in study.tasks
        for seed in study.seeds
        for run in _runs_of_trunk(study, scale, task, seed)
    ]


def trunk_of_rainbow(scale: str, task: str, seed: int) -> Run:
    """Returns the trunk of a game, which other experiments fork, too."""
    study = _STUDIES[scale][0]
    return _make_run(study, scale, task, seed, "trunk", study.labels[None], "baseline", **study.trunk)


def _make_run(study: _Study, scale: str, task: str, seed: int, name: str, arm: str, preset: str, **changes: Any) -> Run:
    settings = {"checkpoint_at": tuple(study.checkpoints), **study.settings, **changes}
    run = study.make_run(scale, task, seed, name=name, arm=arm, preset=preset, **settings)
    return dataclasses.replace(run, budget=study.budget)


def _runs_of_trunk(study: _Study, scale: str, task: str, seed: int) -> list[Run]:
    make = functools.partial(_make_run, study, scale, task, seed)
    trunk = make("trunk", study.labels[None], "baseline", **study.trunk)
    arms = []
    for step in study.steps:
        arm = make(f"frozen-{step}", study.labels[step], "paper", seer__freeze_step=step, **study.arms)
        before = max(each for each in study.checkpoints if each <= step)
        arms.append(dataclasses.replace(arm, fork=Fork(trunk.name, before)))
    return [trunk, *arms]


def tables(scale: str, runs: Sequence[RunRecords]) -> list[Table]:
    """Returns the regret of fixed steps and of rules for each algorithm with a task of which all runs are there.

    Then follow that of rules over all algorithms, if there are several, and rules that were chosen without the task. A
    table without rows says why runs cannot be judged.
    """
    found, everywhere, names = list[Table](), dict[regret.Key, Judged](), [rule.name for rule in RULES]
    for study in _STUDIES[scale]:
        title = f"Regret of {study.label}, last fifth of {study.budget or 0:.3g} multiply-accumulates"
        try:
            judged = _judge(study, runs)
        except RecordsError as error:
            found.append(Table(title, ["freeze", "regret"], [], f"Unknown: {error}."))
            continue
        if judged:
            found.append(regret.regret_table(title, judged, names))
            everywhere |= judged
    if len({tuple(each.fixed) for each in everywhere.values()}) > 1:
        found.append(regret.regret_table("Regret over all tasks and algorithms", everywhere, names))
    if len({task for task, _ in everywhere}) > 1:
        found.append(regret.left_out_table(everywhere, names))
    return found


def _judge(study: _Study, runs: Sequence[RunRecords]) -> dict[regret.Key, Judged]:
    """Returns the scores of the runs of each trunk, of tasks with the trunk and all fixed steps of all seeds.

    There are none without a budget.

    Raises:
      RecordsError: a run cannot be judged.
    """
    if study.budget is None:
        return {}
    by_key = {(run.task, run.seed, run.arm): run for run in runs if run.end is not None}
    needed = [study.labels[step] for step in (None, *study.fixed)]
    complete = [
        task for task in study.tasks if all((task, seed, arm) in by_key for seed in study.seeds for arm in needed)
    ]
    judged = {}
    for task in complete:
        for seed in study.seeds:
            arms = {step: by_key.get((task, seed, arm)) for step, arm in study.labels.items()}
            trunk = by_key[task, seed, study.labels[None]]
            _check_signals(trunk)
            judged[task, seed] = Judged(
                by_step={step: regret.score(run, study.budget) for step, run in arms.items() if run is not None},
                fixed=study.fixed,
                steps=_steps_of_rules(trunk, study.steps, _length(arms)),
            )
    return judged


def _check_signals(trunk: RunRecords) -> None:
    """Raises RecordsError unless a run measured signals up to its end."""
    every = trunk.config["seer"].get("signal_every") or 0
    measured = max((signal["env_steps"] for signal in trunk.of_kind("signal")), default=0)
    if measured < trunk.config["total_steps"] - every or not every:
        raise RecordsError(f"{trunk.name} did not measure signals up to its end; remove it, and train it again")


def _length(arms: Mapping[int | None, RunRecords | None]) -> Length:
    """Returns the length of runs of one budget by the step of their freeze, which it is linear in."""
    known = [(step, run.config["total_steps"]) for step, run in arms.items() if step is not None and run is not None]
    freezes, lengths = np.array(known, float).T
    slope, offset = np.polyfit(freezes, lengths, 1)
    return lambda step: slope * step + offset


def _steps_of_rules(trunk: RunRecords, steps: Sequence[int], length: Length) -> dict[str, int | None]:
    """Returns the step of the arm that is nearest to where each rule freezes; None for the trunk, which ends unfrozen.

    Rules that need what the signals do not have are left out.
    """
    shadows = {result["env_steps"]: result for result in shadow_heads.results_of(trunk, _SHADOWS)}
    signals = [signal | shadows.get(signal["env_steps"], {}) for signal in trunk.of_kind("signal")]
    end = trunk.config["total_steps"]
    nearest = {}
    for rule in (rule for rule in RULES if rule.can_decide(signals)):
        decided = rule.decide(signals, length) or end
        step = min((*steps, end), key=lambda step: abs(step - decided))
        nearest[rule.name] = step if step in steps else None
    return nearest


def _title(budget: float) -> str:
    return f"Scores at {budget / 1e12:,.0f}T multiply-accumulates"


EXPERIMENT = Experiment(
    "When to freeze",
    runs,
    comparisons=lambda scale: (
        [
            Comparison(_title(study.budget), list(study.labels.values()), budget=study.budget)
            for study in _STUDIES[scale]
            if study.budget is not None
        ]
        or [Comparison()]
    ),
    tables=tables,
    note=(
        "All runs of a task and seed fork one trunk. A rule is judged by the arm whose freeze is nearest to the step at"
        " which it decides; the end of the trunk counts as such an arm."
    ),
)
