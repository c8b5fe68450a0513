"""Figure 5: returns of CURL with little replay memory, with and without SEER, and with all the memory it wants."""

from experiments.paper import curl
from experiments.spec import Experiment, Run

# The paper's capacity is by task, and its curves are over steps.
_SMALL = {
    "smoke": {"replay__capacity": 60},
    "cpu": {"replay__capacity": 1000, "total_steps": 30_000},
    "paper": {},
}
_ALL = {"smoke": {"name": "curl"}, "cpu": {"name": "unbounded", "total_steps": 30_000}, "paper": {"name": "curl"}}


def runs(scale: str) -> list[Run]:
    small = _SMALL[scale]
    arms = (
        {"name": "small", "arm": "CURL, little memory", "preset": "constrained", "seer__enabled": False} | small,
        {"name": "small-seer", "arm": "CURL + SEER, little memory", "preset": "constrained"} | small,
        {"arm": "CURL, all memory", "preset": "baseline"} | _ALL[scale],
    )
    return [
        curl.make_run(scale, task, seed, **arm)
        for task in curl.TASKS[scale]
        for seed in curl.SEEDS[scale]
        for arm in arms
    ]


EXPERIMENT = Experiment("CURL with little memory, with and without SEER", runs, x="env_steps")
