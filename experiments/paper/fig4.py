"""Figure 4: scores of Rainbow with 0.07 GB of replay, with and without SEER, and with unlimited replay memory."""

import functools

from experiments.paper import rainbow
from experiments.runner.spec import Experiment, Run

SMALL, SMALL_SEER, UNBOUNDED = "Rainbow, little memory", "Rainbow + SEER, little memory", "Rainbow, unlimited memory"
_STEPS = {"smoke": 240, "cpu": 50_000, "paper": 500_000}
_CAPACITY = {"smoke": 100, "cpu": 10_000, "paper": 10_000}  # frames before the freeze


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale; those with SEER fork those with as little memory and without it."""
    tasks = rainbow.TASKS[scale] if scale == "paper" else rainbow.FEW_TASKS[scale]
    return [run for task in tasks for seed in rainbow.SEEDS[scale] for run in _arms(scale, task, seed)]


def _arms(scale: str, task: str, seed: int) -> list[Run]:
    steps, capacity = _STEPS[scale], _CAPACITY[scale]
    make = functools.partial(rainbow.make_run, scale, task, seed, total_steps=steps)
    little = functools.partial(make, preset="constrained", replay__capacity=capacity)
    trunk = little(name="small", arm=SMALL, seer__enabled=False)
    return [
        trunk,
        little(name="small-seer", arm=SMALL_SEER, trunk=trunk),
        make(name="unbounded", arm=UNBOUNDED, preset="baseline", replay__capacity=steps),
    ]


EXPERIMENT = Experiment("Rainbow with little memory, with and without SEER", runs, x="env_steps")
