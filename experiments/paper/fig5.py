"""Figure 5: returns of CURL with little replay memory, with and without SEER, and with unlimited replay memory."""

import functools
from typing import Any

from experiments.paper import curl
from experiments.runner.spec import Experiment, Run

# At the scale paper the presets of the tasks hold the capacities.
_SMALL: dict[str, dict[str, Any]] = {
    "smoke": {"replay__capacity": 60},
    "cpu": {"replay__capacity": 1000, "total_steps": 30_000},
    "paper": {},
}
_UNBOUNDED: dict[str, dict[str, Any]] = {
    "smoke": {"name": "curl"},
    "cpu": {"name": "unbounded", "total_steps": 30_000},
    "paper": {"name": "curl"},
}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale; those with SEER fork those with as little memory and without it."""
    return [run for task in curl.TASKS[scale] for seed in curl.SEEDS[scale] for run in _arms(scale, task, seed)]


def _arms(scale: str, task: str, seed: int) -> list[Run]:
    make = functools.partial(curl.make_run, scale, task, seed)
    little = functools.partial(make, preset="constrained", **_SMALL[scale])
    trunk = little(name="small", arm="CURL, little memory", seer__enabled=False)
    return [
        trunk,
        little(name="small-seer", arm="CURL + SEER, little memory", trunk=trunk),
        make(arm="CURL, unlimited memory", preset="baseline", **_UNBOUNDED[scale]),
    ]


EXPERIMENT = Experiment("CURL with little memory, with and without SEER", runs, x="env_steps")
