"""Figure 4: scores of Rainbow with 0.07 GB of replay, with and without SEER, and with unlimited replay memory."""

from typing import Any

from experiments.paper import rainbow
from experiments.runner.spec import Experiment, Run

SMALL, SMALL_SEER, UNBOUNDED = "Rainbow, little memory", "Rainbow + SEER, little memory", "Rainbow, unlimited memory"
_STEPS = {"smoke": 240, "cpu": 50_000, "paper": 500_000}
_CAPACITY = {"smoke": 100, "cpu": 10_000, "paper": 10_000}  # frames before the freeze


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    steps = _STEPS[scale]
    settings: dict[str, Any] = {"replay__capacity": _CAPACITY[scale], "total_steps": steps}
    tasks = rainbow.TASKS[scale] if scale == "paper" else rainbow.FEW_TASKS[scale]
    arms: tuple[dict[str, Any], ...] = (
        {"name": "small", "arm": SMALL, "preset": "constrained", "seer__enabled": False},
        {"name": "small-seer", "arm": SMALL_SEER, "preset": "constrained"},
        {"name": "unbounded", "arm": UNBOUNDED, "preset": "baseline", "replay__capacity": steps},
    )
    return [
        rainbow.make_run(scale, task, seed, **(settings | arm))
        for task in tasks
        for seed in rainbow.SEEDS[scale]
        for arm in arms
    ]


EXPERIMENT = Experiment("Rainbow with little memory, with and without SEER", runs, x="env_steps")
