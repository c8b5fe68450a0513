"""Runs of Rainbow on Atari at each scale, which the figures share."""

from collections.abc import Sequence
from typing import Any

from experiments.report.content import Comparison
from experiments.runner.spec import Fork, Run

RAINBOW, SEER = "Rainbow", "Rainbow + SEER"
TASKS = {
    "smoke": ("krull",),
    "cpu": ("krull", "qbert", "road_runner"),
    "paper": ("alien", "amidar", "bank_heist", "crazy_climber", "krull", "qbert", "road_runner", "seaquest"),
}
# Tasks of figure 9, of the ablations and, at the scales smoke and cpu, of figure 4.
FEW_TASKS = {"smoke": ("krull",), "cpu": ("krull",), "paper": ("alien", "krull")}
SEEDS = {"smoke": (0,), "cpu": (0, 1), "paper": (0, 1, 2, 3, 4)}
# Multiply-accumulates (the paper's FLOPs) at which scores are compared.
BUDGETS = {"cpu": 15e12, "paper": 45e12}
# Checkpoints of trunks, and therefore of all runs, are kept at the freezes of all runs that fork them.
_SCALES: dict[str, dict[str, Any]] = {
    # A full ring before the freeze gives most runs the same programs.
    "smoke": {
        "total_steps": 240,
        "learn_start": 60,
        "log_every": 40,
        "eval_every": 120,
        "eval_episodes": 1,
        "checkpoint_every": 0,
        "params_every": 120,
        "env.image_size": 42,
        "env.crop_size": 42,
        "env.max_episode_steps": 60,
        "agent.hidden": 16,
        "agent.batch_size": 4,
        "agent.n_step": 3,
        "replay.capacity": 100,
        "checkpoint_at": (90, 120),
        "seer.freeze_step": 120,
    },
    # The paper's hyperparameters. Its only published freeze time is that of Alien, a third of the baseline's steps.
    "cpu": {
        "checkpoint_every": 10_000,
        "checkpoint_at": (5000, 10_000, 20_000, 40_000),
        "params_every": 10_000,
        "seer.freeze_step": 20_000,
    },
    "paper": {
        "checkpoint_at": (10_000, 25_000, 50_000, 100_000),
        "params_every": 10_000,
        "seer.freeze_step": 50_000,
    },
}


def make_run(
    scale: str,
    task: str,
    seed: int,
    *,
    name: str,
    arm: str,
    preset: str,
    to_budget: bool = False,
    trunk: Run | None = None,
    **changes: Any,
) -> Run:
    """Returns a run on one game.

    Args:
      scale: smoke, cpu or paper.
      task: the game.
      seed: random seed.
      name: of the arm, as part of the run's name.
      arm: label of the arm.
      preset: of `configs/rainbow_atari.py`.
      to_budget: whether the run ends when the budget of the scale is spent; the scale smoke has no budget.
      trunk: run that this one forks at its freeze; None for one that begins with its first step.
      changes: overrides in addition to those of the scale, with __ for dots.
    """
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    # Their reports show no signals, unless an experiment sets a cadence.
    overrides = {"env.task": task, "seed": seed, "seer.signal_every": 0} | _SCALES[scale] | changes
    return Run(
        f"{task}-{name}-s{seed}",
        arm,
        f"configs/rainbow_atari.py:{preset}",
        overrides,
        fork=Fork(trunk.name, overrides["seer.freeze_step"]) if trunk else None,
        budget=BUDGETS.get(scale) if to_budget else None,
    )


def baseline(scale: str, task: str, seed: int) -> Run:
    """Returns a run of Rainbow without SEER, to the budget of the scale."""
    return make_run(scale, task, seed, name="rainbow", arm=RAINBOW, preset="baseline", to_budget=True)


def seer(scale: str, task: str, seed: int) -> Run:
    """Returns a run of Rainbow with SEER, to the budget of the scale; it forks `baseline` at its freeze."""
    trunk = baseline(scale, task, seed)
    return make_run(scale, task, seed, name="seer", arm=SEER, preset="paper", to_budget=True, trunk=trunk)


def at_budget(scale: str, arms: Sequence[str] | None = None) -> list[Comparison]:
    """Returns a comparison of the arms, or of all, at the budget of the scale; without a budget, at the end of runs."""
    if scale not in BUDGETS:
        return [Comparison(arms=arms)]
    budget = BUDGETS[scale]
    return [Comparison(f"Scores at {budget / 1e12:,.0f}T multiply-accumulates", arms, budget=budget)]
