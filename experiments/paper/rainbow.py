"""Runs of Rainbow on Atari at each scale: the settings that the figures share."""

from collections.abc import Sequence
from typing import Any

from experiments.spec import Comparison, Run

RAINBOW, SEER = "Rainbow", "Rainbow + SEER"
TASKS = {
    "smoke": ("krull",),
    "cpu": ("krull", "qbert", "road_runner"),
    "paper": ("alien", "amidar", "bank_heist", "crazy_climber", "krull", "qbert", "road_runner", "seaquest"),
}
# Of the ablations and of figure 9, which show fewer.
FEW_TASKS = {"smoke": ("krull",), "cpu": ("krull",), "paper": ("alien", "krull")}
SEEDS = {"smoke": (0,), "cpu": (0, 1), "paper": (0, 1, 2, 3, 4)}
# Multiply-accumulates, as the paper counts FLOPs, at which scores are compared.
BUDGETS = {"cpu": 15e12, "paper": 45e12}
_SCALES: dict[str, dict[str, Any]] = {
    # Full replay before the freeze: programs are the same for most runs.
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
        "seer.freeze_step": 120,
    },
    # The paper's hyperparameters. It publishes no freeze time but Alien's, a third of what the baseline's budget buys.
    "cpu": {"checkpoint_every": 10_000, "params_every": 10_000, "seer.freeze_step": 20_000},
    "paper": {"params_every": 10_000, "seer.freeze_step": 50_000},
}


def make_run(
    scale: str, task: str, seed: int, *, name: str, arm: str, preset: str, to_budget: bool = False, **changes: Any
) -> Run:
    """Returns a run on one game.

    Args:
      scale: smoke, cpu or paper.
      task: the game.
      seed: of everything.
      name: what the run's name calls the arm.
      arm: label of what is compared.
      preset: of `configs/rainbow_atari.py`.
      to_budget: whether it ends when the scale's budget is spent; a smoke run, whose FLOPs mean nothing, never does.
      changes: overrides beside the scale's, dots as __.
    """
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    overrides = {"env.task": task, "seed": seed} | _SCALES[scale] | changes
    budget = BUDGETS.get(scale) if to_budget else None
    return Run(f"{task}-{name}-s{seed}", arm, f"configs/rainbow_atari.py:{preset}", overrides, budget=budget)


def baseline(scale: str, task: str, seed: int) -> Run:
    """Rainbow as it is, to the budget of its scale."""
    return make_run(scale, task, seed, name="rainbow", arm=RAINBOW, preset="baseline", to_budget=True)


def seer(scale: str, task: str, seed: int) -> Run:
    """Rainbow with SEER, to the budget of its scale."""
    return make_run(scale, task, seed, name="seer", arm=SEER, preset="paper", to_budget=True)


def at_budget(scale: str, arms: Sequence[str] | None = None) -> list[Comparison]:
    """Compares arms, all unless given, at the budget of a scale; smoke runs, which have none, at their ends."""
    if scale not in BUDGETS:
        return [Comparison(arms=arms)]
    budget = BUDGETS[scale]
    return [Comparison(f"Scores at {budget / 1e12:,.0f}T multiply-accumulates", arms, budget=budget)]
