"""Spending what the freeze saves: more updates per agent step, with and without resets of the heads."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper import freeze_time, rainbow
from experiments.report.content import Comparison
from experiments.runner.spec import Experiment, Fork, Run

_BASELINE, _SEER = "Rainbow, replay ratio {}", "Rainbow + SEER, replay ratio {} after the freeze"


class _Scale(NamedTuple):
    """The arms of a scale.

    Attributes:
      tasks: to train on.
      seeds: of each task.
      total_steps: agent steps of each run.
      fork_at: agent steps of the trunk at which runs fork it, and their encoder freezes.
      baselines: replay ratios of runs without SEER, from the fork on.
      ratios: replay ratios of runs with SEER, after the freeze.
      reset_heads_every: updates between two resets of the heads, of half of the runs with SEER.
      settings: overrides of all runs.
    """

    tasks: Sequence[str]
    seeds: Sequence[int]
    total_steps: int
    fork_at: int
    baselines: Sequence[int]
    ratios: Sequence[int]
    reset_heads_every: int
    settings: Mapping[str, Any] = {}


_SCALES = {
    "smoke": _Scale(("krull",), (0,), 240, 90, (2,), (2,), 100),
    "cpu": _Scale(
        ("krull", "qbert", "road_runner"),
        (0, 1),
        100_000,
        5000,
        (1, 2),
        (1, 2, 4),
        40_000,  # as D'Oro et al. 2023 on Atari
        {"eval_every": 5000, "checkpoint_every": 20_000, "params_every": 0},
    ),
    "paper": _Scale(rainbow.TASKS["paper"], (0, 1, 2), 100_000, 10_000, (1, 2), (1, 2, 4), 40_000),
}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale: trunks of the experiment `freeze_time`, and their forks."""
    arms = _SCALES[scale]
    return [run for task in arms.tasks for seed in arms.seeds for run in _runs_of_trunk(arms, scale, task, seed)]


def _runs_of_trunk(arms: _Scale, scale: str, task: str, seed: int) -> list[Run]:
    trunk = freeze_time.trunk_of_rainbow(scale, task, seed)

    def make(name: str, arm: str, preset: str, **changes: Any) -> Run:
        settings = {"total_steps": arms.total_steps, "checkpoint_at": (), **arms.settings, **changes}
        run = rainbow.make_run(scale, task, seed, name=name, arm=arm, preset=preset, **settings)
        return dataclasses.replace(run, fork=Fork(trunk.name, arms.fork_at))

    forks = [
        make(f"ratio-{ratio}", _BASELINE.format(ratio), "baseline", replay_ratio=ratio) for ratio in arms.baselines
    ]
    for ratio in arms.ratios:
        name, label = f"seer-ratio-{ratio}", _SEER.format(ratio)
        values = {"seer__freeze_step": arms.fork_at, "seer__replay_ratio": ratio}
        resets = {"seer__reset_heads_every": arms.reset_heads_every}
        forks.append(make(name, label, "paper", **values))
        forks.append(make(f"{name}-resets", f"{label}, resets", "paper", **values, **resets))
    return [trunk, *forks]


def _comparisons(scale: str) -> list[Comparison]:
    arms = [run.arm for run in runs(scale) if run.fork is not None]
    return [Comparison(f"Scores after {_SCALES[scale].total_steps:,} agent steps", list(dict.fromkeys(arms)))]


EXPERIMENT = Experiment(
    "Replay ratio after the freeze",
    runs,
    x="env_steps",
    comparisons=_comparisons,
    note=(
        "All runs of a game and seed fork one trunk, which had one update per agent step. Runs with SEER freeze at the"
        " fork. Resets put the heads back to new initial values; the encoder stays."
    ),
)
