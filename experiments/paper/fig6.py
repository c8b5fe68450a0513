"""Figure 6: CURL with the IMPALA encoder of 15 convolutions, with and without SEER, over FLOPs."""

from experiments.paper import curl
from experiments.runner.spec import Experiment, Run

_TASKS = curl.TASKS | {"paper": ("cartpole-swingup", "walker-walk")}


def runs(scale: str) -> list[Run]:
    """Returns the runs of a scale."""
    arms = (
        {"name": "impala", "arm": "CURL, IMPALA", "seer__enabled": False},
        {"name": "impala-seer", "arm": "CURL + SEER, IMPALA"} | curl.LONGER[scale],
    )
    return [
        curl.make_run(scale, task, seed, preset="paper", encoder__name="impala", **arm)
        for task in _TASKS[scale]
        for seed in curl.FEW_SEEDS[scale]
        for arm in arms
    ]


EXPERIMENT = Experiment("CURL with the IMPALA encoder, with and without SEER, over FLOPs", runs)
