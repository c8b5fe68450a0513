"""Figure 5: returns of CURL with little replay memory, with and without SEER, and with unlimited replay memory."""

from experiments.paper import curl
from experiments.runner.spec import Experiment, Run

# At the scale paper the presets of the tasks hold the capacities.
_SMALL = {
    "smoke": {"replay__capacity": 60},
    "cpu": {"replay__capacity": 1000, "total_steps": 30_000},
    "paper": {},
}
_UNBOUNDED = {"smoke": {"name": "curl"}, "cpu": {"name": "unbounded", "total_steps": 30_000}, "paper": {"name": "curl"}}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    small = _SMALL[scale]
    arms = (
        {"name": "small", "arm": "CURL, little memory", "preset": "constrained", "seer__enabled": False} | small,
        {"name": "small-seer", "arm": "CURL + SEER, little memory", "preset": "constrained"} | small,
        {"arm": "CURL, unlimited memory", "preset": "baseline"} | _UNBOUNDED[scale],
    )
    return [
        curl.make_run(scale, task, seed, **arm)
        for task in curl.TASKS[scale]
        for seed in curl.SEEDS[scale]
        for arm in arms
    ]


EXPERIMENT = Experiment("CURL with little memory, with and without SEER", runs, x="env_steps")
