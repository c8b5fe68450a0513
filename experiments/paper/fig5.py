"""Figure 5: returns of CURL with little replay memory, with and without SEER, and with all the memory it wants."""

from experiments.paper import curl
from experiments.spec import Experiment, Run

_CAPACITY = {"smoke": {"replay__capacity": 60}, "cpu": {"replay__capacity": 1000}, "paper": {}}  # paper: by task


def runs(scale: str) -> list[Run]:
    capacity = _CAPACITY[scale]
    arms = (
        {"name": "small", "arm": "CURL, little memory", "preset": "constrained", "seer__enabled": False} | capacity,
        {"name": "small-seer", "arm": "CURL + SEER, little memory", "preset": "constrained"} | capacity,
        {"name": "curl", "arm": "CURL, all memory", "preset": "baseline"},
    )
    return [
        curl.make_run(scale, task, seed, **arm)
        for task in curl.TASKS[scale]
        for seed in curl.SEEDS[scale]
        for arm in arms
    ]


EXPERIMENT = Experiment("CURL with little memory, with and without SEER", runs, x="env_steps")
